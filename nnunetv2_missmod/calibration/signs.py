"""What can be seen of a mask without its truth, and may tell how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10, nan

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

# agreement: mean Dice of the mask with those from the subsets that lack one of its modalities; probability: mean of the
# model's probabilities within the mask; log_volume: log10(1 + volume in mm3).
SIGNS = ("agreement", "probability", "log_volume")


def one_fewer(subset: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Give the subsets (n, M) that lack one of a subset's (M,) n modalities; none of a single modality."""
    present = np.flatnonzero(subset)
    if len(present) < 2:
        return np.zeros((0, len(subset)), dtype=bool)
    fewer = np.tile(subset, (len(present), 1))
    fewer[np.arange(len(present)), present] = False
    return fewer


def dice_of(mask: Mask, other: Mask) -> float:
    """Dice of two masks; 1 where both are empty."""
    total = np.count_nonzero(mask) + np.count_nonzero(other)
    return 2 * np.count_nonzero(mask & other) / total if total else 1.0


def signs_of(mask: Mask, fewer: Sequence[Mask], probability: float, voxel_volume: float) -> dict[str, float]:
    """Collect the signs of one region of one mask.

    Args:
        mask: of the region.
        fewer: those of the region from the subsets that lack one modality; none of a single modality.
        probability: mean probability within the mask, NaN where it is empty.
        voxel_volume: mm3.

    Returns:
        By name; NaN where there is nothing to see it by.
    """
    agreement = float(np.mean([dice_of(mask, other) for other in fewer])) if fewer else nan
    return {
        "agreement": agreement,
        "probability": probability,
        "log_volume": log10(1 + np.count_nonzero(mask) * voxel_volume),
    }
