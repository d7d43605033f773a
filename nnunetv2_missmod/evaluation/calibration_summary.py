"""How well the Dice of held-out masks was foretold, on the console."""

from __future__ import annotations

import pandas as pd
from rich.console import Console
from rich.table import Table

from nnunetv2_missmod.evaluation.reliability import ALL, agreement, coverage


def print_summary(table: pd.DataFrame) -> None:
    """Print, by region, how often the bound held for how many modalities, and how near the expected Dice came.

    Args:
        table: rows of ``calibration.csv``.
    """
    held, near = coverage(table), agreement(table)
    sizes = [size for size in held.index.unique("num_present") if size != ALL]
    title = f"{table['case'].nunique()} held-out cases, each foretold from the others: Dice above the bound"
    printed = Table("region", *(_words(size) for size in sizes), "all", "off by", "mean alone by", title=title)
    for region in near.index:
        shares = [f"{held.loc[(region, size), 'share']:.0%}" for size in (*sizes, ALL)]
        off = [f"{near.loc[region, error]:.3f}" for error in ("error", "naive_error")]
        printed.add_row(str(region), *shares, *off)
    console = Console()
    console.print(printed)
    console.print(
        f"The bound is to hold for {table['confidence'].iloc[0]:.0%} of cases. “Off by” is the mean difference of "
        "expected and true Dice; “mean alone”, of the subset's mean.",
        highlight=False,
    )


def _words(size: int) -> str:
    return f"{size} {'modality' if size == 1 else 'modalities'}"
