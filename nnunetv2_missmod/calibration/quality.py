"""How good a mask is likely to be: its expected Dice, and what its Dice exceeds in so many of a hundred cases.

The expected Dice is the mean of its subset on held-out cases, corrected by a ridge regression on the signs of the mask
(``signs.SIGNS``) about their means in that subset; the ridge's strength is chosen by leaving each row out, so that
signs that tell nothing leave the mean. The lower bound is the cross-conformal one (CV+ of Barber et al., "Predictive
inference with the jackknife+", Annals of Statistics 2021, Sect. 3): for a new case that is exchangeable with the cases
of the calibration, whatever the model, it holds in at least 1 - 2 (1 - confidence) - sqrt(2 / n) of cases, and in about
the confidence in practice. It compares with the same subset of other cases, so that every case counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import floor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunetv2_missmod.calibration.signs import SIGNS

Numbers = NDArray[np.float64]
Whole = NDArray[np.int64]
STRENGTHS = tuple(10.0**power for power in range(-1, 6))  # of the ridge; the largest leaves the subset's mean
MAX_FOLDS = 20  # of the cases; fewer cases are left out one by one
LEAST_SPREAD = 0.05  # of a Dice about what is expected
NOTHING: Numbers = np.zeros(0)
ROUNDING = 1e-9  # 0.1 * 10 is a rank of 1, however 1 - 0.9 is rounded
FEWEST_OF_EACH = 5  # cases with and without a region, for its chance to depend on the signs


class Masks(NamedTuple):
    """Masks of one region that are not empty, in numbers.

    Attributes:
        subset: (N,) position among the known subsets; -1 for any other.
        size: (N,) number of modalities.
        case: (N,) number of the case.
        values: (N, 1 + len(SIGNS)), Dice and signs; NaN where there is none.
    """

    subset: Whole
    size: Whole
    case: Whole
    values: Numbers

    def where(self, keep: NDArray[np.bool_]) -> Masks:
        """Give those that are to be kept (N,)."""
        return Masks(self.subset[keep], self.size[keep], self.case[keep], self.values[keep])


class ExpectedDice:
    """Expected Dice of masks.

    Args:
        masks: of held-out cases.
        num_subsets: that are known.
    """

    def __init__(self, masks: Masks, num_subsets: int):
        from sklearn.linear_model import RidgeCV  # noqa: PLC0415, slow import

        self.of_subset = _means(masks.values, masks.subset, num_subsets)
        self.of_size = _means(masks.values, masks.size, int(masks.size.max()) + 1)
        self.of_all = _means(masks.values, np.zeros_like(masks.size), 1)[0]
        about = masks.values - self.means(masks)
        signs = np.nan_to_num(about[:, 1:])
        self.scale = np.where((deviation := signs.std(0)) > 0, deviation, 1.0)
        self.slopes: Numbers = RidgeCV(STRENGTHS, fit_intercept=False).fit(signs / self.scale, about[:, 0]).coef_

    def means(self, masks: Masks) -> Numbers:
        """Give the mean values of each mask's subset; of as many modalities, or of all, where it has none."""
        size = np.minimum(masks.size, len(self.of_size) - 1)
        of_subset, of_size = self.of_subset[masks.subset], self.of_size[size]
        found: Numbers = np.where(np.isnan(of_subset), of_size, of_subset)
        return np.where(np.isnan(found), self.of_all, found)

    def of(self, masks: Masks) -> Numbers:
        """Give the expected Dice (N,)."""
        means = self.means(masks)
        signs = np.nan_to_num(masks.values[:, 1:] - means[:, 1:])
        expected: Numbers = np.clip(means[:, 0] + signs / self.scale @ self.slopes, 0.0, 1.0)
        return expected


def _means(values: Numbers, group: Whole, num_groups: int) -> Numbers:
    """Mean of the rows (N, C) of each group, NaN without any; a last row of NaN is that of the group -1."""
    known = ~np.isnan(values)
    total, count = np.zeros((2, num_groups + 1, values.shape[1]))
    np.add.at(total, group, np.where(known, values, 0.0))
    np.add.at(count, group, known)
    total[-1] = count[-1] = 0.0
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


class HeldOut(NamedTuple):
    """A model that has not seen some cases, their masks, and how far their Dice is off what it expects, in spreads."""

    model: ExpectedDice
    masks: Masks
    off: Numbers

    @classmethod
    def of(cls, masks: Masks, held_out: NDArray[np.bool_], num_subsets: int) -> HeldOut:
        """Learn from the other masks how those that are held out (N,) differ."""
        model, own = ExpectedDice(masks.where(~held_out), num_subsets), masks.where(held_out)
        expected = model.of(own)
        return cls(model, own, (own.values[:, 0] - expected) / spread(expected))

    def comparable(self, subset: int, size: int) -> Numbers:
        """Give what is off of the same subset's masks; of an unknown subset's, the lowest of each case of its size."""
        if subset >= 0:
            same: Numbers = self.off[self.masks.subset == subset]
            return same
        of_size = self.masks.size == size
        cases, off = self.masks.case[of_size], self.off[of_size]
        lowest: Numbers = np.array([off[cases == case].min() for case in np.unique(cases)], dtype=float)
        return lowest


