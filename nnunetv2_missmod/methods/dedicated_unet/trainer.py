"""The pipeline's loss of one subset of the modalities, always the same."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.methods.dedicated_unet.network import DedicatedOutput, DedicatedUNet
from nnunetv2_missmod.training.dedicated import DedicatedTrainer, counted_alone
from nnunetv2_missmod.training.trainer import Batch


class DedicatedUNetTrainer(DedicatedTrainer):
    """nnU-Net of one subset of the modalities alone: what a model that serves every subset has to reach."""

    build_network = staticmethod(DedicatedUNet.from_plans)

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Segment the cases that have the subset."""
        out: DedicatedOutput = self.network(batch.images, batch.available)
        counts = self.has_subset(batch.available)
        kept = counted_alone(out.logits, batch.target, counts, self.label_manager.has_regions)
        return {"segmentation": self.loss(*kept)}
