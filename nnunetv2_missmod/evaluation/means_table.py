"""The table that papers print, on the console."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from nnunetv2_missmod.evaluation.complete_cases import (
    UNEQUAL,
    UNEQUAL_MARK,
    Cases,
    cases_of_subsets,
    on_complete_cases,
)
from nnunetv2_missmod.evaluation.scores import Scores
from nnunetv2_missmod.evaluation.summary import case_counts, mean_over_subsets, members, subset_means

METRIC = "dice"


def print_means(scores: Scores) -> None:
    """Print the table that papers print: dots for the modalities that are there, mean Dice by region, and the cases.

    The last row is over the cases that have all subsets; where there are none it is over all and marked.
    """
    table, provenance = scores
    means, counts = subset_means(table, METRIC), case_counts(table, METRIC)
    total = table["case"].nunique()
    printed = Table(title=f"{provenance.trainer}: mean Dice of {total} {'case' if total == 1 else 'cases'}")
    for name in (*provenance.modalities, *means.columns, "cases"):
        printed.add_column(name, justify="center")
    for (subset, dice), of_subset in zip(means.iterrows(), counts.to_numpy(), strict=True):
        dots = ("●" if name in members(str(subset)) else "○" for name in provenance.modalities)
        cases = Cases.together([Cases(count, count) for count in of_subset])
        printed.add_row(*dots, *(f"{value:.3f}" for value in dice), cases.text)
    printed.add_section()
    complete = on_complete_cases(table)
    of_region = cases_of_subsets(complete, METRIC)
    overall = mean_over_subsets(subset_means(complete.table, METRIC))
    marked = (f"{value:.3f}{of_region[str(region)].mark}" for region, value in overall.items())
    cases = Cases.together(list(of_region.values()))
    printed.add_row("mean", *[""] * (len(provenance.modalities) - 1), *marked, cases.text)
    console = Console()
    console.print(printed)
    if not cases.same:
        console.print(f"{UNEQUAL_MARK} {UNEQUAL}")
