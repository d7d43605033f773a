"""The training step of M3AE's second stage: segmentation from two subsets at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.network import unwrapped
from nnunetv2_missmod.building_blocks.precision import full_precision
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.methods.m3ae.checkpoint import find_pretrained, load_pretrained
from nnunetv2_missmod.methods.m3ae.losses import consistency_loss
from nnunetv2_missmod.methods.m3ae.masking import drop_in_two_ways
from nnunetv2_missmod.methods.m3ae.network import M3AENet, M3AEOutput
from nnunetv2_missmod.methods.m3ae.stage import M3AEStage
from nnunetv2_missmod.training.trainer import Batch

QUARTER = 2  # index, finest first, of the logits at 1/4 of the resolution
UPSAMPLING = {2: "bilinear", 3: "trilinear"}


class M3AETrainer(M3AEStage):
    """Stage 2 of M3AE (Liu et al. 2023): segment two random subsets of a case, whose bottlenecks must agree.

    The ablations of Table 3: ``pretrained = false`` (a), a pretraining with ``visible_fraction = 1`` (b),
    ``substitute = "zero"`` (c) or ``"mean"`` (d) in both stages, ``consistency_weight = 0`` (e).
    """

    pretrained = True  # start from the checkpoint of the pretraining on the same plan, configuration and fold
    pretraining = "M3AEPretrainTrainer"  # the trainer that wrote it
    consistency_weight = 0.1  # lambda of stage 2's objective
    consistency_at = "bottleneck"  # "logits": those at 1/4 of the resolution, as the released run

    num_epochs = 263  # 300 epochs of 219 steps
    weight_decay = 1e-4

    build_network = staticmethod(M3AENet.from_plans)

    # --- set-up -------------------------------------------------------------------------------------------------------

    def apply_plan_overrides(self) -> None:
        """Apply the plan's overrides and check those that are words."""
        super().apply_plan_overrides()
        check_choice("consistency_at", self.consistency_at, ("bottleneck", "logits"))

    def initialize(self) -> None:
        """Set up everything, and notice when weights are loaded: by --c, --val or -pretrained_weights."""
        self.weights_were_loaded = False
        super().initialize()
        unwrapped(self.network).register_load_state_dict_post_hook(self.note_loaded_weights)

    def note_loaded_weights(self, network: nn.Module, incompatible_keys: Any) -> None:
        """Remember it; a hook of torch, hence the arguments."""
        self.weights_were_loaded = True

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Leave out x_sub, which stays as pretraining left it."""
        return [{"params": [p for p in self.network.parameters() if p.requires_grad]}]

    def on_train_start(self) -> None:
        """Start from the pretraining's checkpoint, unless weights were loaded already."""
        if not self.was_initialized:
            self.initialize()
        if self.pretrained and not self.weights_were_loaded:
            results, plans = Path(self.output_folder).parents[1], self.plans_manager.plans_name
            file = find_pretrained(results, self.pretraining, plans, self.configuration_name, self.fold)
            load_pretrained(unwrapped(self.network), file, self.modalities)
            self.print_to_log_file(f"Starting from the pretrained weights and substitute of {file}")
        super().on_train_start()

    # --- one training step --------------------------------------------------------------------------------------------

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """L = L_seg(x_0) + L_seg(x_1) + lambda MSE(f_0, f_1)."""
        present = self.draw_two_subsets(batch.available)
        out: M3AEOutput = self.network(torch.cat((batch.images, batch.images)), present)
        with full_precision(self.device):
            consistency = consistency_loss(*self.compared(out).float().chunk(2))
        return {
            "segmentation": sum(self.loss(copy, batch.target) for copy in copies(out.logits)),
            "consistency": self.consistency_weight * consistency,
        }

    def draw_two_subsets(self, available: Tensor) -> Tensor:
        """Draw two subsets of what is available (B, M), different where they can be: (2B, M), all first ones first."""
        return torch.cat(drop_in_two_ways(available, self.generator))

    def compared(self, out: M3AEOutput) -> Tensor:
        """What of the two copies (2B, ...) must agree."""
        if self.consistency_at == "bottleneck":
            return out.bottleneck
        levels = out.logits if isinstance(out.logits, list) else [out.logits]
        coarse = levels[min(QUARTER, len(levels) - 1)]
        return F.interpolate(coarse, levels[0].shape[2:], mode=UPSAMPLING[coarse.ndim - 2])


def copies(logits: Tensor | list[Tensor]) -> tuple[Any, Any]:
    """Take the two copies (2B, ...) of a batch apart, at every level of deep supervision."""
    if isinstance(logits, list):
        first, second = zip(*(level.chunk(2) for level in logits), strict=True)
        return list(first), list(second)
    first_half, second_half = logits.chunk(2)
    return first_half, second_half
