"""Summaries of a long table in plain Python loops, to compare with."""

import math
from collections import defaultdict

import numpy as np
from small_scores import long_table

from nnunetv2_missmod.evaluation.summary import (
    BETTER,
)


def mean(values):
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def looped_means(table, metric):
    """Mean over cases by (subset, region), in plain Python."""
    scores = defaultdict(list)
    for row in table.to_dict("records"):
        scores[row["subset"], row["region"]].append(row[metric])
    return {key: mean(values) for key, values in scores.items()}


def looped_curve(table, metric):
    """D_k by (k, region)."""
    by_size = defaultdict(list)
    for (subset, region), value in looped_means(table, metric).items():
        by_size[len(subset.split("+")), region].append(value)
    return {key: mean(values) for key, values in by_size.items()}


def undefined_somewhere(**kwargs):
    """A table with 30 % of the scores undefined, and one subset undefined in every case."""
    table = long_table(undefined=0.3, **kwargs)
    table.loc[(table["subset"] == "FLAIR+T2") & (table["region"] == "core"), list(BETTER)] = np.nan
    return table
