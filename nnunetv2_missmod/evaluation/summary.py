"""From the long table of scores to what papers print: means and robustness curves.

A long table has one row per case x subset x region. ``subset_means`` makes it the table of a paper, one row per subset
and one column per region, from which the other means follow. A score that is NaN is undefined and left out.

Means that compare subsets (over them, the curve, its area) are over the same cases only where the table has been left
with those (``complete_cases.on_complete_cases``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.integrate import trapezoid

BETTER: dict[str, Literal["higher", "lower", "zero"]] = {
    "dice": "higher",
    "hd95": "lower",
    "nsd": "higher",
    "sensitivity": "higher",
    "volume_error": "zero",
    "lesion_dice": "higher",
}
ROW = ("case", "subset", "region")  # what a row of the long table is about
KEYS = (*ROW, "num_present")
Values = TypeVar("Values", pd.DataFrame, "NDArray[np.float64]")


# --- means ------------------------------------------------------------------------------------------------------------


def subset_means(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean over the cases, one row per subset (smallest first) and one column per region.

    NaN where the metric is undefined in every case.

    Raises:
        ValueError: the table is empty, lacks columns, has a row twice, or names subsets that do not fit their size.
    """
    wide = wide_table(table, metric)
    return as_means(wide.mean().to_numpy(), wide.columns)


def case_counts(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Number of cases in each mean of ``subset_means``: those where the metric is defined."""
    wide = wide_table(table, metric)
    counts: pd.DataFrame = as_means(wide.count().to_numpy(), wide.columns)
    return counts


def mean_over_subsets(means: pd.DataFrame) -> pd.Series[float]:
    """Mean of the subsets' means by region: a paper's column "average".

    Args:
        means: one row per subset, one column per region, as ``subset_means`` gives them of complete cases.
    """
    return means.mean()


def robustness_curve(means: pd.DataFrame) -> pd.DataFrame:
    """Mean of the subsets' means by number of modalities present, D_1 .. D_N: one column per region.

    A number of which the table has no subset has no row.

    Args:
        means: one row per subset, one column per region, as ``subset_means`` gives them of complete cases.
    """
    sizes = pd.Index([len(members(subset)) for subset in means.index], name="num_present")
    return means.groupby(sizes).mean()


def robustness_area(means: pd.DataFrame, normalised: bool = False) -> pd.Series[float]:
    """Area under the robustness curve by region, as CCSD sums it: D_1/2 + D_2 + ... + D_{N-1} + D_N/2.

    It is the trapezoid rule; where subsets are a sample that lacks a size, the chord spans the gap. NaN where a size's
    mean is undefined, or where the table lacks the single modalities or the full set. With one modality it is D_1.

    Args:
        means: one row per subset, one column per region, as ``subset_means`` gives them of complete cases.
        normalised: divide by N - 1, so that the area is the mean height of the curve, in the metric's unit.
    """
    curve = robustness_curve(means)
    num_modalities = len(modalities_in(means.index))
    if num_modalities == 1:
        return curve.mean()
    area: pd.Series[float] = pd.Series(trapezoid(curve.to_numpy(), x=curve.index, axis=0), index=curve.columns)
    if (curve.index[0], curve.index[-1]) != (1, num_modalities):
        area[:] = np.nan
    if normalised:
        area /= num_modalities - 1
    return area


# --- what is better, and what a subset is called ----------------------------------------------------------------------


def goodness(values: Values, metric: str) -> Values:
    """Turn values of a metric so that more is better (ValueError: the metric is not in ``BETTER``)."""
    check_direction(metric)
    better: Values = {"higher": values, "lower": -values, "zero": -abs(values)}[BETTER[metric]]
    return better


def members(subset: str) -> list[str]:
    """Modalities of a subset's name."""
    return subset.split("+")


def modalities_in(subsets: Iterable[str]) -> list[str]:
    """List the modalities that occur in the subsets, in the order of the full set, which is that of the channels."""
    largest_first = sorted(subsets, key=lambda subset: (-len(members(subset)), subset))
    return list(dict.fromkeys(modality for subset in largest_first for modality in members(subset)))


# --- the long table ---------------------------------------------------------------------------------------------------


def wide_table(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Spread a long table: one row per case, sorted; one column per region and subset, in the order of a paper."""
    scores = checked(table, metric)
    channel = {modality: i for i, modality in enumerate(modalities_in(scores["subset"].unique()))}
    subsets = sorted(
        scores["subset"].unique(), key=lambda subset: (len(members(subset)), [channel[m] for m in members(subset)])
    )
    columns = pd.MultiIndex.from_product([list(scores["region"].unique()), subsets], names=["region", "subset"])
    by_case = scores.pivot(index="case", columns=["region", "subset"], values=metric)
    wide: pd.DataFrame = by_case.reindex(columns=columns).astype(float)
    return wide


def as_means(values: NDArray[Any], columns: pd.Index[Any]) -> pd.DataFrame:
    """Fold the values (K,) of the columns of ``wide_table`` into one row per subset and one column per region."""
    regions, subsets = columns.unique("region"), columns.unique("subset")
    means: pd.DataFrame = pd.DataFrame(values.reshape(len(regions), len(subsets)).T, index=subsets, columns=regions)
    return means


def checked(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Give the columns of a long table that a summary of ``metric`` needs."""
    metrics = [name for name in table.select_dtypes("number").columns if name not in KEYS]
    if metric not in metrics:
        raise ValueError(f"Expected one of the metric columns {', '.join(metrics) or '(none)'}, got {metric!r}.")
    missing = [key for key in KEYS if key not in table.columns]
    if missing or table.empty:
        raise ValueError(
            f"Expected a long table with rows and the columns {', '.join(KEYS)}, got {len(table)} rows without "
            f"{missing}. Write one with `missmod evaluate`."
        )
    if np.isinf(table[metric].astype(float)).any():
        raise ValueError(f"Expected {metric} finite, or NaN where undefined, got infinity. Replace it by NaN.")
    is_twice = table.duplicated(list(ROW))
    if is_twice.any():
        twice = table.loc[is_twice, list(ROW)]
        raise ValueError(
            f"Expected one row per case, subset and region, got a second one for {twice.iloc[0].to_list()}. "
            f"Give the tables of several models one by one."
        )
    sizes = table["subset"].map({subset: len(members(subset)) for subset in table["subset"].unique()})
    is_wrong = sizes != table["num_present"]
    if is_wrong.any():
        wrong = table[is_wrong]
        raise ValueError(
            f"Expected subsets named by their modalities, joined by '+', got {wrong['subset'].iloc[0]!r} with "
            f"num_present {wrong['num_present'].iloc[0]}. Rename modalities that have a '+' in their name."
        )
    scores: pd.DataFrame = table[[*KEYS, metric]]
    return scores


def check_direction(metric: str) -> None:
    """Make sure that it is known whether more of a metric is better."""
    if metric not in BETTER:
        raise ValueError(
            f"Expected a metric of which it is known what is better, {', '.join(BETTER)}, got {metric!r}. Add it to "
            f"BETTER in {__name__}."
        )
