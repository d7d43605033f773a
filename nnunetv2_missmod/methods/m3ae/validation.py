"""How well images are rebuilt: squared errors, pooled over the steps of a validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nnunetv2_missmod.modalities import drop_absent, subset_name
from nnunetv2_missmod.training.validation import by_subset

ROUNDING = 1e-6  # share of a sum of squares in float32 that is no variance


def reconstruction_scores(
    reconstruction: Tensor, images: Tensor, available: Tensor, subset: Tensor, modalities: Sequence[str]
) -> dict[str, Any]:
    """Sum up one validation step.

    Args:
        reconstruction, images: (B, M, *patch).
        available: (B, M) bool.
        subset: (M,) bool, of which the blocks were visible.
        modalities: the M names.

    Returns:
        The name of the subset; for each modality (M,) the squared error, the sum and the sum of squares of the image
        and the number of voxels, of the samples that have it; and ``loss``, the MSE over all of these voxels.
    """
    axes = (0, *range(2, images.ndim))
    present = drop_absent(images, available)
    values = {
        "squared_error": drop_absent(reconstruction - images, available).square().sum(axes),
        "sum": present.sum(axes),
        "sum_of_squares": present.square().sum(axes),
        "voxels": available.sum(0) * images[0, 0].numel(),
    }
    sums = {name: value.cpu().numpy().astype(np.float64) for name, value in values.items()}
    loss = sums["squared_error"].sum() / sums["voxels"].sum()
    return {**sums, "loss": loss, "subset": subset_name(subset, modalities)}


def explained_variance(steps: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Share of each modality's variance that the reconstruction explains, at most 1; NaN where there is none.

    Args:
        steps: of ``reconstruction_scores``.
    """
    error, total, squares, voxels = (
        np.sum([step[name] for step in steps], axis=0) for name in ("squared_error", "sum", "sum_of_squares", "voxels")
    )
    variance = squares - total**2 / np.maximum(voxels, 1)
    varies = variance > ROUNDING * squares
    share = np.divide(error, variance, out=np.full(error.shape, np.nan), where=varies)
    explained: NDArray[np.float64] = 1 - share
    return explained


def error_per_subset(steps: Sequence[dict[str, Any]]) -> dict[str, float]:
    """MSE over the voxels of all modalities by what was visible.

    Args:
        steps: of ``reconstruction_scores``.
    """
    return {name: _pooled_error(group) for name, group in by_subset(steps).items()}


def _pooled_error(steps: Sequence[dict[str, Any]]) -> float:
    return float(sum(step["squared_error"].sum() for step in steps) / sum(step["voxels"].sum() for step in steps))
