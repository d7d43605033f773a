"""The tables of a comparison on patients: ``python -m benchmarks.patient_tables FILE.csv``.

FILE.csv is what ``benchmarks.patients`` keeps. Every row of a table rests on the same seeds, folds and cases, those
that have been scored of all rows that are shown; their numbers are printed above it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.comparison_tables import draw_curves, markdown, rows_of, spread
from benchmarks.kept_scores import KeptScores, common_pieces, long_tables
from nnunetv2_missmod.evaluation.complete_cases import on_complete_cases
from nnunetv2_missmod.evaluation.intervals import bootstrap_intervals
from nnunetv2_missmod.evaluation.paired_tests import ALL_SUBSETS, compare
from nnunetv2_missmod.evaluation.summary import (
    mean_over_subsets,
    members,
    modalities_in,
    robustness_area,
    robustness_curve,
    subset_means,
)
from nnunetv2_missmod.evaluation.trainings import mean_over_trainings

ALONE = re.compile(r" of (\S+) alone")  # in the name of a row that serves one subset
OF_ONE_SUBSET = "one of this subset alone"  # head of the column that such rows share
REFERENCE = "modality dropout, Adam"
Trainings = dict[str, dict[int, pd.DataFrame]]  # row -> seed -> long table


def main() -> None:
    """Print the tables of a CSV, and draw its picture beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--folds", type=int, nargs="+", help="default: all that are there")
    parser.add_argument("--only", nargs="+", help="rows (default: all)")
    parser.add_argument("--against", default=REFERENCE, help="row of the differences (default: %(default)s)")
    parser.add_argument("--by_subset", action="store_true", help="one table instead, a row for each subset")
    parser.add_argument("--draw", nargs="+", help="rows of a picture of the robustness curves beside the file")
    arguments = parser.parse_args()
    wide = KeptScores(arguments.file).wide()
    if arguments.folds:
        wide = wide[wide["fold"].isin(arguments.folds)]
    rows = arguments.only or list(dict.fromkeys(wide["row"]))
    if arguments.by_subset:
        print(f"{rests_on(wide, rows)}\n\n{table_by_subset(trainings_of(wide, rows))}")
    else:
        print("\n\n".join(tables(wide, rows, arguments.against)))
    if arguments.draw:
        draw(trainings_of(wide, arguments.draw), arguments.file.with_suffix(".png"))


def tables(wide: pd.DataFrame, rows: Sequence[str], against: str) -> Iterator[str]:
    """All tables, as Markdown.

    Args:
        wide: lines of the CSV.
        rows: that are shown; those of one subset are shown in the table of subsets alone.
        against: the row of the differences, none of them if it is not there.
    """
    trainings = trainings_of(wide, rows)
    every = {name: of_seeds for name, of_seeds in trainings.items() if only_subset(name) is None}
    yield rests_on(wide, rows)
    if every:
        yield table_of_means(every)
    yield table_of_subsets(trainings)
    if against in every and len(every) > 1:
        yield table_of_differences(every, against)


def only_subset(row: str) -> str | None:
    """The subset that a row serves alone, having no mean over all; None for a model of every subset."""
    found = ALONE.search(row)
    return found[1] if found else None


def trainings_of(wide: pd.DataFrame, rows: Sequence[str]) -> Trainings:
    """Long tables of the rows, of the seeds and folds that they have in common.

    Raises:
        ValueError: they have none in common.
    """
    pieces = common_pieces(wide, rows)
    if not pieces:
        raise ValueError(
            f"Expected a seed and fold that every row has been scored of, got none for {', '.join(rows)}. Name fewer "
            "rows with --only, or run benchmarks.patients on."
        )
    return {row: long_tables(wide, row, pieces) for row in rows}


def rests_on(wide: pd.DataFrame, rows: Sequence[str]) -> str:
    """Say what the tables rest on."""
    pieces = common_pieces(wide, rows)
    seeds = ", ".join(str(seed) for seed in sorted({seed for seed, _ in pieces}))
    folds = ", ".join(str(fold) for fold in sorted({fold for _, fold in pieces}))
    some = wide[(wide["row"] == rows[0]) & wide["fold"].isin({fold for _, fold in pieces})]
    cases = some["case"].nunique()
    complete = some.drop(columns=["row", "seed", "fold", "region"]).dropna()["case"].nunique()
    return f"Seeds {seeds}; folds {folds}: {cases} cases, {complete} of them with every subset."


def table_of_means(trainings: Trainings) -> str:
    """A row for each: mean over subsets, by number of modalities present, and area, over complete cases and seeds."""
    rows = []
    for name, of_seeds in trainings.items():
        means = complete_means(of_seeds)
        curves = pd.DataFrame([robustness_curve(of_seed)["all"] for of_seed in means]).reset_index(drop=True)
        over_all = over_subsets(means)
        areas = pd.Series([robustness_area(of_seed)["all"] for of_seed in means])
        rows.append(
            (
                over_all.mean(),
                [name, str(len(means)), *map(spread, (over_all, *curves.to_dict("series").values(), areas))],
            )
        )
        counts = list(curves.columns)
    head = ["trainer", "seeds", "all subsets", *(f"{count} present" for count in counts), "area"]
    return markdown(head, [cells for _, cells in sorted(rows, key=lambda row: -row[0])])


def complete_means(of_seeds: dict[int, pd.DataFrame]) -> list[pd.DataFrame]:
    """Mean Dice by subset over the complete cases, for each seed."""
    return [mean_over_regions(on_complete_cases(table).table) for table in of_seeds.values()]


