"""Door to RFNet (Ding et al., ICCV 2021): the modalities are weighed anew in each region of a coarse segmentation."""

from nnunetv2_missmod.methods.rfnet.trainer import RFNetTrainer

__all__ = ["RFNetTrainer"]
