"""How well the Dice of held-out masks was foretold, on the console."""

from __future__ import annotations

import pandas as pd
from rich.console import Console
from rich.table import Table


def print_summary(table: pd.DataFrame) -> None:
    """Print, by region and number of modalities, how often the bound held and how near the expected Dice came.

    Args:
        table: rows of ``calibration.csv``.
    """
    confidence = table["confidence"].iloc[0]
    title = f"{table['case'].nunique()} held-out cases, each foretold from the others"
    printed = Table(
        "region", "modalities", "masks", f"Dice above its {confidence:.0%} bound", "mean bound", title=title
    )
    printed.add_column("off by")
    printed.add_column("the subset's mean by")
    printed.add_column("correlation")
    for region, rows in table.groupby("region", sort=False):
        for size, of_size in rows.groupby("num_present"):
            printed.add_row(str(region), str(size), *summary_of(of_size))
        printed.add_section()
    Console().print(printed)


def summary_of(rows: pd.DataFrame) -> list[str]:
    """Give the cells for some masks: their number, the bound's coverage and mean, both errors, the correlation."""
    held, off = (rows["dice"] >= rows["bound"]).mean(), (rows["dice"] - rows["expected_dice"]).abs().mean()
    naive = (rows["dice"] - rows["subset_mean"]).abs().mean()
    numbers = rows["bound"].mean(), off, naive, correlation_within(rows)
    return [str(len(rows)), f"{held:.0%}", *(f"{number:.3f}" for number in numbers)]


def correlation_within(rows: pd.DataFrame) -> float:
    """Correlation of expected and true Dice within a subset, mean over the subsets of these rows."""
    within = [of_subset["dice"].corr(of_subset["expected_dice"]) for _, of_subset in rows.groupby("subset")]
    return float(pd.Series(within, dtype=float).mean())
