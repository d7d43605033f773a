"""Door to DC-Seg (Li et al., MICCAI 2025): anatomy shared by the patient, style shared by the modality."""

from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer

__all__ = ["DCSegTrainer"]
