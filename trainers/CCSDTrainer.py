"""Door to CCSD (Xie et al., KBS 2026): all modalities teach their subsets, along a path of removals as well."""

from nnunetv2_missmod.methods.ccsd.trainer import CCSDTrainer

__all__ = ["CCSDTrainer"]
