"""The training step of M2FTrans."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.building_blocks.region_fusion import region_loss
from nnunetv2_missmod.methods.m2ftrans.network import M2FTransNet, M2FTransOutput
from nnunetv2_missmod.modalities import sample_subset
from nnunetv2_missmod.training.separate import SeparateTrainer
from nnunetv2_missmod.training.trainer import Batch


class M2FTransTrainer(SeparateTrainer):
    """Fusion tokens collect what the present modalities hold, and weigh their maps (M2FTrans, Shi et al. 2024).

    The ablations are weights of zero, ``separate_weight`` and ``region_weight``, and constants of the network.
    """

    separate_weight = 1.0  # of L_sep, the sum over modalities (released code)
    region_weight = 5.0  # of L_prm, a mean over levels; released: a sum of 5
    one_subset_per_batch = False  # the paper's experiments: True, says its author; the released code since: False

    num_epochs = 600  # 1000 epochs of 150 steps (released code)
    initial_lr = 2e-4
    weight_decay = 1e-4
    optimizer_name = "adamw"
    amsgrad = True

    build_network = staticmethod(M2FTransNet.from_plans)

    def draw_subset(self, available: Tensor) -> Tensor:
        """Draw subsets (B, M), uniformly over those of what is available, of each sample or one for all samples.

        One for all: samples that have the same modalities get the same subset of them.
        """
        return sample_subset(available, self.generator, self.one_subset_per_batch)

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """L = L_fuse + L_sep + L_prm."""
        present, alone = self.draw_subset(batch.available), self.draw_alone(batch.available)
        out: M2FTransOutput = self.network(batch.images, present, alone.decoded)
        return {
            "segmentation": self.loss(out.logits, batch.target),
            "separate": self.separate_term(out.separate_logits, alone, batch.target),
            "regions": self.region_weight * region_loss(self.loss, out.region_logits, batch.target),
        }
