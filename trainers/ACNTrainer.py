"""Door to ACN: one model per subset of the modalities, taught by a path that sees them all."""

from nnunetv2_missmod.methods.acn.trainer import ACNTrainer

__all__ = ["ACNTrainer"]
