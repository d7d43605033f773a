"""How good a mask is likely to be: its expected Dice, and what its Dice exceeds in so many of a hundred cases.

The expected Dice is the mean of its subset on held-out cases, corrected by a ridge regression on the signs of the mask
(``signs.SIGNS``) about their means in that subset; the ridge's strength is chosen by leaving each row out, so that
signs that tell nothing leave the mean. The lower bound is the cross-conformal one (CV+ of Barber et al., "Predictive
inference with the jackknife+", Annals of Statistics 2021, Sect. 3): for a new case that is exchangeable with the cases
of the calibration, whatever the model, it holds in at least 1 - 2 (1 - confidence) - sqrt(2 / n) of cases, and in about
the confidence in practice. It compares with the same subset of other cases, so that every case counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import floor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunetv2_missmod.calibration.signs import SIGNS

Numbers = NDArray[np.float64]
STRENGTHS = tuple(10.0**power for power in range(-1, 6))  # of the ridge; the largest leaves the subset's mean
MAX_FOLDS = 20  # of the cases; fewer cases are left out one by one
LEAST_SPREAD = 0.05  # of a Dice about what is expected
NOTHING: Numbers = np.zeros(0)
ROUNDING = 1e-9  # 0.1 * 10 is a rank of 1, however 1 - 0.9 is rounded
FEWEST_OF_EACH = 5  # cases with and without a region, for its chance to depend on the signs


class ExpectedDice:
    """Expected Dice of the masks of one region that are not empty.

    Args:
        rows: masks of held-out cases with the columns subset, num_present, dice and ``SIGNS``.
    """

    def __init__(self, rows: pd.DataFrame):
        from sklearn.linear_model import RidgeCV  # noqa: PLC0415, slow import

        columns = [*SIGNS, "dice"]
        self.of_subset = rows.groupby("subset")[columns].mean()
        self.of_size = rows.groupby("num_present")[columns].mean()
        self.of_all = rows[columns].mean()
        signs = self._about_means(rows)
        self.scale = np.where((spread := signs.std(0)) > 0, spread, 1.0)
        ridge = RidgeCV(STRENGTHS, fit_intercept=False)
        ridge.fit(signs / self.scale, rows["dice"].to_numpy() - self.means(rows)["dice"].to_numpy())
        self.slopes: Numbers = ridge.coef_

    def means(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Give the means of each row's subset; of as many modalities, or of all, where the subset is unknown."""
        found = self.of_subset.reindex(rows["subset"]).set_axis(rows.index)
        found = found.fillna(self.of_size.reindex(rows["num_present"]).set_axis(rows.index))
        filled: pd.DataFrame = found.fillna(self.of_all)
        return filled

    def of(self, rows: pd.DataFrame) -> Numbers:
        """Give the expected Dice of masks (N,)."""
        dice = self.means(rows)["dice"].to_numpy() + self._about_means(rows) / self.scale @ self.slopes
        expected: Numbers = np.clip(dice, 0.0, 1.0)
        return expected

    def _about_means(self, rows: pd.DataFrame) -> Numbers:
        about = rows[list(SIGNS)] - self.means(rows)[list(SIGNS)]
        found: Numbers = about.fillna(0.0).to_numpy(dtype=float)
        return found


class HeldOut(NamedTuple):
    """A model that has not seen some cases, and how far the Dice of their masks is off what it expects, in spreads.

    Attributes:
        model: of the other cases.
        of_subset: by subset, of each mask.
        of_size: by number of modalities, the lowest of each case: for a subset that no case has.
    """

    model: ExpectedDice
    of_subset: Mapping[Any, Numbers]
    of_size: Mapping[Any, Numbers]

    @classmethod
    def of(cls, others: pd.DataFrame, held_out: pd.DataFrame) -> HeldOut:
        """Learn from the masks of other cases how those that are held out differ."""
        model = ExpectedDice(others)
        expected = model.of(held_out)
        off = held_out.assign(off=(held_out["dice"].to_numpy() - expected) / spread(expected))
        lowest = off.groupby(["num_present", "case"])["off"].min()
        return cls(model, _grouped(off.set_index("subset")["off"]), _grouped(lowest.droplevel("case")))


