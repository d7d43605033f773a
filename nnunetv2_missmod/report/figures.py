"""The figures, each an inline SVG in the page's own ink: heat maps, curves, dots per case, bars of contributions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike, NDArray

from nnunetv2_missmod.evaluation.complete_cases import Cases
from nnunetv2_missmod.evaluation.gains import contribution
from nnunetv2_missmod.evaluation.summary import robustness_curve, subset_means
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
from nnunetv2_missmod.report.metric_names import Metric
from nnunetv2_missmod.report.tables import complete_cases

PITCH = 0.19  # inches between two columns of dots
ROW = 0.27  # inches


def draw_all(comparison: Comparison, metric: Metric) -> dict[str, list[Drawing]]:
    """All figures of a metric by their kind."""
    means = comparison.side_by_side(lambda table: subset_means(table, metric.column)) * metric.scale
    means = means.reindex(list(comparison.subsets))
    gains = comparison.side_by_side(lambda table: contribution(table, metric.column)) * metric.scale
    return {
        "heat": [heat_map(comparison, metric, means, model) for model in comparison.models],
        "curves": draw_curves(comparison, metric),
        "dots": [dots_per_case(comparison, metric, region) for region in comparison.regions],
        "gains": [gain_bars(comparison, metric, gains, region) for region in comparison.regions],
    }


def heat_map(comparison: Comparison, metric: Metric, means: pd.DataFrame, model: str) -> Drawing:
    """Subset by region of one model; all models' heat maps share the colours."""
    values = means.xs(model, axis=1, level="model")
    low, high = _limits(metric, means)
    labels = values.map(lambda value: metric.text(value / metric.scale))
    size = (0.72 * len(comparison.regions) + PITCH * len(comparison.modalities), ROW * len(values))
    with empty_figure(size) as (figure, ax):
        colours = {"higher": "viridis", "lower": "viridis_r", "zero": "vlag"}[metric.better]
        sns.heatmap(values, ax=ax, annot=labels, fmt="", cmap=colours, vmin=low, vmax=high, cbar=False,
                    annot_kws={"fontsize": 8}, linewidths=0.4, linecolor="#88888855")  # fmt: skip
        ax.set(xlabel="", ylabel="")
        names = [textwrap.fill(plain(region), 10) for region in values.columns]
        ax.set_xticks(np.arange(values.shape[1]) + 0.5, names, rotation=0)
        _dot_labels(ax, comparison, np.arange(len(values)) + 0.5)
        ax.set_title(plain(model), pad=_head_room(comparison.modalities))
        return drawn(figure, f"{metric.heading} of {model} by subset (rows) and region (columns).", model)


def draw_curves(comparison: Comparison, metric: Metric) -> list[Drawing]:
    """The curves of every region, over the cases that have all subsets."""
    complete, cases = complete_cases(comparison, metric)
    means = complete.side_by_side(lambda table: subset_means(table, metric.column)) * metric.scale
    means = means.reindex(list(comparison.subsets))
    count = len(comparison.models)
    of_region = [Cases.together(cases[i : i + count]) for i in range(0, len(cases), count)]
    pairs = zip(comparison.regions, of_region, strict=True)
    return [curves(comparison, metric, means, region, of_this) for region, of_this in pairs]


def curves(comparison: Comparison, metric: Metric, means: pd.DataFrame, region: str, cases: Cases) -> Drawing:
    """Mean by the number of modalities present, a line per model; small dots are the single subsets."""
    numbers = [len(present) for present in comparison.subsets.values()]
    curve = robustness_curve(means)[region]
    with empty_figure((3.1, 2.3)) as (figure, ax):
        for number, (model, colour) in enumerate(model_colours(comparison.models).items()):
            shift = (number - (len(comparison.models) - 1) / 2) * 0.08
            ax.scatter(np.add(numbers, shift), means[region, model], s=7, color=colour, alpha=0.4, linewidths=0)
            marker = MARKERS[number % len(MARKERS)]
            ax.plot(curve.index, curve[model], marker + "-", color=colour, label=plain(model), markersize=4.5)
        ax.set(xlabel="modalities present", ylabel=metric.heading, xticks=sorted(set(numbers)))
        ax.set_ylim(*_limits(metric, means, margin=0.04))
        ax.grid(axis="y", color="#88888844")
        ax.set_title(f"{plain(region)}, n = {cases.text}{cases.mark}")
        add_legend(ax, len(comparison.models), -0.22)
        in_words = "; ".join(f"{m}: " + ", ".join(f"{v:.1f} with {k}" for k, v in curve[m].items()) for m in curve)
        text = f"{metric.heading} of {region} by number of modalities present, over {cases.in_words}. {in_words}."
        return drawn(figure, text, region)


