"""How far the masks of each model can be trusted, as the report prints it: what was foreseen beside what is true."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from nnunetv2_missmod.evaluation.complete_cases import Cases
from nnunetv2_missmod.evaluation.reliability import ALL, agreement, coverage, reliability_bins
from nnunetv2_missmod.report.cells import UNDEFINED
from nnunetv2_missmod.report.drawing import (
    INK,
    MARKERS,
    Drawing,
    add_legend,
    drawn,
    empty_figure,
    model_colours,
    plain,
    scatter_cases,
)
from nnunetv2_missmod.report.inputs import Comparison


class Share(NamedTuple):
    """A printed share of masks, and how many they are of how many cases."""

    text: str
    masks: int
    cases: int

    @property
    def in_words(self) -> str:
        """The numbers with their nouns."""
        masks, cases = ("" if number == 1 else "s" for number in (self.masks, self.cases))
        return f"{self.masks} mask{masks} of {self.cases} case{cases}"


class CoverageRow(NamedTuple):
    """Shares of the masks with this number of modalities, in the order of the columns; the last row is of all."""

    name: str
    shares: list[Share]

    @property
    def cases(self) -> str:
        """Of how many cases they are, the fewest and the most."""
        return _range([share.cases for share in self.shares])

    @property
    def masks(self) -> str:
        """How many they are, the fewest and the most."""
        return _range([share.masks for share in self.shares])


class Agreement(NamedTuple):
    """What is printed of expected and true Dice of a model's masks in a region."""

    region: str
    model: str
    correlation: str
    error: str
    naive_error: str
    cases: int
    masks: int


class Trust(NamedTuple):
    """The section: of the ``models`` with calibration; ``without`` names the others.

    ``columns`` are (region, model), region by region; ``confidences`` stand in their order.
    """

    models: list[str]
    without: list[str]
    regions: list[str]
    columns: list[tuple[str, str]]
    coverage: list[CoverageRow]
    confidences: list[str]
    agreement: list[Agreement]
    drawings: list[Drawing]


def build_trust(comparison: Comparison) -> Trust:
    """Compute and draw all that the report shows of calibration; of several trainings the first one's."""
    tables = _calibrations(comparison)
    models, regions = list(tables), comparison.regions
    columns = [(region, model) for region in regions for model in models]
    return Trust(
        models,
        [name for name in comparison.models if name not in tables],
        regions,
        columns,
        _coverage_rows(tables, columns),
        [f"{100 * tables[model]['confidence'].iloc[0]:.1f}" for _, model in columns],
        _agreements(tables, columns),
        [reliability_plot(tables, region) for region in regions] if models else [],
    )


def _calibrations(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """The tables of the models that have one, on the cases and subsets that are compared."""
    found: dict[str, pd.DataFrame] = {}
    for name, model in comparison.models.items():
        compared = comparison.tables[name][["case", "subset", "region"]]
        if model.calibration is not None:
            shared = model.calibration.merge(compared)
            found |= {} if shared.empty else {name: shared}
    return found


def _coverage_rows(tables: Mapping[str, pd.DataFrame], columns: list[tuple[str, str]]) -> list[CoverageRow]:
    of_model: Any = {model: coverage(table).to_dict("index") for model, table in tables.items()}
    sizes = sorted({size for table in tables.values() for size in table["num_present"]})
    return [
        CoverageRow(str(size), [_share(of_model[model].get((region, size))) for region, model in columns])
        for size in ([*sizes, ALL] if tables else [])
    ]


def _share(found: dict[str, Any] | None) -> Share:
    if found is None:
        return Share(UNDEFINED, 0, 0)
    return Share(_text(100 * found["share"], 1), int(found["masks"]), int(found["cases"]))


def _agreements(tables: Mapping[str, pd.DataFrame], columns: list[tuple[str, str]]) -> list[Agreement]:
    of_model = {model: agreement(table).to_dict("index") for model, table in tables.items()}
    rows = [(region, model, of_model[model][region]) for region, model in columns if region in of_model[model]]
    return [
        Agreement(
            region,
            model,
            _text(found["correlation"], 2),
            _text(100 * found["error"], 2),
            _text(100 * found["naive_error"], 2),
            int(found["cases"]),
            int(found["masks"]),
        )
        for region, model, found in rows
    ]


def reliability_plot(tables: Mapping[str, pd.DataFrame], region: str) -> Drawing:
    """True by expected Dice, a dot for each mask and a line through the means of the bins, a colour per model."""
    titles: dict[str, list[str]] = {}
    in_words = []
    with empty_figure((2.8, 2.8)) as (figure, ax):
        ax.plot([0, 100], [0, 100], "--", color=INK, linewidth=0.8)
        for number, (model, colour) in enumerate(model_colours([*tables]).items()):
            rows = tables[model][tables[model]["region"] == region].dropna(subset=["expected_dice", "dice"])
            expected, true = 100 * rows["expected_dice"].to_numpy(), 100 * rows["dice"].to_numpy()
            shown = zip(rows["case"], rows["subset"], expected, true, strict=True)
            of_dots = [f"{case}, {subset}: {x:.1f} expected, {y:.1f} true" for case, subset, x, y in shown]
            titles |= scatter_cases(ax, expected, true, of_dots, number=number, colour=colour)
            bins = 100 * reliability_bins(rows)[["expected_dice", "dice"]]
            ax.plot(bins["expected_dice"], bins["dice"], MARKERS[number % len(MARKERS)] + "-", color=colour,
                    label=plain(model), markersize=5, markeredgecolor=INK, markeredgewidth=0.6)  # fmt: skip
            pairs = ", ".join(f"{x:.1f}: {y:.1f}" for x, y in bins.itertuples(index=False))
            in_words.append(f"{model}: {pairs or UNDEFINED}")
        ax.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="expected Dice [%]", ylabel="true Dice [%]", aspect="equal")
        ax.grid(color="#88888833")
        ax.set_title(plain(region))
        add_legend(ax, len(tables), -0.2)
        text = f"True Dice of {region} by expected Dice, a dot for each case and subset, and the means of ten bins."
        return drawn(figure, f"{text} {'; '.join(in_words)}.", region, titles)


def _text(value: float, decimals: int) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.{decimals}f}"


def _range(numbers: list[int]) -> str:
    return Cases(min(numbers), max(numbers)).text