def over_subsets(means: Sequence[pd.DataFrame]) -> pd.Series[float]:
    """Mean over the subsets, for each seed."""
    return pd.Series([float(mean_over_subsets(of_seed)["all"]) for of_seed in means])


def mean_over_regions(table: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice by subset, over cases and then regions: one column, "all"."""
    means = subset_means(table, "dice").mean(axis="columns")
    return means.to_frame("all")


def table_of_subsets(trainings: Trainings) -> str:
    """A row for each: Dice of every subset over the cases that have it, whose number stands in the head."""
    of_row = {
        name: pd.DataFrame([mean_over_regions(table)["all"] for table in of_seeds.values()]).reset_index(drop=True)
        for name, of_seeds in trainings.items()
    }
    first = max(trainings.values(), key=lambda of_seeds: next(iter(of_seeds.values()))["subset"].nunique())
    cases = next(iter(first.values())).groupby("subset", sort=False)["case"].nunique()
    subsets = list(mean_over_regions(next(iter(first.values()))).index)
    head = ["trainer", *(f"{subset} (n = {cases[subset]})" for subset in subsets)]
    rows = [
        [name, *(spread(values[subset]) if is_own(name, subset, values) else "-" for subset in subsets)]
        for name, values in of_row.items()
    ]
    return markdown(head, rows)


def table_by_subset(trainings: Trainings) -> str:
    """A row for each subset, what is there of it as dots: Dice over the cases that have it; last, the means.

    Rows of one subset alone share a column, each in its own subset; at least one row is of every subset.
    """
    every = {name: of_seeds for name, of_seeds in trainings.items() if only_subset(name) is None}
    first = next(iter(next(iter(every.values())).values()))
    cases = first.groupby("subset", sort=False)["case"].nunique()
    modalities = modalities_in(cases.index)
    alone = [name for name in trainings if only_subset(name) is not None]
    rows = []
    for subset in cases.index:
        dots = ["●" if name in members(str(subset)) else "○" for name in modalities]
        own = [name for name in alone if only_subset(name) == subset]
        means = [spread(dice_of(trainings[name], str(subset))) for name in [*every, *own]]
        rows.append([*dots, str(cases[subset]), *means, *["-"] * (len(every) + bool(alone) - len(means))])
    over_all = [spread(over_subsets(complete_means(of_seeds))) for of_seeds in every.values()]
    complete = on_complete_cases(first).table["case"].nunique()
    rows.append(["mean", *[""] * (len(modalities) - 1), str(complete), *over_all, *["-"] * bool(alone)])
    return markdown([*modalities, "cases", *every, *[OF_ONE_SUBSET] * bool(alone)], rows)


def dice_of(of_seeds: dict[int, pd.DataFrame], subset: str) -> pd.Series[float]:
    """A subset's mean Dice over the cases that have it, for each seed."""
    return pd.Series([float(mean_over_regions(table).loc[subset, "all"]) for table in of_seeds.values()])


def is_own(row: str, subset: str, values: pd.DataFrame) -> bool:
    """Whether a row is shown for a subset: that of one subset for this alone, since it looks at nothing else."""
    return subset in values and only_subset(row) in (None, subset)


def table_of_differences(trainings: Trainings, against: str) -> str:
    """Each row less the reference, over the complete cases' means over subsets: interval, and Holm-corrected Wilcoxon.

    The intervals are of a bootstrap over cases and seeds, the tests of each case's mean over the seeds.
    """
    complete = {
        name: {seed: on_complete_cases(table).table for seed, table in of_seeds.items()}
        for name, of_seeds in trainings.items()
    }
    tests = compare(
        {name: mean_over_trainings(list(t.values())) for name, t in complete.items()}, "dice", False, against
    )
    rows = []
    for name, of_seeds in complete.items():
        if name == against:
            continue
        differences = [minus(table, complete[against][seed]) for seed, table in of_seeds.items()]
        interval = bootstrap_intervals(differences, "dice", mean_over_subsets).mean()
        test: Any = tests[(tests["model_a"] == name) & (tests["subset"] == ALL_SUBSETS)].iloc[0]
        rows.append(
            [
                name,
                f"{interval['estimate']:+.3f}",
                f"{interval['low']:+.3f} to {interval['high']:+.3f}",
                str(test["pairs"]),
                p_text(test["p"]),
                p_text(test["p_holm"]),
            ]
        )
    head = ["trainer", f"less {against}", "95 % interval", "cases", "p", "p (Holm)"]
    return markdown(head, sorted(rows, key=lambda row: -float(row[1])))


def p_text(p: float) -> str:
    """A p-value, no smaller than what its digits can say."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def minus(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Differences of two long tables on the same cases and subsets."""
    keys = ["case", "subset", "region", "num_present"]
    both = table.merge(other, on=keys, suffixes=("", "_other"))
    return both.assign(dice=both["dice"] - both["dice_other"])[[*keys, "dice"]]


def draw(trainings: Trainings, file: Path) -> None:
    """Draw the robustness curves over complete cases, as those of the other comparisons."""
    rows = [
        rows_of(on_complete_cases(table).table, name, seed)
        for name, of_seeds in trainings.items()
        for seed, table in of_seeds.items()
    ]
    draw_curves(pd.concat(rows), file)


if __name__ == "__main__":
    main()
