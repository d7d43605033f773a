"""One segmentation against its truth: the scores of each region, the policy for empty masks, the convention of HD95."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import NamedTuple

import numpy as np

from nnunetv2_missmod.evaluation.hausdorff import EDGE_HD95, HD95_CONVENTIONS, SURFACE, edge_of
from nnunetv2_missmod.evaluation.scores import RegionScores
from nnunetv2_missmod.evaluation.shapes import (
    lesion_wise_dice,
    surface_of,
    surface_scores,
)
from nnunetv2_missmod.evaluation.truth import Truth, TruthRegion
from nnunetv2_missmod.prediction.regions import LabelMap, Mask, region_mask


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
    # The released evaluators of MST-KDNet and M3AE: no distance where either is empty. Their Dice is 1 where both are.
    "zero": EmptyPolicy(both=EmptyScores(1.0, 0.0, 1.0, 1.0), one=EmptyScores(0.0, 0.0, 0.0, 0.0)),
    # Those of PASSION, whose authors' M2FTrans has the same Dice, "following ACN and SMU-Net": 1 mm where one is empty.
    "one": EmptyPolicy(both=EmptyScores(1.0, 0.0, 1.0, 1.0), one=EmptyScores(0.0, 1.0, 0.0, 0.0)),
}


@dataclass(frozen=True)
class ScoringRules:
    """How to score: the policy for empty masks, the tolerance of NSD and the convention of HD95.

    Attributes:
        empty_policy: one of ``EMPTY_POLICIES``.
        nsd_tolerance_mm: how far apart surfaces may be and still agree.
        hd95_convention: one of ``HD95_CONVENTIONS``.
    """

    empty_policy: str = "nnunet"
    nsd_tolerance_mm: float = 1.0
    hd95_convention: str = SURFACE

    def __post_init__(self) -> None:
        if self.empty_policy not in EMPTY_POLICIES:
            raise ValueError(
                f"Expected a policy for empty masks out of {', '.join(EMPTY_POLICIES)}, got {self.empty_policy!r}."
            )
        if not 0 <= self.nsd_tolerance_mm < inf:
            raise ValueError(
                f"Expected a tolerance for NSD of 0 mm or more, got {self.nsd_tolerance_mm}. 1 mm is usual for BraTS."
            )
        if self.hd95_convention not in HD95_CONVENTIONS:
            raise ValueError(
                f"Expected a convention of HD95 out of {', '.join(HD95_CONVENTIONS)}, got {self.hd95_convention!r}."
            )


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
    num_true_positive = int(np.count_nonzero(predicted & reference.mask))
    if num_predicted and reference.size:
        dice = 2 * num_true_positive / (num_predicted + reference.size)
        hd95, nsd = _distances(predicted, reference, rules)
        lesion_dice = lesion_wise_dice(predicted, reference.mask, reference.lesions)
    else:
        policy = EMPTY_POLICIES[rules.empty_policy]
        dice, hd95, nsd, lesion_dice = policy.one if num_predicted or reference.size else policy.both
    return RegionScores(
        region=name,
        dice=dice,
        hd95=hd95,
        nsd=nsd,
        sensitivity=num_true_positive / reference.size if reference.size else nan,
        volume_error=(num_predicted - reference.size) / reference.size if reference.size else nan,
        lesion_dice=lesion_dice,
        num_reference=reference.size,
        num_predicted=num_predicted,
        num_true_positive=num_true_positive,
        num_voxels=truth.num_voxels,
    )


def _distances(predicted: Mask, reference: TruthRegion, rules: ScoringRules) -> tuple[float, float]:
    """HD95 in mm and NSD of masks that are not empty."""
    surface = surface_of(predicted, reference.spacing)
    hd95, nsd = surface_scores(surface, reference.surface, rules.nsd_tolerance_mm)
    if edge_hd95 := EDGE_HD95.get(rules.hd95_convention):
        hd95 = edge_hd95(edge_of(predicted, reference.spacing), reference.edge)
    return hd95, nsd