def dots_per_case(comparison: Comparison, metric: Metric, region: str) -> Drawing:
    """Every case of every subset, a colour per model; the upright stroke is the mean."""
    scores = comparison.scores[comparison.scores["region"] == region].dropna(subset=[metric.column])
    rows, count = {name: i for i, name in enumerate(comparison.subsets)}, len(comparison.models)
    height = len(rows) * max(ROW, 0.1 + 0.09 * count)
    titles: dict[str, list[str]] = {}
    with empty_figure((2.7, height)) as (figure, ax):
        for number, (model, colour) in enumerate(model_colours(comparison.models).items()):
            chosen = scores[scores["model"] == model]
            y = chosen["subset"].map(rows).to_numpy(float) + ((number + 0.5) / count - 0.5) * 0.8
            jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(y)) * 0.8 / count
            x = chosen[metric.column].to_numpy() * metric.scale
            shown = zip(chosen["case"], chosen["subset"], chosen[metric.column], strict=True)
            of_dots = [f"{case}, {subset}: {metric.text(value)}" for case, subset, value in shown]
            titles |= scatter_cases(ax, x, y + jitter, of_dots, number=number, colour=colour, label=model)
            means = pd.Series(x).groupby(y).mean()
            ax.scatter(means, means.index, marker="|", s=45, color=INK, linewidths=1.0, zorder=3)
        ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=metric.heading)
        ax.set_xlim(*_limits(metric, scores[[metric.column]] * metric.scale, margin=0.04))
        ax.hlines(np.arange(1, len(rows)) - 0.5, *ax.get_xlim(), color="#88888833", linewidth=0.6)
        ax.grid(axis="x", color="#88888833")
        _dot_labels(ax, comparison, np.arange(len(rows)))
        ax.set_title(plain(region), pad=_head_room(comparison.modalities))
        add_legend(ax, count, -0.5 / height)
        text = f"{metric.heading} of {region}: a dot for each case and subset, a stroke for their mean."
        return drawn(figure, text, region, titles)


def gain_bars(comparison: Comparison, metric: Metric, gains: pd.DataFrame, region: str) -> Drawing:
    """Mean gain from adding each modality (rows), a bar per model."""
    values, count = gains.xs(region, axis=1, level="region"), len(comparison.models)
    rows = np.arange(len(values))
    height = len(rows) * max(ROW, 0.1 + 0.11 * count)
    with empty_figure((2.7, height)) as (figure, ax):
        for number, (model, colour) in enumerate(model_colours(comparison.models).items()):
            y = rows + ((number + 0.5) / count - 0.5) * 0.8
            ax.barh(y, values[model], height=0.72 / count, color=colour, label=plain(model))
        ax.axvline(0, color=INK, linewidth=0.6)
        ax.set_yticks(rows, [plain(str(modality)) for modality in values.index])
        ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"gain in {metric.title} [{metric.unit}]")
        ax.set_xlim(*_limits(metric, np.append(gains, 0.0), margin=0.04))
        ax.grid(axis="x", color="#88888833")
        ax.set_axisbelow(True)
        ax.set_title(plain(region))
        add_legend(ax, count, -0.5 / height)
        in_words = "; ".join(f"{m}: " + ", ".join(f"{k} {v:.1f}" for k, v in values[m].items()) for m in values)
        return drawn(figure, f"Mean gain in {metric.title} of {region} from adding a modality. {in_words}.", region)


def _dot_labels(ax: Axes, comparison: Comparison, y: NDArray[Any]) -> None:
    """Label the rows with dots, filled for the modalities present, under the modalities' names."""
    count, figure = len(comparison.modalities), ax.figure
    ax.set_yticks([])
    for column, modality in enumerate(comparison.modalities):
        shift = ScaledTranslation((column - count) * PITCH + 0.04, 0, figure.dpi_scale_trans)
        fill = [INK if modality in present else "none" for present in comparison.subsets.values()]
        ax.scatter(np.zeros(len(y)), y, s=22, c=fill, edgecolors=INK, linewidths=0.7, clip_on=False,
                   transform=ax.get_yaxis_transform() + shift)  # fmt: skip
        ax.text(0, 1.0, f" {plain(modality)}", transform=ax.transAxes + shift, rotation=90, ha="center", va="bottom",
                fontsize=8)  # fmt: skip


def _head_room(modalities: Sequence[str]) -> float:
    """Points above the axes that the upright names need."""
    return 4.6 * max(map(len, modalities)) + 6


def _limits(metric: Metric, values: ArrayLike, margin: float = 0.0) -> tuple[float, float]:
    """Range of an axis or of colours: from the lowest value to the highest, as far on both sides of 0 for errors."""
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found)]
    low, high = (float(found.min()), float(found.max())) if found.size else (0.0, metric.scale)
    if metric.better == "zero":
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    width = max(high - low, 0.02 * metric.scale)
    return low - margin * width, low + (1 + margin) * width
