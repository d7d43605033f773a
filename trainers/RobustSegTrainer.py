"""Door to RobustSeg (Chen et al., MICCAI 2019): content of all modalities through gates, an appearance of each."""

from nnunetv2_missmod.methods.robustseg.trainer import RobustSegTrainer

__all__ = ["RobustSegTrainer"]
