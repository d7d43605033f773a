"""The report's tables to paste elsewhere: Markdown, LaTeX and CSV.

Written here rather than by pandas: its LaTeX has no cell over several columns in a row of the body (the mean's) and
leaves what names may hold (arrows, quotes, brackets after a row's end) as it is; its Markdown needs another package.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from itertools import compress

from nnunetv2_missmod.evaluation.complete_cases import UNEQUAL, UNEQUAL_MARK
from nnunetv2_missmod.report.cells import UNDEFINED, Cell, Row
from nnunetv2_missmod.report.tables import Table, print_p

PRESENT, ABSENT, MINUS = "●", "○", "−"
INTERVALS = "with 95 % intervals"
COUNT = "cases"  # heads the column that says how many a row rests on
LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{letter: f"{{{letter}}}" for letter in "[*"},  # after the end of a row they would be taken for its options
    UNDEFINED: "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    MINUS: "$-$",
    UNEQUAL_MARK: r"$^\dagger$",
}
TEST_COLUMNS = ["models", "region", "pairs", "median difference", "favoured", "p", "p (Holm)"]


# --- Markdown ---------------------------------------------------------------------------------------------------------


def to_markdown(tables: Sequence[Table]) -> str:
    """Tables as Markdown: best bold, second in italics (Markdown has no underline).

    The papers' table of each metric comes first; summaries with intervals, contributions, Shapley values and tests have
    tables of their own after it.
    """
    return "\n".join(text for table in tables for text in _markdown_tables(table))


def _markdown_tables(table: Table) -> list[str]:
    title, names = table.metric.heading, [escape_markdown(modality) for modality in table.modalities]
    heads = [f"{escape_markdown(region)}<br>{escape_markdown(model)}" for region, model in table.columns]
    mean = table.summaries[0]
    subsets = [[*_dots(row), *map(_markdown_cell, row.cells), row.cases.text] for row in table.rows]
    subsets.append([mean.name, *[""] * (len(names) - 1), *map(_markdown_cell, mean.cells), mean.cases.text])
    summaries = [
        [row.name, *(f"{_markdown_cell(cell)} {cell.interval}".strip() for cell in row.cells), row.cases.text]
        for row in table.summaries
    ]
    tests = [[escape_markdown(text) for text in line] for line in _test_lines(table)]
    heads.append(COUNT)
    right = ["--:"] * len(heads)
    note = f"\n{UNEQUAL_MARK} {UNEQUAL}\n" if table.unequal else ""
    made = [
        _markdown(f"## {title}", [*names, *heads], [*[":-:"] * len(names), *right], subsets) + note,
        _markdown(f"### {title}: mean and area, {INTERVALS}", ["", *heads], [":--", *right], summaries) + note,
    ]
    for name, rows in _worth(table):
        lines = [[escape_markdown(row.name), *(cell.text for cell in row.cells), row.cases.text] for row in rows]
        made.append(_markdown(f"### {title}: {name}", ["", *heads], [":--", *right], lines))
    if tests:
        made.append(_markdown(f"### {title}: comparison", TEST_COLUMNS, _test_columns(":--", "--:"), tests))
        made[-1] += f"\n{table.smallest_p}\n"
        ranks = [[escape_markdown(r.region), escape_markdown(r.model), *r.shares] for r in table.rankings]
        columns = ["region", "model", *(f"rank {rank}" for rank in range(1, len(table.models) + 1))]
        alignment = [":--", ":--", *["--:"] * len(table.models)]
        made.append(_markdown(f"### {title}: % of resamples with each rank", columns, alignment, ranks))
    return made


def _markdown(heading: str, heads: list[str], alignment: list[str], lines: list[list[str]]) -> str:
    body = "\n".join(f"| {' | '.join(line)} |" for line in (heads, alignment, *lines))
    return f"{heading}\n\n{body}\n"


def escape_markdown(name: str) -> str:
    """Write a name so that Markdown, and the HTML within it, show it as it is."""
    entities = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " "}
    return "".join(entities.get(c) or re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", c) for c in name)


def _markdown_cell(cell: Cell) -> str:
    return " ".join(filter(None, (_mark(cell, "**{}**", "*{}*") + cell.mark, cell.deviation)))


# --- LaTeX ------------------------------------------------------------------------------------------------------------


def to_latex(tables: Sequence[Table]) -> str:
    """Tables as LaTeX for the package booktabs: best bold, second underlined; in the order of ``to_markdown``."""
    head = "% \\usepackage{booktabs} in the preamble; a wide table fits with \\resizebox{\\textwidth}{!}{...} around it"
    return "\n".join([head, *(text for table in tables for text in _latex_tables(table))])


def _latex_tables(table: Table) -> list[str]:
    title, count = table.metric.heading, len(table.modalities)
    dots = {PRESENT: r"$\bullet$", ABSENT: r"$\circ$"}
    subsets = [
        [*(dots[dot] for dot in _dots(row)), *map(_latex_cell, row.cells), _latex_count(row)] for row in table.rows
    ]
    first = table.summaries[0]
    mean = [rf"\multicolumn{{{count}}}{{c}}{{mean}}", *map(_latex_cell, first.cells), _latex_count(first)]
    summaries = [[row.name, *map(_latex_interval, row.cells), _latex_count(row)] for row in table.summaries]
    tests = [[escape_latex(text) for text in line] for line in _test_lines(table)]
    regions, heads = _latex_heads(table, count), _latex_heads(table, 1)
    names, models = [*map(escape_latex, table.modalities)], [escape_latex(model) for _, model in table.columns]
    models.append(COUNT)
    right = "r" * len(models)
    note = f"{UNEQUAL_MARK} {UNEQUAL}" if table.unequal else ""
    made = [
        _latex(title, "c" * count + right, [regions, _line([*names, *models])], [subsets, [mean]], note),
        _latex(f"{title}: mean and area, {INTERVALS}", f"l{right}", [heads, _line(["", *models])], [summaries], note),
    ]
    for name, rows in _worth(table):
        lines = [[escape_latex(row.name), *map(_latex_cell, row.cells), _latex_count(row)] for row in rows]
        made.append(_latex(f"{title}: {name}", f"l{right}", [heads, _line(["", *models])], [lines]))
    if tests:
        made.append(
            _latex(
                f"{title}: comparison",
                "".join(_test_columns("l", "r")),
                [_line(TEST_COLUMNS)],
                [tests],
                table.smallest_p,
            )
        )
    return made


def _latex(caption: str, alignment: str, heads: list[str], groups: Sequence[list[list[str]]], note: str = "") -> str:
    """A table of groups of lines, with a rule before each, and a note under it."""
    body = [part for group in groups for part in (r"\midrule", *map(_line, group))]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(caption)}}}",
            rf"\begin{{tabular}}{{{alignment}}}",
            *(r"\toprule", *heads, *body, r"\bottomrule"),
            r"\end{tabular}",
            *([rf"\par\smallskip{{\footnotesize {escape_latex(note)}}}"] if note else []),
            r"\end{table}",
            "",
        ]
    )


def _latex_heads(table: Table, names: int) -> str:
    """The line of the regions over their models, right of ``names`` columns, and the rules under it."""
    models = len(table.models)
    regions = [rf"\multicolumn{{{models}}}{{c}}{{{escape_latex(region)}}}" for region in table.regions]
    starts = [names + 1 + i * models for i in range(len(table.regions))]
    rules = " ".join(rf"\cmidrule(lr){{{start}-{start + models - 1}}}" for start in starts)
    return f"{_line([*[''] * names, *regions, ''])}\n{rules}"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def escape_latex(name: str) -> str:
    """Write a name so that LaTeX shows it as it is."""
    return "".join(LATEX.get(letter, letter) for letter in re.sub(r"\s", " ", name))


def _latex_number(text: str) -> str:
    return text.replace("-", "$-$").replace(UNDEFINED, "--")


def _latex_cell(cell: Cell) -> str:
    text = _mark(cell._replace(text=_latex_number(cell.text)), r"\textbf{{{}}}", r"\underline{{{}}}")
    return text + LATEX.get(cell.mark, "") + (rf" $\pm$ {cell.spread}" if cell.spread else "")


def _latex_count(row: Row) -> str:
    return _latex_number(row.cases.text)


def _latex_interval(cell: Cell) -> str:
    interval = rf" {{\scriptsize {_latex_number(cell.interval)}}}" if cell.interval else ""
    return _latex_cell(cell) + interval


# --- CSV --------------------------------------------------------------------------------------------------------------


def to_csv(tables: Sequence[Table]) -> str:
    """Tables as one CSV: a row per metric and subset, 1 and 0 for the modalities, a column per region and model.

    After a metric's subsets come rows for the mean and the areas, each with the bounds of its interval, for the
    contributions and Shapley values, and for the gains given each subset; ``comparison_csv`` holds the tests. The last
    columns say on how many cases a row rests, and whether the subsets that it compares rest on the same ones.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    modalities = tables[0].modalities
    columns = [f"{region} / {model}" for region, model in tables[0].columns]
    writer.writerow(["metric", "unit", "subset", *modalities, *columns, "fewest cases", "most cases", "same cases"])
    for table in tables:
        for name, row, values in _csv_rows(table):
            present = [str(int(p)) for p in row.present] or [""] * len(modalities)
            defined = ["" if value == UNDEFINED else value for value in values]
            cases = [row.cases.fewest, row.cases.most, int(row.cases.same)]
            writer.writerow([table.metric.column, table.metric.unit, name, *present, *defined, *cases])
    return text.getvalue()


