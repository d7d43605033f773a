"""The training step of mmFormer."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.building_blocks.network import unwrapped
from nnunetv2_missmod.methods.mmformer.network import MmFormerNet, MmFormerOutput
from nnunetv2_missmod.training.separate import SeparateTrainer
from nnunetv2_missmod.training.trainer import Batch


class MmFormerTrainer(SeparateTrainer):
    """A transformer within each modality and one across them (mmFormer, Zhang et al. 2022).

    The ablations are a weight of zero, ``separate_weight``, nnU-Net's ``enable_deep_supervision``, and the network's
    ``intra_layers`` and ``inter_layers``.
    """

    separate_weight = 1.0  # of L_sep, the sum over modalities (released code)

    num_epochs = 250  # chosen; released code: 100 of nnU-Net's at batch 8, 796 at batch 1
    initial_lr = 2e-4
    weight_decay = 1e-4
    optimizer_name = "adam"
    amsgrad = True

    build_network = staticmethod(MmFormerNet.from_plans)

    def deep_supervision_scales(self) -> list[list[float]] | None:
        """Scales of the decoder's outputs: it starts at the level of the tokens, which may not be the bottleneck."""
        scales = super().deep_supervision_scales()
        return None if scales is None else scales[: len(unwrapped(self.network).fusions) - 1]

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """L = L_fuse + L_sep + L_dec; L_dec is the deep supervision of D_fuse."""
        present, alone = self.draw_subset(batch.available), self.draw_alone(batch.available)
        out: MmFormerOutput = self.network(batch.images, present, alone.decoded)
        return {
            "segmentation": self.loss(out.logits, batch.target),
            "separate": self.separate_term(out.separate_logits, alone, batch.target),
        }
