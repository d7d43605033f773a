"""Door to MST-KDNet (Zhu et al., MICCAI 2025): a student matches its teacher's attention, tokens, logits and style."""

from nnunetv2_missmod.methods.mstkdnet.trainer import MSTKDNetTrainer

__all__ = ["MSTKDNetTrainer"]
