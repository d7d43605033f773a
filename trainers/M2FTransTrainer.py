"""Door to M2FTrans (Shi et al., JBHI 2024): fusion tokens attend to the modalities present and weigh their maps."""

from nnunetv2_missmod.methods.m2ftrans.trainer import M2FTransTrainer

__all__ = ["M2FTransTrainer"]
