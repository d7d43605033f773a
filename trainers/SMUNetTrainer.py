"""Door to SMU-Net: one model per subset of the modalities, whose content and style match those of all."""

from nnunetv2_missmod.methods.smunet.trainer import SMUNetTrainer

__all__ = ["SMUNetTrainer"]
