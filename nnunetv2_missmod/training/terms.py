"""The terms of the loss over an epoch: their means, and how often they were not finite, of all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch import distributed as dist


def stacked(steps: Sequence[Mapping[str, Tensor]]) -> tuple[list[str], Tensor]:
    """Give the names of the terms, and their values as one tensor (steps, terms)."""
    names = list(steps[0])
    return names, torch.stack([torch.stack([step[name].float() for name in names]) for step in steps])


def term_means(steps: Sequence[Mapping[str, Tensor]], is_ddp: bool) -> dict[str, float]:
    """Average each term, a scalar per step, over the steps in which it was finite (the scaler skipped the others)."""
    names, values = stacked(steps)
    means = values.where(values.isfinite(), torch.nan).nanmean(0)
    if is_ddp:
        dist.all_reduce(means, dist.ReduceOp.SUM)
        means /= dist.get_world_size()
    return dict(zip(names, means.tolist(), strict=True))


def require_finite(steps: Sequence[Mapping[str, Tensor]], epoch: int, is_ddp: bool) -> str:
    """Check that the terms are finite in at least half of the steps.

    Under mixed precision single steps overflow; the gradient scaler skips those.

    Returns:
        What to log of steps that were not, or nothing.

    Raises:
        RuntimeError: names the terms and how often each was not finite.
    """
    names, values = stacked(steps)
    counts = (~values.isfinite()).sum(0)
    if is_ddp:
        dist.all_reduce(counts, dist.ReduceOp.MAX)  # every rank stops, or none
    bad = {name: count for name, count in zip(names, counts.tolist(), strict=True) if count}
    if not bad:
        return ""
    message = f"Loss terms not finite in epoch {epoch}, in how many of {len(steps)} steps: {bad}."
    if 2 * max(bad.values()) > len(steps):
        raise RuntimeError(
            f"{message} Expected finite terms. Look for extreme intensities in the preprocessed cases, or lower "
            "initial_lr in the plan's missmod block. The last checkpoint is untouched; --c resumes from it."
        )
    return f"{message} These steps were skipped."