def _csv_rows(table: Table) -> list[tuple[str, Row, list[str]]]:
    rows = [(row.name, row, [cell.text for cell in row.cells]) for row in table.rows]
    for row in table.summaries:
        rows.append((row.name, row, [cell.text for cell in row.cells]))
        rows.append((f"{row.name}, 95 % low", row, [cell.low for cell in row.cells]))
        rows.append((f"{row.name}, 95 % high", row, [cell.high for cell in row.cells]))
    spread = [
        (f"{row.name}, SD over trainings", row, [c.spread for c in row.cells])
        for row in [*table.rows, *table.summaries]
    ]
    rows += [of_row for of_row in spread if any(of_row[2])]
    gains = [(f"contribution of {row.name}", row) for row in table.gains.contributions]
    gains += [(f"Shapley value of {row.name}", row) for row in table.gains.shapley]
    gains += [(f"gain from {row.name} given {'+'.join(compress(table.modalities, row.present))}", row)
              for row in table.gains.given]  # fmt: skip
    return rows + [(name, row, [cell.text for cell in row.cells]) for name, row in gains]


def comparison_csv(tables: Sequence[Table]) -> str:
    """The paired tests of all metrics as one CSV: a row per metric, pair of models and region."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["pairs", "left_out", "median_difference", "favoured", "p", "p_holm", "smallest_p", "smallest_p_holm"]
    writer.writerow(["metric", "unit", "model_a", "model_b", "region", *columns])
    for table in tables:
        for test in table.tests:
            difference = "" if test.difference == UNDEFINED else test.difference
            values = [test.pairs, test.left_out, difference, test.better]
            p_values = [
                "" if math.isnan(p) else f"{p:.4g}"
                for p in (test.p, test.p_holm, test.smallest_p, test.smallest_p_holm)
            ]
            writer.writerow([table.metric.column, table.metric.unit, *test.models, test.region, *values, *p_values])
    return text.getvalue()


# --- all of them ------------------------------------------------------------------------------------------------------


def _worth(table: Table) -> list[tuple[str, list[Row]]]:
    """Tables with a row per modality; gains given a subset are many, and stand in the CSV alone."""
    tables = [("contribution of each modality", table.gains.contributions)]
    return [*tables, ("Shapley value of each modality", table.gains.shapley)] if table.gains.shapley else tables


def _test_lines(table: Table) -> list[list[str]]:
    return [
        [
            f"{test.models[0]} {MINUS} {test.models[1]}",
            test.region,
            str(test.pairs),
            test.difference.replace("-", MINUS),
            test.better or UNDEFINED,
            print_p(test.p),
            print_p(test.p_holm),
        ]
        for test in table.tests
    ]


def _test_columns(text: str, number: str) -> list[str]:
    """Alignment of the columns of the tests."""
    return [text, text, number, number, text, number, number]


def _dots(row: Row) -> list[str]:
    return [PRESENT if present else ABSENT for present in row.present]


def _mark(cell: Cell, best: str, second: str) -> str:
    return {"best": best, "second": second, "": "{}"}[cell.place].format(cell.text)
