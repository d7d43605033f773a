"""Door to the dedicated U-Net: nnU-Net of one subset of the modalities, which the plan names."""

from nnunetv2_missmod.methods.dedicated_unet.trainer import DedicatedUNetTrainer

__all__ = ["DedicatedUNetTrainer"]
