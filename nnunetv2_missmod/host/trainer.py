"""nnU-Net's trainer, with public names for those of its private parts that a method or a training needs.

Relies on nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py: ``initialize`` builds, in this order, the rank's batch size,
network, optimizer and loss (``_set_batch_size_and_oversample``, ``_build_loss``), and takes the rank for the number of
its GPU where ``is_ddp`` is set; ``_do_i_compile`` and ``_get_deep_supervision_scales`` are asked wherever it matters;
``on_epoch_end`` writes checkpoint_best where the moving average exceeds ``_best_ema``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch.amp import GradScaler

Scales = list[list[float]]  # of each output, finest first: along each axis, as a fraction of the patch


class HostTrainer(nnUNetTrainer):
    """nnU-Net's trainer; ``compiles`` and ``deep_supervision_scales`` may be overridden."""

    is_ddp: bool
    network: nn.Module
    grad_scaler: GradScaler | None

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008, nnU-Net's signature to the letter
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.is_ddp and (device.type != "cuda" or device.index is not None):
            self.device = device  # nnU-Net's is the GPU of the rank's number, which may be on another machine
            self.grad_scaler = self.grad_scaler if device.type == "cuda" else None

    def compiles(self) -> bool:
        """Whether the network is compiled."""
        answer: bool = super()._do_i_compile()
        return answer

    def deep_supervision_scales(self) -> Scales | None:
        """Scales of the outputs that the loss looks at; None without deep supervision."""
        scales: Scales | None = super()._get_deep_supervision_scales()
        return scales

    def initialize_on(self, over_ranks: Callable[[nn.Module, torch.device], nn.Module]) -> None:
        """Set up everything as nnU-Net does, but under DDP on this trainer's device.

        Args:
            over_ranks: wraps the network there so that its gradients are those of all ranks.
        """
        is_ddp, self.is_ddp = self.is_ddp, False
        super().initialize()
        self.is_ddp = is_ddp
        if is_ddp:
            self._set_batch_size_and_oversample()
            self.network = over_ranks(self.network, self.device)
            self.loss = self._build_loss()

    @property
    def best_average(self) -> float | None:
        """Moving average of the best epoch so far."""
        best: float | None = self._best_ema
        return best

    @best_average.setter
    def best_average(self, best: float | None) -> None:
        self._best_ema = best

    def _do_i_compile(self) -> bool:
        return self.compiles()

    def _get_deep_supervision_scales(self) -> Scales | None:
        return self.deep_supervision_scales()
