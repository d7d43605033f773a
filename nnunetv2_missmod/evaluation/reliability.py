"""Whether what was foreseen of masks is true: coverage of the bound, agreement of expected and true Dice.

All of the rows of ``calibration.csv`` (``calibration_table.py``). A row without a true Dice, truth and mask both empty,
says nothing and is left out, and so is one of which nothing was foreseen.
"""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import pandas as pd

ALL = "all"  # numbers of modalities together
SMALLEST_SPREAD = 1e-9  # of Dice; below it values are all alike


def coverage(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the masks whose true Dice is at least the bound.

    Args:
        table: the columns of ``calibration_table.DTYPES``.

    Returns:
        Columns ``share`` (NaN where there is no mask), ``masks`` and ``cases``; one row per region and number of
        modalities present, and ``ALL`` of these.
    """
    known = table.dropna(subset=["dice", "bound"]).assign(held=lambda rows: rows["dice"] >= rows["bound"])
    sizes = [*sorted(table["num_present"].unique()), ALL]
    found: dict[Any, Any] = {}
    for region in table["region"].unique():
        for size in sizes:
            rows = known[(known["region"] == region) & ((known["num_present"] == size) | (size == ALL))]
            found[region, size] = {"share": rows["held"].mean() if len(rows) else nan, **_numbers(rows)}
    return _by_key(found, ["region", "num_present"])


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How near the expected Dice is to the true one, among the masks of a subset and on average.

    Args:
        table: the columns of ``calibration_table.DTYPES``.

    Returns:
        One row per region. ``correlation`` is Pearson's, of the differences from the means of each mask's subset, so
        that it is none where a subset's masks are all expected to be alike (NaN); ``error`` is the mean of
        |expected - true|, ``naive_error`` that of |mean of the subset over the other cases - true|, both over the same
        ``masks`` of ``cases``.
    """
    known = table.dropna(subset=["dice", "expected_dice", "subset_mean"])
    found: dict[Any, Any] = {}
    for region in table["region"].unique():
        rows = known[known["region"] == region]
        found[region] = {
            "correlation": _correlation_within(rows),
            "error": (rows["expected_dice"] - rows["dice"]).abs().mean(),
            "naive_error": (rows["subset_mean"] - rows["dice"]).abs().mean(),
            **_numbers(rows),
        }
    return _by_key(found, ["region"])


def reliability_bins(table: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Mean of the expected and of the true Dice in equally wide bins of the expected one.

    Args:
        table: rows of one region.
        bins: between 0 and 1; one that is empty has no row.

    Returns:
        Columns ``expected_dice``, ``dice``, ``masks``; one row per bin, upwards.
    """
    known = table.dropna(subset=["dice", "expected_dice"])
    place = (known["expected_dice"] * bins).astype(int).clip(upper=bins - 1)
    of_bin = known.groupby(place)
    means: pd.DataFrame = of_bin[["expected_dice", "dice"]].mean().assign(masks=of_bin.size()).reset_index(drop=True)
    return means


def _correlation_within(rows: pd.DataFrame) -> float:
    values = rows[["expected_dice", "dice"]]
    expected, true = (values - values.groupby(rows["subset"]).transform("mean")).to_numpy().T
    if not len(rows) or min(expected.std(), true.std()) < SMALLEST_SPREAD:
        return nan
    return float(np.mean(expected * true) / (expected.std() * true.std()))


def _numbers(rows: pd.DataFrame) -> dict[str, int]:
    return {"masks": len(rows), "cases": rows["case"].nunique()}


def _by_key(found: dict[Any, Any], names: list[str]) -> pd.DataFrame:
    table: pd.DataFrame = pd.DataFrame.from_dict(found, orient="index").rename_axis(index=names)
    return table
