"""Modality dropout: the pipeline's loss on a random subset of each case's modalities."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.methods.modality_dropout.network import ModalityDropoutNet
from nnunetv2_missmod.training.trainer import Batch, MissingModalityTrainer


class ModalityDropoutTrainer(MissingModalityTrainer):
    """nnU-Net with a random subset of the modalities dropped per sample: the baseline."""

    build_network = staticmethod(ModalityDropoutNet.from_plans)

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Segment from what the draw left."""
        out = self.network(batch.images, self.draw_subset(batch.available))
        return {"segmentation": self.loss(out.logits, batch.target)}
