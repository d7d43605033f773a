"""The few means that the report needs, until ``summary`` gives them."""

from __future__ import annotations

import pandas as pd


def subset_means(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean over the cases: rows are subsets, columns (region, model)."""
    return _by_subset(scores, metric).mean().unstack(["region", "model"])


def subset_counts(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Number of cases in each mean of ``subset_means``: those where the metric is defined."""
    return _by_subset(scores, metric).count().unstack(["region", "model"])


def means_by_number(means: pd.DataFrame, num_present: pd.Series) -> pd.DataFrame:
    """Mean of ``subset_means`` over the subsets with as many modalities: rows are numbers of modalities."""
    return means.groupby(num_present.reindex(means.index)).mean()


def case_means(scores: pd.DataFrame, metric: str) -> pd.Series:
    """Mean of each case over models, subsets and regions, worst first, cases without any value last."""
    return scores.groupby("case", sort=True)[metric].mean().sort_values(kind="stable")


def _by_subset(scores: pd.DataFrame, metric: str) -> pd.api.typing.SeriesGroupBy:
    return scores.groupby(["subset", "region", "model"], sort=False)[metric]
