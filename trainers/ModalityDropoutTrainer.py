"""Door to modality dropout, the baseline: nnU-Net with a random subset of the modalities dropped per sample."""

from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer

__all__ = ["ModalityDropoutTrainer"]