@dataclass(frozen=True)
class RegionQuality:
    """The masks of one region of held-out cases, and what they let expect of another.

    Attributes:
        rows: with the columns case, subset, num_present, dice (NaN where truth and mask are empty), is_there (in the
            truth), is_predicted and ``SIGNS``.
    """

    rows: pd.DataFrame

    def expected(self, rows: pd.DataFrame) -> Numbers:
        """Give the expected Dice of masks (N,); NaN where they are empty, or there are none to learn from."""
        return self._of_masks(rows, self._expected)

    def bounds(self, rows: pd.DataFrame, confidence: float) -> Numbers:
        """Give what the Dice of masks (N,) exceeds in this share of cases; 0 where too few cases say so."""
        return self._of_masks(rows, lambda masks: self._bounds(masks, confidence))

    def chances(self, rows: pd.DataFrame) -> Numbers:
        """Give the chance that the region is there at all, in the cases of masks (N,), empty or not."""
        if self._is_there is not None:
            found: Numbers = self._is_there.predict_proba(_for_chance(rows))[:, 1]
            return found
        of_predicted = self.rows.groupby("is_predicted")["is_there"].agg(["sum", "count"])
        counts = of_predicted.reindex(rows["is_predicted"]).fillna(0.0)
        rate: Numbers = ((counts["sum"] + 1) / (counts["count"] + 2)).to_numpy()  # Laplace's rule of succession
        return rate

    def _of_masks(self, rows: pd.DataFrame, of: Callable[[Masks], Numbers]) -> Numbers:
        """Compute a number for each mask (N,) that is not empty; NaN for the others."""
        found, is_mask = np.full(len(rows), np.nan), rows["is_predicted"].to_numpy(dtype=bool)
        if is_mask.any() and len(self._masks.size):
            found[is_mask] = of(self._in_numbers(rows[is_mask]))
        return found

    def _in_numbers(self, rows: pd.DataFrame) -> Masks:
        columns = rows.reindex(columns=["dice", *SIGNS]).to_numpy(dtype=float)
        case = rows["case"].to_numpy() if "case" in rows else np.zeros(len(rows), dtype=int)
        subset = self._subsets.get_indexer(pd.Index(rows["subset"]))
        return Masks(subset, rows["num_present"].to_numpy(dtype=int), case, columns)

    @cached_property
    def _subsets(self) -> pd.Index[Any]:
        subsets: pd.Index[Any] = pd.Index(self.rows["subset"][self.rows["is_predicted"]].unique())
        return subsets

    @cached_property
    def _masks(self) -> Masks:
        return self._in_numbers(self.rows[self.rows["is_predicted"]])

    def _expected(self, masks: Masks) -> Numbers:
        return self._of_all.of(masks)

    @cached_property
    def _of_all(self) -> ExpectedDice:
        return ExpectedDice(self._masks, len(self._subsets))

    @cached_property
    def _folds(self) -> list[HeldOut]:
        cases, position = np.unique(self._masks.case, return_inverse=True)
        numbers = range(min(MAX_FOLDS, len(cases)) if len(cases) > 1 else 0)
        return [HeldOut.of(self._masks, position % MAX_FOLDS == number, len(self._subsets)) for number in numbers]

    def _bounds(self, masks: Masks, confidence: float) -> Numbers:
        expected = [fold.model.of(masks) for fold in self._folds]
        bounds = np.zeros(len(masks.size))
        for place, (subset, size) in enumerate(zip(masks.subset, masks.size, strict=True)):
            candidates = [
                of_fold[place] + spread(of_fold[place]) * fold.comparable(subset, size)
                for of_fold, fold in zip(expected, self._folds, strict=True)
            ]
            lowest_first = np.sort(np.concatenate([NOTHING, *candidates]))
            rank = floor((1 - confidence) * (len(lowest_first) + 1) + ROUNDING)
            bounds[place] = lowest_first[rank - 1] if rank else 0.0
        return np.clip(bounds, 0.0, 1.0)

    @cached_property
    def _is_there(self) -> Any:
        """A logistic regression of whether the region is there; None where hardly a case says so, or says no."""
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415, slow import
        from sklearn.pipeline import make_pipeline  # noqa: PLC0415
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

        cases = self.rows.drop_duplicates("case")["is_there"]
        if min(cases.sum(), (~cases).sum()) < FEWEST_OF_EACH:
            return None
        return make_pipeline(StandardScaler(), LogisticRegression()).fit(_for_chance(self.rows), self.rows["is_there"])


def spread(expected: Numbers) -> Numbers:
    """How far a Dice is off what is expected, up to a factor: widest in the middle of its range, as a share's is."""
    found: Numbers = np.sqrt(expected * (1 - expected)) + LEAST_SPREAD
    return found


def _for_chance(rows: pd.DataFrame) -> Numbers:
    signs = rows[list(SIGNS)].fillna(0.0).to_numpy(dtype=float)
    return np.column_stack([rows["is_predicted"].to_numpy(dtype=float), signs])
