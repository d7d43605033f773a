"""What a modality is worth: its gain given what is there, its mean contribution, and its Shapley value.

A gain is taken within a case, so that cases without a modality say nothing about it. Its sign says better or worse:
positive is a higher Dice, a smaller distance (mm), a smaller absolute volume error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pandas as pd

from nnunetv2_missmod.evaluation.summary import goodness, members, modalities_in, wide_table

# --- gains ------------------------------------------------------------------------------------------------------------


def gains_given(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean gain from adding one modality to what is there, for every subset and every modality that it lacks.

    The gain of m given S is the mean of score(S + m) - score(S) over the cases that have both scores. S is never empty.

    Args:
        table: the long table of one model.
        metric: one of ``BETTER``.

    Returns:
        One row per (subset, modality), subsets in the order of a paper, and one column per region; only where S + m is
        in the table. NaN where no case has both scores.

    Raises:
        ValueError: as ``subset_means``, or the metric is not in ``BETTER``.
    """
    return _by_pair({pair: gains.mean() for pair, gains in _gains_by_case(table, metric).items()}, table)


def gain_counts(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Number of cases in each mean of ``gains_given``, laid out as that."""
    counts = {pair: gains.count() for pair, gains in _gains_by_case(table, metric).items()}
    found: pd.DataFrame = _by_pair(counts, table).astype(int)
    return found


def contribution(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean gain from adding a modality, one row per modality and one column per region.

    The mean of ``gains_given`` over all subsets for which a case has both scores; what a modality does alone is no
    gain. NaN where the table has no such pair.

    Raises:
        ValueError: as ``gains_given``.
    """
    means: pd.DataFrame = gains_given(table, metric).groupby("modality").mean()
    return _by_modality(means, table)


def contribution_counts(table: pd.DataFrame, metric: str, of: Literal["fewest", "most"]) -> pd.DataFrame:
    """Fewest or most cases of the gains whose mean is ``contribution``; 0 where that is NaN."""
    counts = gain_counts(table, metric)
    of_modality = counts[counts > 0].groupby("modality")
    found: pd.DataFrame = of_modality.min() if of == "fewest" else of_modality.max()
    ordered: pd.DataFrame = _by_modality(found, table).fillna(0).astype(int)
    return ordered


def modality_pairs(subsets: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Pair, for each modality, the subsets without it with the same subsets with it, where both are there."""
    name_of = {frozenset(members(subset)): subset for subset in subsets}
    return {
        modality: [
            (subset, name_of[without | {modality}])
            for without, subset in name_of.items()
            if modality not in without and without | {modality} in name_of
        ]
        for modality in modalities_in(name_of.values())
    }


def _gains_by_case(table: pd.DataFrame, metric: str) -> dict[tuple[str, str], pd.DataFrame]:
    """Gains (cases, regions) by subset and modality added, in the order of ``gains_given``."""
    better: Any = goodness(wide_table(table, metric), metric)
    subsets = list(better.columns.unique("subset"))
    of_subset = {subset: better.xs(subset, axis="columns", level="subset") for subset in subsets}
    added = {
        (before, modality): of_subset[after] - of_subset[before]
        for modality, pairs in modality_pairs(subsets).items()
        for before, after in pairs
    }
    return {pair: added[pair] for pair in sorted(added, key=lambda pair: subsets.index(pair[0]))}


def _by_pair(of_pair: dict[tuple[str, str], pd.Series[Any]], table: pd.DataFrame) -> pd.DataFrame:
    """Lay out what there is of every (subset, modality): one row each, one column per region."""
    names = ["subset", "modality"]
    index = pd.MultiIndex.from_arrays([[pair[i] for pair in of_pair] for i in range(len(names))], names=names)
    columns = pd.Index(table["region"].unique(), name="region")
    rows = [of_region.reindex(columns) for of_region in of_pair.values()]
    found: pd.DataFrame = pd.DataFrame(np.reshape(rows, (len(index), len(columns))), index=index, columns=columns)
    return found


def _by_modality(of_modality: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    modalities = pd.Index(modalities_in(table["subset"].unique()), name="modality")
    rows: pd.DataFrame = of_modality.reindex(modalities).astype(float)
    return rows
