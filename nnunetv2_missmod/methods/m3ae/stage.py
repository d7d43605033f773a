"""What the two stages of M3AE share: how modalities are dropped, what stands for them, and the optimizer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from nnunetv2_missmod.building_blocks.network import unwrapped
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.methods.m3ae.masking import drop_modalities
from nnunetv2_missmod.modalities import expand_to
from nnunetv2_missmod.training.trainer import MissingModalityTrainer


class M3AEStage(MissingModalityTrainer):
    """Base of pretraining and fine-tuning."""

    substitute = "learned"  # x_sub; "zero": Table 3 (c); "mean", the mean image: Table 3 (d)

    initial_lr = 3e-4
    optimizer_name = "adam"
    lr_schedule = "cosine"

    def apply_plan_overrides(self) -> None:
        """Apply the plan's overrides and check those that are words."""
        super().apply_plan_overrides()
        check_choice("substitute", self.substitute, ("learned", "zero", "mean"))

    def draw_subset(self, available: Tensor) -> Tensor:
        """Drop d of each sample's A available modalities (B, M), d uniform on 0..A-1."""
        return drop_modalities(available, self.generator)

    def on_train_start(self) -> None:
        """Start as nnU-Net does; a substitute that is not learned is set before the first epoch."""
        super().on_train_start()
        if self.current_epoch == 0 and self.substitute != "learned":
            image = self.mean_image() if self.substitute == "mean" else 0
            with torch.no_grad():
                unwrapped(self.network).substitute[:] = image

    def mean_image(self) -> Tensor:
        """Average training patches (M, *patch) of all ranks, as many batches as a validation has."""
        count = len(self.modalities)
        total = torch.zeros(count, *self.configuration_manager.patch_size, device=self.device)
        seen = torch.zeros(count, device=self.device)
        for _ in range(self.num_val_iterations_per_epoch):
            batch = self.prepare_batch(next(self.dataloader_train))
            total += batch.images[:, :count].sum(0)
            seen += batch.available.sum(0)
        if self.is_ddp:
            dist.all_reduce(total)
            dist.all_reduce(seen)
        return total / expand_to(seen.clamp(min=1)[None], total[None])[0]
