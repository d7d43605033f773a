"""What a modality is worth: its gain given what is there, its mean contribution, and its Shapley value.

A gain is taken within a case, so that cases without a modality say nothing about it. Its sign says better or worse:
positive is a higher Dice, a smaller distance (mm), a smaller absolute volume error.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import factorial
from typing import Any, Literal

import numpy as np
import pandas as pd

from nnunetv2_missmod.evaluation.summary import BETTER, check_direction, goodness, members, modalities_in, wide_table

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
    return contribution_of(gains_given(table, metric), table["subset"].unique())


def contribution_of(given: pd.DataFrame, subsets: Iterable[str]) -> pd.DataFrame:
    """Fold ``gains_given`` into ``contribution``.

    Args:
        given: of one model or of several side by side.
        subsets: of the table.
    """
    means: pd.DataFrame = given.groupby("modality").mean()
    return _by_modality(means, subsets)


def contribution_counts(counts: pd.DataFrame, subsets: Iterable[str], of: Literal["fewest", "most"]) -> pd.DataFrame:
    """Fewest or most cases of the gains whose mean is ``contribution``; 0 where that is NaN.

    Args:
        counts: as ``gain_counts`` gives them, of one model or of several side by side.
        subsets: of the table.
        of: which.
    """
    of_modality = counts[counts > 0].groupby("modality")
    found: pd.DataFrame = of_modality.min() if of == "fewest" else of_modality.max()
    ordered: pd.DataFrame = _by_modality(found, subsets).fillna(0).astype(int)
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


# --- Shapley values ---------------------------------------------------------------------------------------------------


def shapley_values(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Shapley value of each modality: its gain, averaged over all orders in which the modalities may be added.

    The value of a set of modalities is its mean score and that of none is 0, so that the values of a region add up to
    the mean of the full set. All means are over the same cases, those with a score from every subset. (Shapley, "A
    value for n-person games", 1953.)

    Args:
        table: the long table of one model.
        metric: one that ``why_no_shapley_values`` says nothing against.

    Returns:
        One row per modality and one column per region; NaN where no case has a score from every subset.

    Raises:
        ValueError: as ``gains_given``, or there are no Shapley values, and why.
    """
    reason = why_no_shapley_values(table, metric)
    if reason:
        raise ValueError(f"Expected scores that have Shapley values, got {metric}: {reason}.")
    of_region = {region: scores.mean() for region, scores in _with_every_score(table, metric).items()}
    means = pd.DataFrame(of_region).rename_axis(columns="region")
    values: pd.DataFrame = _shapley_weights(list(means.index)) @ means
    return values


def shapley_counts(table: pd.DataFrame, metric: str) -> pd.Series[int]:
    """Number of cases by region on which ``shapley_values`` rest."""
    counts = {region: len(scores) for region, scores in _with_every_score(table, metric).items()}
    of_region: pd.Series[int] = pd.Series(counts, dtype=int).rename_axis("region")
    return of_region


def why_no_shapley_values(table: pd.DataFrame, metric: str) -> str:
    """Say why there are no Shapley values; "" where there are.

    Raises:
        ValueError: as ``gains_given``.
    """
    check_direction(metric)
    if BETTER[metric] != "higher":
        return "with no modality at all it is not 0"
    scored = table["subset"].nunique()
    every = 2 ** len(modalities_in(table["subset"].unique())) - 1
    if scored < every:
        return f"they need a score from each of the {every} subsets, and {scored} are scored"
    return "" if shapley_counts(table, metric).any() else "no case has a score from every subset"


def _with_every_score(table: pd.DataFrame, metric: str) -> dict[str, pd.DataFrame]:
    """Scores (cases, subsets) by region, of the cases that have one from every subset."""
    wide: Any = wide_table(table, metric)
    return {region: wide[region].dropna() for region in wide.columns.unique("region")}


def _shapley_weights(subsets: list[str]) -> pd.DataFrame:
    """Weight (modalities, subsets) of each subset's mean in each modality's value.

    In (|S| - 1)! (M - |S|)! of the M! orders m is the last of S, and in |S|! (M - |S| - 1)! it is the next after S.
    """
    modalities = modalities_in(subsets)
    count = len(modalities)
    weights: pd.DataFrame = pd.DataFrame(0.0, pd.Index(modalities, name="modality"), pd.Index(subsets, name="subset"))
    for subset in subsets:
        size = len(members(subset))
        for modality in modalities:
            is_in = modality in members(subset)
            before, after = (size - 1, count - size) if is_in else (size, count - size - 1)
            share = factorial(before) * factorial(after) / factorial(count)
            weights.loc[modality, subset] = share if is_in else -share
    return weights


# --- by case ----------------------------------------------------------------------------------------------------------


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


def _by_modality(of_modality: pd.DataFrame, subsets: Iterable[str]) -> pd.DataFrame:
    modalities = pd.Index(modalities_in(subsets), name="modality")
    rows: pd.DataFrame = of_modality.reindex(modalities).astype(float)
    return rows
