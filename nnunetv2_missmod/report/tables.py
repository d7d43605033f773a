"""The numbers of one metric as the report prints them: the papers' table, areas, contributions and paired tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import pandas as pd

from nnunetv2_missmod.evaluation.complete_cases import Cases, cases_of_subsets, on_complete_cases
from nnunetv2_missmod.evaluation.intervals import Summary, bootstrap_intervals
from nnunetv2_missmod.evaluation.paired_tests import ALPHA, compare
from nnunetv2_missmod.evaluation.ranking import rank_shares
from nnunetv2_missmod.evaluation.summary import (
    case_counts,
    mean_over_subsets,
    modalities_in,
    robustness_area,
    subset_means,
)
from nnunetv2_missmod.evaluation.trainings import spread_over_trainings
from nnunetv2_missmod.report.case_list import CaseRow, case_rows
from nnunetv2_missmod.report.cells import UNDEFINED, Cell, Row
from nnunetv2_missmod.report.gain_tables import Gains, build_gains
from nnunetv2_missmod.report.inputs import Comparison
from nnunetv2_missmod.report.metric_names import Metric

TOO_FEW = "too few cases"


class PairedTest(NamedTuple):
    """A test of two models in a region, as ``compare`` describes it, printed in the metric's unit."""

    models: tuple[str, str]
    region: str
    pairs: int
    left_out: int
    difference: str
    better: str
    p: float
    p_holm: float
    smallest_p: float
    smallest_p_holm: float

    @property
    def untested(self) -> bool:
        """Whether there is no p, for want of cases that differ."""
        return math.isnan(self.p)


class Ranking(NamedTuple):
    """How often, in percent of the resamples, a model has each rank in a region; "–" where it is unknown."""

    region: str
    model: str
    shares: list[str]


class Table(NamedTuple):
    """All tables of one metric; columns go region by region, model by model.

    ``rows`` are the subsets, ``summaries`` their mean and the areas under the robustness curve.
    """

    metric: Metric
    modalities: list[str]
    regions: list[str]
    models: list[str]
    columns: list[tuple[str, str]]  # (region, model)
    rows: list[Row]
    summaries: list[Row]
    gains: Gains
    tests: list[PairedTest]
    rankings: list[Ranking]
    cases: list[CaseRow]

    @property
    def unequal(self) -> bool:
        """Whether a summary compares subsets on different cases."""
        return any(cell.mark for row in self.summaries for cell in row.cells)

    @property
    def smallest_p(self) -> str:
        """What the number of cases allows, in words; "" without a test."""
        known = [test for test in self.tests if not math.isnan(test.smallest_p)]
        if not known:
            return ""
        smallest, corrected = (min(getattr(test, p) for test in known) for p in ("smallest_p", "smallest_p_holm"))
        text = f"At best, if every case agreed, p would be {print_p(smallest)}, corrected for the {len(known)} tests"
        beyond = "" if corrected < ALPHA else f": too few cases for any difference to be significant at {ALPHA}"
        return f"{text} {print_p(corrected)}{beyond}."


def build_table(comparison: Comparison, metric: Metric) -> Table:
    """Compute all that the report prints of one metric."""
    return Table(
        metric,
        comparison.modalities,
        comparison.regions,
        list(comparison.models),
        comparison.columns,
        _subset_rows(comparison, metric),
        _summary_rows(comparison, metric),
        build_gains(comparison, metric),
        _tests(comparison, metric),
        _rankings(comparison, metric),
        case_rows(comparison, metric),
    )


def rank(badness: Sequence[float]) -> list[Literal["best", "second", ""]]:
    """Find the best and the second of several models, ties sharing a place; one model alone has none."""
    order = sorted({value for value in badness if not math.isnan(value)})
    if len(badness) < 2 or not order:
        return [""] * len(badness)
    return ["best" if v == order[0] else "second" if order[1:2] == [v] else "" for v in badness]


def print_p(p: float) -> str:
    """Print a p-value; words where there is none."""
    return TOO_FEW if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _subset_rows(comparison: Comparison, metric: Metric) -> list[Row]:
    means = comparison.side_by_side(lambda table: subset_means(table, metric.column))
    spreads = _spreads(comparison, lambda table: subset_means(table, metric.column))
    counts = comparison.side_by_side(lambda table: case_counts(table, metric.column)).fillna(0).astype(int)
    rows = []
    for name, present in comparison.subsets.items():
        cases = [Cases(count, count) for count in counts.loc[name]]
        cells = _cells(comparison, metric, means.loc[name], cases, spreads.loc[name])
        rows.append(Row(name, [modality in present for modality in comparison.modalities], cells))
    return rows


