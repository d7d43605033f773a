"""The table that papers print, on the console."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from nnunetv2_missmod.evaluation.scores import Scores
from nnunetv2_missmod.evaluation.summary import mean_over_subsets, members, subset_means


def print_means(scores: Scores) -> None:
    """Print the table that papers print: dots for the modalities that are there, mean Dice by region."""
    table, provenance = scores
    means = subset_means(table, "dice")
    cases = table["case"].nunique()
    printed = Table(title=f"{provenance.trainer}: mean Dice of {cases} {'case' if cases == 1 else 'cases'}")
    for name in (*provenance.modalities, *means.columns):
        printed.add_column(name, justify="center")
    for subset, dice in means.iterrows():
        dots = ("●" if name in members(str(subset)) else "○" for name in provenance.modalities)
        printed.add_row(*dots, *(f"{value:.3f}" for value in dice))
    printed.add_section()
    overall = (f"{value:.3f}" for value in mean_over_subsets(means))
    printed.add_row("mean", *[""] * (len(provenance.modalities) - 1), *overall)
    Console().print(printed)
