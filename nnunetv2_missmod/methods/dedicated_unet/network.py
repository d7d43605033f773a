"""nnU-Net's own network of the plan, with a channel for each modality of one subset."""

from nnunetv2_missmod.building_blocks.dedicated import DedicatedOutput, DedicatedUNet

__all__ = ["DedicatedOutput", "DedicatedUNet"]
