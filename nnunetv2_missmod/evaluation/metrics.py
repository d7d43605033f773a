"""One segmentation against its truth: the scores of each region, the policy for empty masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunetv2_missmod.evaluation.scores import RegionScores
from nnunetv2_missmod.evaluation.shapes import (
    Lesions,
    Mask,
    Surface,
    lesion_wise_dice,
    lesions_of,
    surface_of,
    surface_scores,
)

Regions = Mapping[str, Sequence[int]]
LabelMap = NDArray[Any]


class EmptyScores(NamedTuple):
    """The scores that are given, not computed, where a mask is empty; HD95 in mm."""

    dice: float
    hd95: float
    nsd: float
    lesion_dice: float


class EmptyPolicy(NamedTuple):
    """What a region scores that is empty in the truth and the prediction (``both``) or in only one of them."""

    both: EmptyScores
    one: EmptyScores


EMPTY_POLICIES = {
    # nnU-Net's summary: nothing to find and nothing found is no score at all.
    "nnunet": EmptyPolicy(both=EmptyScores(nan, nan, nan, nan), one=EmptyScores(0.0, nan, 0.0, 0.0)),
    # The BraTS challenges: perfect when both are empty; otherwise the diagonal of their 240x240x155 mm images.
    "brats": EmptyPolicy(both=EmptyScores(1.0, 0.0, 1.0, 1.0), one=EmptyScores(0.0, 374.0, 0.0, 0.0)),
}


@dataclass(frozen=True)
class ScoringRules:
    """How to score: the policy for empty masks and the tolerance of NSD.

    Attributes:
        empty_policy: one of ``EMPTY_POLICIES``.
        nsd_tolerance_mm: how far apart surfaces may be and still agree.
    """

    empty_policy: str = "nnunet"
    nsd_tolerance_mm: float = 1.0

    def __post_init__(self) -> None:
        if self.empty_policy not in EMPTY_POLICIES:
            raise ValueError(
                f"Expected a policy for empty masks out of {', '.join(EMPTY_POLICIES)}, got {self.empty_policy!r}."
            )
        if not 0 <= self.nsd_tolerance_mm < inf:
            raise ValueError(
                f"Expected a tolerance for NSD of 0 mm or more, got {self.nsd_tolerance_mm}. 1 mm is usual for BraTS."
            )


class Truth:
    """The truth of one case; what the scores of every subset need of it is computed once.

    An axis of length one, as nnU-Net's readers put before a 2D image, is dropped: such an image is scored by its
    contour, not by the faces of a slab.

    Args:
        segmentation: label map (x, y, z) or (x, y).
        spacing: mm along each of its axes, in their order (nnU-Net's readers give it so).
        regions: name -> labels.
        ignore_label: voxels that have it in the truth take no part in any score.
    """

    def __init__(
        self, segmentation: LabelMap, spacing: Sequence[float], regions: Regions, ignore_label: int | None = None
    ):
        if len(spacing) != segmentation.ndim or not all(0 < mm < inf for mm in spacing):
            raise ValueError(
                f"Expected a spacing in mm for each of the {segmentation.ndim} axes, got {list(spacing)} for a truth "
                f"of shape {segmentation.shape}. Give it in the array's order of axes."
            )
        self.given_shape = segmentation.shape
        spacing = [mm for mm, keep in zip(spacing, _kept_axes(segmentation.shape), strict=True) if keep]
        segmentation = _without_flat_axis(segmentation)
        if segmentation.ndim not in (2, 3):
            raise ValueError(f"Expected a truth with 2 or 3 axes, got the shape {segmentation.shape}.")
        self.ignored = None if ignore_label is None else segmentation == ignore_label
        self.num_voxels = segmentation.size if self.ignored is None else int(np.count_nonzero(~self.ignored))
        self.labels = {name: tuple(labels) for name, labels in regions.items()}
        self.regions = {
            name: TruthRegion(region_mask(segmentation, labels), tuple(spacing)) for name, labels in regions.items()
        }

    def comparable(self, prediction: LabelMap) -> LabelMap:
        """Bring a prediction of the truth's shape onto the truth's axes, background where the truth is ignored."""
        if prediction.shape != self.given_shape:
            raise ValueError(
                f"Expected a prediction of the truth's shape {self.given_shape}, got {prediction.shape}. "
                f"Are both of the same case, on the image's own grid?"
            )
        prediction = _without_flat_axis(prediction)
        return prediction if self.ignored is None else np.where(self.ignored, 0, prediction)


@dataclass(frozen=True)
class TruthRegion:
    """One region of a truth: mask (*shape), spacing in mm, and what is computed of them when first asked for."""

    mask: Mask
    spacing: tuple[float, ...]

    @cached_property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def surface(self) -> Surface:
        """Its surface; only of a region that is not empty."""
        return surface_of(self.mask, self.spacing)

    @cached_property
    def lesions(self) -> Lesions:
        """Its lesions; only of a region that is not empty."""
        return lesions_of(self.mask)


def score(prediction: LabelMap, truth: Truth, rules: ScoringRules) -> list[RegionScores]:
    """Score one segmentation, region by region in the order of the truth's regions.

    Args:
        prediction: label map of the truth's shape; it is not changed.
        truth: of the same case.
        rules: how to score.

    Raises:
        ValueError: the shapes differ.
    """
    prediction = truth.comparable(prediction)
    return [_score_region(name, region_mask(prediction, labels), truth, rules) for name, labels in truth.labels.items()]


def _score_region(name: str, predicted: Mask, truth: Truth, rules: ScoringRules) -> RegionScores:
    reference = truth.regions[name]
    num_predicted = int(np.count_nonzero(predicted))
    num_common = int(np.count_nonzero(predicted & reference.mask))
    if num_predicted and reference.size:
        surface = surface_of(predicted, reference.spacing)
        dice = 2 * num_common / (num_predicted + reference.size)
        hd95, nsd = surface_scores(surface, reference.surface, rules.nsd_tolerance_mm)
        lesion_dice = lesion_wise_dice(predicted, reference.mask, reference.lesions)
    else:
        policy = EMPTY_POLICIES[rules.empty_policy]
        dice, hd95, nsd, lesion_dice = policy.one if num_predicted or reference.size else policy.both
    return RegionScores(
        region=name,
        dice=dice,
        hd95=hd95,
        nsd=nsd,
        sensitivity=num_common / reference.size if reference.size else nan,
        volume_error=(num_predicted - reference.size) / reference.size if reference.size else nan,
        lesion_dice=lesion_dice,
        num_reference=reference.size,
        num_predicted=num_predicted,
        num_voxels=truth.num_voxels,
    )


def region_mask(segmentation: LabelMap, labels: Sequence[int]) -> Mask:
    """Find the voxels (*shape) bool of a label map (*shape) whose label belongs to a region."""
    mask = np.zeros(segmentation.shape, dtype=bool)
    for label in labels:
        mask |= segmentation == label
    return mask


def _kept_axes(shape: tuple[int, ...]) -> list[bool]:
    flat = shape.index(1) if len(shape) == 3 and 1 in shape else None
    return [axis != flat for axis in range(len(shape))]


def _without_flat_axis(segmentation: LabelMap) -> LabelMap:
    return segmentation.reshape(
        [n for n, keep in zip(segmentation.shape, _kept_axes(segmentation.shape), strict=True) if keep]
    )
