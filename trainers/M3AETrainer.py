"""Door to the second stage of M3AE (Liu et al., AAAI 2023): two subsets of a case are segmented alike."""

from nnunetv2_missmod.methods.m3ae.trainer import M3AETrainer

__all__ = ["M3AETrainer"]
