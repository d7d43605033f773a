"""The papers' table: a row per subset with dots for its modalities, a column per region and model."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from nnunetv2_missmod.evaluation.report.inputs import Comparison
from nnunetv2_missmod.evaluation.report.means import subset_counts, subset_means
from nnunetv2_missmod.evaluation.report.metrics import Metric

PRESENT, ABSENT, UNDEFINED = "●", "○", "–"
LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    UNDEFINED: "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
}


class Cell(NamedTuple):
    """A printed mean, its place among the models of its row and region, and how many cases are in it."""

    text: str
    place: Literal["best", "second", ""]
    cases: int


class Row(NamedTuple):
    """A subset, or the mean over the subsets: which modalities are present, and cells in the order of the columns."""

    name: str
    present: list[bool]
    cells: list[Cell]


class Table(NamedTuple):
    """The table of one metric; columns go region by region, model by model."""

    metric: Metric
    modalities: list[str]
    regions: list[str]
    models: list[str]
    rows: list[Row]
    mean: Row

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(region, model) of every column."""
        return [(region, model) for region in self.regions for model in self.models]


def build_table(comparison: Comparison, metric: Metric) -> Table:
    """Means over the cases of one metric; the last row is their mean over the subsets."""
    models, regions, subsets = list(comparison.models), comparison.regions, comparison.subsets
    columns = [(region, model) for region in regions for model in models]
    means = subset_means(comparison.scores, metric.column).reindex(index=list(subsets), columns=columns)
    counts = subset_counts(comparison.scores, metric.column).reindex_like(means).fillna(0).astype(int)
    rows = [
        Row(
            name,
            [modality in present for modality in comparison.modalities],
            _cells(metric, means.loc[name].tolist(), counts.loc[name].tolist(), len(models)),
        )
        for name, present in subsets.items()
    ]
    mean = Row("mean", [], _cells(metric, means.mean().tolist(), counts.min().tolist(), len(models)))
    return Table(metric, comparison.modalities, regions, models, rows, mean)


def _cells(metric: Metric, values: Sequence[float], counts: Sequence[int], num_models: int) -> list[Cell]:
    texts = [metric.text(value) for value in values]
    badness = [math.nan if text == UNDEFINED else metric.badness(text) for text in texts]
    regions = [badness[start : start + num_models] for start in range(0, len(texts), num_models)]
    places = [place for region in regions for place in rank(region)]
    return [Cell(*cell) for cell in zip(texts, places, counts, strict=True)]


def rank(badness: Sequence[float]) -> list[Literal["best", "second", ""]]:
    """Find the best and the second of several models, ties sharing a place; one model alone has none."""
    order = sorted({value for value in badness if not math.isnan(value)})
    if len(badness) < 2 or not order:
        return [""] * len(badness)
    return ["best" if v == order[0] else "second" if order[1:2] == [v] else "" for v in badness]


def to_markdown(tables: Sequence[Table]) -> str:
    """Tables as Markdown: best bold, second in italics (Markdown has no underline)."""
    return "\n".join(_markdown_table(table) for table in tables)


def _markdown_table(table: Table) -> str:
    names = [escape_markdown(modality) for modality in table.modalities]
    heads = [f"{escape_markdown(region)}<br>{escape_markdown(model)}" for region, model in table.columns]
    lines = [[*names, *heads], [*[":-:"] * len(names), *["--:"] * len(heads)]]
    for row in table.rows:
        lines.append([*_dots(row), *(_mark(cell, "**{}**", "*{}*") for cell in row.cells)])
    mean = [_mark(cell, "**{}**", "*{}*") for cell in table.mean.cells]
    lines.append(["mean", *[""] * (len(names) - 1), *mean])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {escape_markdown(table.metric.heading)}\n\n{body}\n"


def to_latex(tables: Sequence[Table]) -> str:
    """Tables as LaTeX for the package booktabs: best bold, second underlined."""
    head = "% \\usepackage{booktabs} in the preamble; a wide table fits with \\resizebox{\\textwidth}{!}{...} around it"
    return "\n".join([head, *(_latex_table(table) for table in tables)])


def _latex_table(table: Table) -> str:
    count, models = len(table.modalities), len(table.models)
    regions = [rf"\multicolumn{{{models}}}{{c}}{{{escape_latex(region)}}}" for region in table.regions]
    starts = [count + 1 + i * models for i in range(len(table.regions))]
    rules = " ".join(rf"\cmidrule(lr){{{start}-{start + models - 1}}}" for start in starts)
    dots = {PRESENT: r"$\bullet$", ABSENT: r"$\circ$"}
    lines = [
        [*[""] * count, *regions],
        [*map(escape_latex, table.modalities), *(escape_latex(model) for _, model in table.columns)],
        *([*(dots[dot] for dot in _dots(row)), *map(_latex_cell, row.cells)] for row in table.rows),
        [rf"\multicolumn{{{count}}}{{c}}{{mean}}", *map(_latex_cell, table.mean.cells)],
    ]
    top, names, *rows, mean = (" & ".join(line) + r" \\" for line in lines)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(table.metric.heading)}}}",
            rf"\begin{{tabular}}{{{'c' * count}{'r' * len(table.columns)}}}",
            *(r"\toprule", top, rules, names, r"\midrule", *rows, r"\midrule", mean, r"\bottomrule"),
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_csv(tables: Sequence[Table]) -> str:
    """Tables as one CSV: a row per metric and subset, 1 and 0 for the modalities, a column per region and model."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{region} / {model}" for region, model in tables[0].columns]
    writer.writerow(["metric", "unit", "subset", *tables[0].modalities, *columns])
    for table in tables:
        for row in (*table.rows, table.mean):
            present = [str(int(p)) for p in row.present] or [""] * len(table.modalities)
            values = ["" if cell.text == UNDEFINED else cell.text for cell in row.cells]
            writer.writerow([table.metric.column, table.metric.unit, row.name, *present, *values])
    return text.getvalue()


def escape_markdown(name: str) -> str:
    """Write a name so that Markdown, and the HTML within it, show it as it is."""
    entities = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " "}
    return "".join(entities.get(c) or re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", c) for c in name)


def escape_latex(name: str) -> str:
    """Write a name so that LaTeX shows it as it is."""
    return "".join(LATEX.get(letter, letter) for letter in re.sub(r"\s", " ", name))


def _dots(row: Row) -> list[str]:
    return [PRESENT if present else ABSENT for present in row.present]


def _mark(cell: Cell, best: str, second: str) -> str:
    return {"best": best, "second": second, "": "{}"}[cell.place].format(cell.text)


def _latex_cell(cell: Cell) -> str:
    text = cell.text.replace("-", "$-$").replace(UNDEFINED, "--")
    return _mark(cell._replace(text=text), r"\textbf{{{}}}", r"\underline{{{}}}")
