"""The training step of RFNet."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.building_blocks.region_fusion import region_loss
from nnunetv2_missmod.methods.rfnet.network import RFNet, RFNetOutput
from nnunetv2_missmod.training.separate import SeparateTrainer
from nnunetv2_missmod.training.trainer import Batch

MANY_OUTPUTS = 20  # chosen: with four modalities five times the encoders' maps


class RFNetTrainer(SeparateTrainer):
    """In each region the modalities are weighed anew, and each alone must segment (RFNet, Ding et al. 2021).

    The ablations are weights of zero, ``separate_weight`` and ``region_weight``, and the network's ``fusion``.
    """

    separate_weight = 1.0  # of L_sep, the sum over modalities (released code)
    region_weight = 4.0  # of L_prm, a mean over levels; released: a sum of 4
    warm_up_fraction = 20 / 300  # of the epochs at the start, without L_fuse (released code)

    num_epochs = 180  # 300 epochs of 150 steps (released code)
    initial_lr = 2e-4
    weight_decay = 1e-4
    optimizer_name = "adam"
    amsgrad = True

    build_network = staticmethod(RFNet.from_plans)

    def initialize(self) -> None:
        """Set up everything as nnU-Net does; the network is told how the segmentation's outputs exclude each other."""
        self.set_network_constants(overlapping_regions=self.label_manager.has_regions)
        super().initialize()
        outputs = self.label_manager.num_segmentation_heads
        if outputs > MANY_OUTPUTS:
            self.print_to_log_file(
                f"WARNING: {outputs} outputs. The fusion holds a copy of every level's maps for each of them. "
                'Where memory lacks, train on fewer labels, or without region fusion: network constant fusion "concat".'
            )

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """L = L_fuse + L_sep + L_prm."""
        present, alone = self.draw_subset(batch.available), self.draw_alone(batch.available)
        out: RFNetOutput = self.network(batch.images, present, alone.decoded)
        return {
            "segmentation": self.fusion_weight() * self.loss(out.logits, batch.target),
            "separate": self.separate_term(out.separate_logits, alone, batch.target),
            "regions": self.region_weight * region_loss(self.loss, out.region_logits, batch.target),
        }

    def fusion_weight(self) -> float:
        """Weight of L_fuse: zero during the warm-up, not left out, so that every parameter has its gradient."""
        return float(self.current_epoch >= int(self.warm_up_fraction * self.num_epochs))
