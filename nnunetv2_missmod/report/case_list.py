"""Every case's scores, the worst case first."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from nnunetv2_missmod.report.inputs import Comparison
from nnunetv2_missmod.report.metric_names import Metric


class CaseRow(NamedTuple):
    """A case, how many subsets it has, and its means over them in the order of a table's columns."""

    name: str
    subsets: int
    texts: list[str]


def case_rows(comparison: Comparison, metric: Metric) -> list[CaseRow]:
    """List the cases by their mean over regions and models, the worst first and those without any score last."""
    grouped = comparison.scores.groupby(["case", "region", "model"])[metric.column].mean()
    means = grouped.unstack(["region", "model"]).reindex(columns=pd.MultiIndex.from_tuples(comparison.columns))
    goodness = {"higher": means, "lower": -means, "zero": -means.abs()}[metric.better].mean(axis="columns")
    subsets = comparison.scores.groupby("case")["subset"].nunique()
    return [
        CaseRow(str(case), int(subsets[case]), [metric.text(value) for value in means.loc[case]])
        for case in goodness.sort_values(kind="stable").index
    ]
