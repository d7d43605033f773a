"""Several trainings of one model, such as its seeds: their mean, case by case, and their spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from nnunetv2_missmod.evaluation.summary import KEYS


def mean_over_trainings(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Average the long tables of trainings, each case, subset and region over those where its score is defined.

    Args:
        tables: on the same cases and subsets; one alone is given back.
    """
    if len(tables) == 1:
        return tables[0]
    grouped = pd.concat(tables).groupby(list(KEYS), sort=False)
    mean: pd.DataFrame = grouped.mean(numeric_only=True).reset_index()
    return mean


def spread_over_trainings(
    tables: Sequence[pd.DataFrame], summarise: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """Standard deviation (with N - 1) over trainings of each value of a summary; NaN for one training."""
    found = pd.concat([summarise(table) for table in tables], keys=range(len(tables)))
    spread: pd.DataFrame = found.groupby(level=1, sort=False).std()
    return spread
