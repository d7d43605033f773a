"""Door to the first stage of M3AE (Liu et al., AAAI 2023): masked images of few modalities are rebuilt."""

from nnunetv2_missmod.methods.m3ae.pretraining import M3AEPretrainTrainer

__all__ = ["M3AEPretrainTrainer"]
