"""The tables of a comparison, as Markdown: mean over subsets, area under the robustness curve, every subset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from nnunetv2_missmod.evaluation.scores import read_scores
from nnunetv2_missmod.evaluation.summary import mean_over_subsets, robustness_area, subset_means


def print_tables(folders: Mapping[str, Sequence[Path]]) -> None:
    """Print the mean over the subsets, the area under the robustness curve and the Dice of every subset.

    Args:
        folders: of scores, one for each seed, by row of the table.
    """
    means = {
        name: [subset_means(read_scores(folder).table, "dice") for folder in of_seeds]
        for name, of_seeds in folders.items()
        if of_seeds
    }
    print_means(means)
    print_subsets(means)


def print_means(means: Mapping[str, Sequence[pd.DataFrame]]) -> None:
    """Print a row for each trainer: its means and areas by region, over the seeds."""
    regions = list(next(iter(means.values()))[0].columns)
    print_rows(["trainer", "seeds", *regions, "mean over regions", *(f"area, {region}" for region in regions)])
    for name, of_seeds in means.items():
        dice = pd.DataFrame([mean_over_subsets(of_seed) for of_seed in of_seeds])
        area = pd.DataFrame([robustness_area(of_seed) for of_seed in of_seeds])
        cells = [spread(dice[region]) for region in regions] + [spread(dice.mean(axis=1))]
        print_rows([name, str(len(of_seeds)), *cells, *(spread(area[region]) for region in regions)], False)


def print_subsets(means: Mapping[str, Sequence[pd.DataFrame]]) -> None:
    """Print the Dice of every subset and region, a column for each trainer."""
    print()
    print_rows(["subset", "region", *means])
    first = next(iter(means.values()))[0]
    for subset in first.index:
        for region in first.columns:
            values = [pd.Series([of_seed.loc[subset, region] for of_seed in of_seeds]) for of_seeds in means.values()]
            print_rows([str(subset), str(region), *map(spread, values)], False)


def print_rows(cells: Sequence[str], is_head: bool = True) -> None:
    """Print a row of a Markdown table, with the line below its head."""
    print("|", " | ".join(cells), "|", flush=True)
    if is_head:
        print("|" + "---|" * len(cells))


def spread(values: pd.Series[float]) -> str:
    """Mean, and standard deviation over the seeds if there are several."""
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")
