"""Door to mmFormer (Zhang et al., MICCAI 2022): a transformer within each modality and one across them."""

from nnunetv2_missmod.methods.mmformer.trainer import MmFormerTrainer

__all__ = ["MmFormerTrainer"]
