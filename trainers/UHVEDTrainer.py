"""Door to U-HVED (Dorent et al., MICCAI 2019): a Gaussian per modality, whose product stands for any subset."""

from nnunetv2_missmod.methods.uhved.trainer import UHVEDTrainer

__all__ = ["UHVEDTrainer"]