def _spreads(comparison: Comparison, summarise: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Standard deviations over the trainings of each model, laid out as ``side_by_side`` lays out their summaries."""
    return comparison.beside(
        {name: spread_over_trainings(comparison.trainings_of(name), summarise) for name in comparison.models}
    )


def _summary_rows(comparison: Comparison, metric: Metric) -> list[Row]:
    steps = max(len(modalities_in(comparison.subsets)) - 1, 1)
    summaries: dict[str, Summary] = {
        "mean": mean_over_subsets,
        "area": robustness_area,
        f"area / {steps}": partial(robustness_area, normalised=True),
    }
    complete, cases = complete_cases(comparison, metric)
    return [Row(name, [], _bounded_cells(complete, metric, summary, cases)) for name, summary in summaries.items()]


def complete_cases(comparison: Comparison, metric: Metric) -> tuple[Comparison, list[Cases]]:
    """Leave what a comparison of subsets rests on, and say for each column how many cases that is."""
    complete = {name: on_complete_cases(table) for name, table in comparison.tables.items()}
    cases = {name: cases_of_subsets(comparable, metric.column) for name, comparable in complete.items()}
    scores = pd.concat([comparable.table for comparable in complete.values()])
    trainings = {
        name: [on_complete_cases(table).table for table in tables] for name, tables in comparison.trainings.items()
    }
    return replace(comparison, scores=scores, trainings=trainings), [
        cases[model][region] for region, model in comparison.columns
    ]


def _bounded_cells(comparison: Comparison, metric: Metric, summary: Summary, cases: Sequence[Cases]) -> list[Cell]:
    found = comparison.beside(
        {
            name: bootstrap_intervals(comparison.trainings_of(name), metric.column, summary).T
            for name in comparison.models
        }
    )
    spreads = _spreads(comparison, lambda table: pd.DataFrame(summary(subset_means(table, metric.column))).T)
    lows, highs = (
        ["" if math.isnan(bound) else metric.text(bound) for bound in found.loc[name]] for name in ("low", "high")
    )
    cells = _cells(comparison, metric, found.loc["estimate"], cases, spreads.iloc[0])
    return [cell._replace(low=low, high=high) for cell, low, high in zip(cells, lows, highs, strict=True)]


def _tests(comparison: Comparison, metric: Metric) -> list[PairedTest]:
    return [
        PairedTest(
            (row["model_a"], row["model_b"]),
            row["region"],
            row["pairs"],
            row["left_out"],
            metric.text(row["median_difference"]),
            row["better"],
            row["p"],
            row["p_holm"],
            row["smallest_p"],
            row["smallest_p_holm"],
        )
        for row in compare(comparison.tables, metric.column, reference=comparison.reference).to_dict("records")
    ]


def _rankings(comparison: Comparison, metric: Metric) -> list[Ranking]:
    if len(comparison.models) < 2:
        return []
    complete, _ = complete_cases(comparison, metric)
    shares = rank_shares({name: complete.trainings_of(name) for name in complete.models}, metric.column).to_numpy()
    texts = [[UNDEFINED if math.isnan(share) else f"{100 * share:.0f}" for share in row] for row in shares]
    return [Ranking(*column, of_column) for column, of_column in zip(comparison.columns, texts, strict=True)]


def _cells(
    comparison: Comparison,
    metric: Metric,
    values: pd.Series[float],
    cases: Sequence[Cases],
    spreads: pd.Series[float],
) -> list[Cell]:
    """Print values in the order of the columns, the models of a region ranked among each other."""
    texts = [metric.text(value) for value in values]
    badness = [math.nan if text == UNDEFINED else metric.badness(text) for text in texts]
    count = len(comparison.models)
    places = [place for start in range(0, len(texts), count) for place in rank(badness[start : start + count])]
    spread = ["" if math.isnan(value) else metric.text(value) for value in spreads]
    return [
        Cell(text, of_cell, place, spread=deviation)
        for text, of_cell, place, deviation in zip(texts, cases, places, spread, strict=True)
    ]
