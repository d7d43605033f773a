"""Validation during training: each step has its subset, the same in every epoch, and is scored by pseudo Dice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from nnunetv2_missmod.modalities import all_subsets


def subset_schedule(num_modalities: int, steps: int) -> list[Tensor]:
    """Give each of an epoch's validation steps its subset (M,), alike in every epoch.

    The steps go round the subsets; steps fewer than the subsets are spread over the whole list and end with the full
    set.
    """
    subsets = all_subsets(num_modalities)
    if steps < len(subsets):
        return [subsets[len(subsets) * (i + 1) // steps - 1] for i in range(steps)]
    return [subsets[i % len(subsets)] for i in range(steps)]


def present_of_subset(subset: Tensor, available: Tensor) -> Tensor:
    """Find what is present of a subset (M,) in each sample: what it has of it, or all it has where that is nothing.

    Args:
        subset: (M,) bool.
        available: (B, M) bool, on the same device.

    Returns:
        (B, M) bool.
    """
    present = available & subset
    return torch.where(present.any(1, keepdim=True), present, available)


def by_subset(steps: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Group validation steps by the name of their ``subset``, in the order of its first step."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for step in steps:
        groups.setdefault(step["subset"], []).append(step)
    return groups


def of_all_ranks(val_outputs: list[dict[str, Any]], is_ddp: bool) -> list[dict[str, Any]]:
    """Collect the validation steps of every rank."""
    if not is_ddp:
        return val_outputs
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, val_outputs)
    return [step for rank in gathered for step in rank]


def dice_per_subset(steps: list[dict[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Pool the voxels of each subset's steps into the Dice of each class or region, NaN where neither has any.

    Args:
        steps: nnU-Net's validation outputs (``tp_hard``, ``fp_hard``, ``fn_hard``), each with its ``subset``.
    """
    return {name: _pooled_dice(group) for name, group in by_subset(steps).items()}


def nanmean(values: NDArray[np.float64], axis: int | None = None) -> Any:
    """Mean of what is not NaN; NaN, without a warning, where nothing is."""
    count = (~np.isnan(values)).sum(axis)
    return np.divide(np.nansum(values, axis), count, out=np.full(np.shape(count), np.nan), where=count > 0)


def best_epoch(scores: Sequence[float]) -> int | None:
    """Find the first epoch of the highest score, by nnU-Net's rule; None where no epoch has a score."""
    scored = [(score, -epoch) for epoch, score in enumerate(scores) if not np.isnan(score)]
    return -max(scored)[1] if scored else None


def _pooled_dice(steps: list[dict[str, Any]]) -> NDArray[np.float64]:
    true_positive, false_positive, false_negative = (
        np.sum([step[key] for step in steps], axis=0, dtype=np.float64) for key in ("tp_hard", "fp_hard", "fn_hard")
    )
    size = 2 * true_positive + false_positive + false_negative
    dice: NDArray[np.float64] = np.divide(2 * true_positive, size, out=np.full(size.shape, np.nan), where=size > 0)
    return dice
