"""How good a mask is likely to be: its expected Dice, and what its Dice exceeds in so many of a hundred cases.

The expected Dice is the mean of its subset on held-out cases, corrected by a ridge regression on the signs of the mask
(``signs.SIGNS``) about their means in that subset; the ridge's strength is chosen by leaving each row out, so that
signs that tell nothing leave the mean. The lower bound is the cross-conformal one (CV+ of Barber et al., "Predictive
inference with the jackknife+", Annals of Statistics 2021, Sect. 3): for a new case that is exchangeable with the cases
of the calibration, whatever the model, it holds in at least 1 - 2 (1 - confidence) - sqrt(2 / n) of cases, and in about
the confidence in practice. It compares with the same subset of other cases, so that every case counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunetv2_missmod.calibration.signs import SIGNS

Numbers = NDArray[np.float64]
STRENGTHS = tuple(10.0**power for power in range(-1, 6))  # of the ridge; the largest leaves the subset's mean
MAX_FOLDS = 20  # of the cases; fewer cases are left out one by one
LEAST_SPREAD = 0.05  # of a Dice about what is expected
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
        return np.clip(dice, 0.0, 1.0)

    def _about_means(self, rows: pd.DataFrame) -> Numbers:
        about = rows[list(SIGNS)] - self.means(rows)[list(SIGNS)]
        return about.fillna(0.0).to_numpy(dtype=float)


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
        return self.rows[self.rows["is_predicted"]].reset_index(drop=True)

    @cached_property
    def _of_all(self) -> ExpectedDice:
        return ExpectedDice(self._masks)

    @cached_property
    def _folds(self) -> list[tuple[ExpectedDice, pd.DataFrame, Numbers]]:
        """Models that have not seen some of the cases, the masks of those, and how far their Dice is off."""
        fold_of = {case: i % MAX_FOLDS for i, case in enumerate(sorted(self._masks["case"].unique()))}
        fold, found = self._masks["case"].map(fold_of), []
        for number in range(min(MAX_FOLDS, len(fold_of)) if len(fold_of) > 1 else 0):
            model, held_out = ExpectedDice(self._masks[fold != number]), self._masks[fold == number]
            expected = model.of(held_out)
            found.append((model, held_out, (held_out["dice"].to_numpy() - expected) / spread(expected)))
        return found

    def _bounds(self, masks: pd.DataFrame, confidence: float) -> Numbers:
        expected = [model.of(masks) for model, _, _ in self._folds]
        bounds = np.zeros(len(masks))
        for place, (subset, size) in enumerate(zip(masks["subset"], masks["num_present"], strict=True)):
            candidates = [
                of_fold[place] + spread(of_fold[place]) * off
                for of_fold, (_, held_out, residuals) in zip(expected, self._folds, strict=True)
                for off in self._comparable(held_out, residuals, subset, size)
            ]
            rank = floor((1 - confidence) * (len(candidates) + 1) + 1e-9)
            bounds[place] = np.sort(candidates)[rank - 1] if rank else 0.0
        return np.clip(bounds, 0.0, 1.0)

    def _comparable(self, held_out: pd.DataFrame, residuals: Numbers, subset: str, size: int) -> Sequence[float]:
        """Residuals of the same subset; where no case has it, the worst of each case with as many modalities."""
        if subset in self._subsets:
            same: list[float] = residuals[(held_out["subset"] == subset).to_numpy()].tolist()
            return same
        as_many = (held_out["num_present"] == size).to_numpy()
        worst: list[float] = pd.Series(residuals[as_many]).groupby(held_out["case"].to_numpy()[as_many]).min().tolist()
        return worst

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
