"""Door to ShaSpec (Wang et al., CVPR 2023): features that modalities share fill in for those of a missing one."""

from nnunetv2_missmod.methods.shaspec.trainer import ShaSpecTrainer

__all__ = ["ShaSpecTrainer"]
