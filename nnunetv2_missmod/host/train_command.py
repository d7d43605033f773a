"""The parts of ``nnUNetv2_train`` that each of its processes runs.

Relies on nnunetv2/run/run_training.py: ``get_trainer_from_args`` builds a trainer from the command's arguments;
``maybe_load_checkpoint`` loads, in this order, the checkpoint to go on from, that to validate, or pretrained weights.
"""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint


def make_trainer(
    dataset: str, configuration: str, fold: int | str, trainer: str, plans: str, goes_on: bool, device: torch.device
) -> Any:
    """Build a trainer by the command's arguments; ``goes_on`` tells the loggers of others that a run continues."""
    return get_trainer_from_args(dataset, configuration, fold, trainer, plans, goes_on, device=device)


def load(trainer: Any, goes_on: bool, validates: bool, pretrained_weights: str | None) -> None:
    """Load the checkpoint to go on from, or to validate, or weights to start from."""
    maybe_load_checkpoint(trainer, goes_on, validates, pretrained_weights)
