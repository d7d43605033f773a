"""What each modality is worth, as the report prints it: contributions, gains given what is there, Shapley values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nnunetv2_missmod.evaluation.complete_cases import Cases
from nnunetv2_missmod.evaluation.gains import (
    contribution,
    contribution_counts,
    contribution_of,
    gain_counts,
    gains_given,
    shapley_counts,
    shapley_values,
    why_no_shapley_values,
)
from nnunetv2_missmod.report.cells import Cell, Row
from nnunetv2_missmod.report.inputs import Comparison
from nnunetv2_missmod.report.metric_names import Metric


class GainCell(NamedTuple):
    """Gain of a modality in a region; ``share`` of the metric's largest gain or loss is its colour, from -1 to 1."""

    text: str  # "" where the modality is there already
    cases: Cases
    share: float


class GainRow(NamedTuple):
    """A subset and what each modality would add to it: region by region, modality by modality."""

    subset: str
    present: list[bool]
    cells: list[GainCell]

    @property
    def cases(self) -> Cases:
        """How many cases the gains rest on."""
        return Cases.together([cell.cases for cell in self.cells if cell.text])


GainMaps = dict[str, list[GainRow]]
THERE = GainCell("", Cases(0, 0), 0.0)


class Gains(NamedTuple):
    """What each modality is worth by one metric.

    ``given`` are gains given a subset, in the order of the columns; a row's name is the modality added, ``present`` the
    subset. ``maps`` holds the same by model. ``no_shapley`` says why there are no Shapley values, in words.
    """

    contributions: list[Row]
    given: list[Row]
    maps: GainMaps
    shapley: list[Row]
    shapley_sum: Row | None
    no_shapley: str


def build_gains(comparison: Comparison, metric: Metric) -> Gains:
    """Compute all that the report prints on what the modalities are worth."""
    values = comparison.side_by_side(partial(gains_given, metric=metric.column))
    counts = comparison.side_by_side(partial(gain_counts, metric=metric.column)).fillna(0).astype(int)
    shapley, total, reason = _shapley_rows(comparison, metric)
    return Gains(
        _contribution_rows(comparison, metric, values, counts),
        _given_rows(comparison, metric, values, counts),
        _gain_maps(comparison, metric, values, counts),
        shapley,
        total,
        reason,
    )


def _contribution_rows(comparison: Comparison, metric: Metric, values: pd.DataFrame, counts: pd.DataFrame) -> list[Row]:
    gains = contribution_of(values, comparison.subsets)
    fewest, most = (contribution_counts(counts, comparison.subsets, of).to_numpy() for of in ("fewest", "most"))
    return [
        Row(str(modality), [], _cells(metric, row, of_few, of_many))
        for modality, row, of_few, of_many in zip(gains.index, gains.to_numpy(), fewest, most, strict=True)
    ]


def _given_rows(comparison: Comparison, metric: Metric, values: pd.DataFrame, counts: pd.DataFrame) -> list[Row]:
    return [
        Row(modality, _present(comparison, subset), _cells(metric, row, of_row, of_row))
        for (subset, modality), row, of_row in zip(values.index, values.to_numpy(), counts.to_numpy(), strict=True)
    ]


def _gain_maps(comparison: Comparison, metric: Metric, values: pd.DataFrame, counts: pd.DataFrame) -> GainMaps:
    """Fold the rows of the pairs into one row per subset, for each model; all are in the same colours."""
    largest = float(np.nan_to_num(values.abs().to_numpy()).max(initial=0.0)) or 1.0
    of_pair = dict(zip(values.index, zip(values.to_numpy(), counts.to_numpy(), strict=True), strict=True))
    maps: GainMaps = {model: [] for model in comparison.models}
    for subset in values.index.unique("subset"):
        for place, model in enumerate(comparison.models):
            cells = []
            for column in range(place, len(comparison.columns), len(comparison.models)):
                for pair in ((subset, modality) for modality in comparison.modalities):
                    cells.append(_gain_cell(metric, of_pair[pair], column, largest) if pair in of_pair else THERE)
            maps[model].append(GainRow(subset, _present(comparison, subset), cells))
    return maps


def _gain_cell(metric: Metric, row: tuple[Any, Any], column: int, largest: float) -> GainCell:
    value, count = float(row[0][column]), int(row[1][column])
    return GainCell(metric.text(value), Cases(count, count), 0.0 if math.isnan(value) else value / largest)


def _shapley_rows(comparison: Comparison, metric: Metric) -> tuple[list[Row], Row | None, str]:
    """A row for each modality, the sum of them, and why there are none."""
    reasons = [why_no_shapley_values(table, metric.column) for table in comparison.tables.values()]
    if all(reasons):
        return [], None, reasons[0]
    values = comparison.side_by_side(partial(_shapley_values, metric=metric.column))
    of_region = comparison.side_by_side(lambda table: shapley_counts(table, metric.column).to_frame().T)
    counts = of_region.fillna(0).to_numpy()[0]
    rows = [
        Row(str(modality), [], _cells(metric, row, counts, counts))
        for modality, row in zip(values.index, values.to_numpy(), strict=True)
    ]
    return rows, Row("sum", [], _cells(metric, values.sum(skipna=False), counts, counts)), ""


def _shapley_values(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """None of them where another model has some."""
    if not why_no_shapley_values(table, metric):
        return shapley_values(table, metric)
    nothing: pd.DataFrame = contribution(table, metric) * np.nan
    return nothing


def _present(comparison: Comparison, subset: str) -> list[bool]:
    return [modality in comparison.subsets[subset] for modality in comparison.modalities]


def _cells(metric: Metric, values: Iterable[float], fewest: Iterable[int], most: Iterable[int]) -> list[Cell]:
    columns = zip(values, fewest, most, strict=True)
    return [Cell(metric.text(value), Cases(int(few), int(many))) for value, few, many in columns]