def _grouped(numbers: pd.Series[float]) -> dict[Any, Numbers]:
    return {key: of_key.to_numpy() for key, of_key in numbers.groupby(level=0)}


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
        return _of_masks(rows, self._of_all.of) if len(self._masks) else np.full(len(rows), np.nan)

    def bounds(self, rows: pd.DataFrame, confidence: float) -> Numbers:
        """Give what the Dice of masks (N,) exceeds in this share of cases; 0 where too few cases say so."""
        if not len(self._masks):
            return np.full(len(rows), np.nan)
        return _of_masks(rows, lambda masks: self._bounds(masks, confidence))

    def chances(self, rows: pd.DataFrame) -> Numbers:
        """Give the chance that the region is there at all, in the cases of masks (N,), empty or not."""
        if self._is_there is not None:
            found: Numbers = self._is_there.predict_proba(_for_chance(rows))[:, 1]
            return found
        of_predicted = self.rows.groupby("is_predicted")["is_there"].agg(["sum", "count"])
        counts = of_predicted.reindex(rows["is_predicted"]).fillna(0.0)
        rate: Numbers = ((counts["sum"] + 1) / (counts["count"] + 2)).to_numpy()  # Laplace's rule of succession
        return rate

    @cached_property
    def _masks(self) -> pd.DataFrame:
        masks: pd.DataFrame = self.rows[self.rows["is_predicted"]].reset_index(drop=True)
        return masks

    @cached_property
    def _of_all(self) -> ExpectedDice:
        return ExpectedDice(self._masks)

    @cached_property
    def _folds(self) -> list[HeldOut]:
        fold_of = {case: i % MAX_FOLDS for i, case in enumerate(sorted(self._masks["case"].unique()))}
        fold = self._masks["case"].map(fold_of)
        numbers = range(min(MAX_FOLDS, len(fold_of)) if len(fold_of) > 1 else 0)
        return [HeldOut.of(self._masks[fold != number], self._masks[fold == number]) for number in numbers]

    def _bounds(self, masks: pd.DataFrame, confidence: float) -> Numbers:
        expected = [fold.model.of(masks) for fold in self._folds]
        bounds = np.zeros(len(masks))
        for place, (subset, size) in enumerate(zip(masks["subset"], masks["num_present"], strict=True)):
            candidates = [NOTHING]
            for fold, of_fold in zip(self._folds, expected, strict=True):
                known = subset in self._subsets
                off = fold.of_subset.get(subset, NOTHING) if known else fold.of_size.get(size, NOTHING)
                candidates.append(of_fold[place] + spread(of_fold[place]) * off)
            lowest_first = np.sort(np.concatenate(candidates))
            rank = floor((1 - confidence) * (len(lowest_first) + 1) + ROUNDING)
            bounds[place] = lowest_first[rank - 1] if rank else 0.0
        return np.clip(bounds, 0.0, 1.0)

    @cached_property
    def _subsets(self) -> frozenset[str]:
        return frozenset(self._masks["subset"])

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


def _of_masks(rows: pd.DataFrame, of: Callable[[pd.DataFrame], Numbers]) -> Numbers:
    """Compute a number for each mask (N,) that is not empty; NaN for the others."""
    found = np.full(len(rows), np.nan)
    is_mask = rows["is_predicted"].to_numpy(dtype=bool)
    if is_mask.any():
        found[is_mask] = of(rows[is_mask].reset_index(drop=True))
    return found


def spread(expected: Numbers) -> Numbers:
    """How far a Dice is off what is expected, up to a factor: widest in the middle of its range, as a share's is."""
    found: Numbers = np.sqrt(expected * (1 - expected)) + LEAST_SPREAD
    return found


def _for_chance(rows: pd.DataFrame) -> Numbers:
    signs = rows[list(SIGNS)].fillna({"agreement": 1.0, "probability": 0.0}).to_numpy(dtype=float)
    return np.column_stack([rows["is_predicted"].to_numpy(dtype=float), signs])
