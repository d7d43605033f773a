"""A comparison's scores as a CSV, Markdown tables and a picture: ``python -m benchmarks.comparison_tables FILE.csv``.

The CSV holds the mean Dice over the complete cases by trainer, seed, subset and region; all else is computed from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from nnunetv2_missmod.evaluation.complete_cases import on_complete_cases
from nnunetv2_missmod.evaluation.scores import read_scores
from nnunetv2_missmod.evaluation.summary import mean_over_subsets, robustness_area, robustness_curve, subset_means


def main() -> None:
    """Print the tables of a CSV that was kept, and draw its picture beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--subsets", action="store_true", help="the Dice of every subset as well")
    parser.add_argument("--draw", nargs="+", help="the rows of a picture beside the file")
    arguments = parser.parse_args()
    means = pd.read_csv(arguments.file, keep_default_na=False)
    print(table_of_means(means))
    if arguments.subsets:
        print(f"\n{table_of_subsets(means)}")
    if arguments.draw:
        draw_curves(means[means["trainer"].isin(arguments.draw)], arguments.file.with_suffix(".png"))


def report(folders: Mapping[str, Mapping[int, Path]], out: Path) -> pd.DataFrame:
    """Write the CSV of what has been scored, print the tables and give the CSV's.

    Args:
        folders: of scores by seed, by row of the table.
        out: folder of the comparison.
    """
    means = collect(folders)
    means.to_csv(out / "means.csv", index=False)
    print(f"{table_of_means(means)}\n\n{table_of_subsets(means)}", flush=True)
    return means


def collect(folders: Mapping[str, Mapping[int, Path]]) -> pd.DataFrame:
    """Mean Dice over the cases that have every subset: a row for each trainer, seed, subset and region.

    Raises:
        ValueError: there is no such case, so that what is compared would rest on different ones.
    """
    parts = []
    for name, of_seeds in folders.items():
        for seed, folder in of_seeds.items():
            table, same_cases = on_complete_cases(read_scores(folder).table)
            if not same_cases:
                raise ValueError(f"Expected a case with every subset, got none in {folder}. Evaluate complete cases.")
            parts.append(rows_of(table, name, seed))
    means: pd.DataFrame = pd.concat(parts)[["trainer", "seed", "subset", "region", "dice"]]
    return means


def rows_of(table: pd.DataFrame, name: str, seed: int) -> pd.DataFrame:
    """Mean Dice of a long table by subset and region, as rows of the CSV."""
    wide = subset_means(table, "dice").rename_axis(index="subset", columns="region")
    rows = wide.stack(future_stack=True).rename("dice").round(4).reset_index()
    return rows.assign(trainer=name, seed=seed)


def table_of_means(means: pd.DataFrame) -> str:
    """A row for each trainer: mean over the subsets and area under the robustness curve by region, over the seeds."""
    regions = list(dict.fromkeys(means["region"]))
    head = ["trainer", "seeds", *regions, "mean of these", *(f"area, {region}" for region in regions)]
    rows = []
    for name, of_trainer in by_trainer(means):
        dice = pd.DataFrame([mean_over_subsets(of_seed) for of_seed in of_trainer])[regions]
        area = pd.DataFrame([robustness_area(of_seed) for of_seed in of_trainer])[regions]
        columns = [dice[region] for region in regions] + [dice.mean(axis=1)] + [area[region] for region in regions]
        rows.append([name, str(len(of_trainer)), *map(spread, columns)])
    return markdown(head, rows)


def table_by_count(means: pd.DataFrame) -> str:
    """A row for each trainer: Dice over regions, of all subsets and of those with one, two, ... modalities."""
    curves = {
        name: pd.DataFrame([{"all": of_seed.mean().mean(), **curve_of(of_seed)} for of_seed in of_trainer])
        for name, of_trainer in by_trainer(means)
    }
    counts = list(next(iter(curves.values())))[1:]
    head = ["trainer", "seeds", "all subsets", *(f"{count} present" for count in counts)]
    rows = [
        [name, str(len(curve)), *(spread(curve[column]) for column in ("all", *counts))]
        for name, curve in curves.items()
    ]
    return markdown(head, rows)


def curve_of(of_seed: pd.DataFrame) -> dict[int, float]:
    """Mean over the regions by the number of modalities present."""
    return {int(str(count)): dice for count, dice in robustness_curve(of_seed).mean(axis=1).items()}


def table_of_subsets(means: pd.DataFrame) -> str:
    """The Dice of every subset and region, a column for each trainer."""
    trainers = list(dict.fromkeys(means["trainer"]))
    rows = []
    for (subset, region), of_row in means.groupby(["subset", "region"], sort=False):
        values = [of_row.loc[of_row["trainer"] == trainer, "dice"] for trainer in trainers]
        rows.append([str(subset), str(region), *map(spread, values)])
    return markdown(["subset", "region", *trainers], rows)


def table_of_ablations(means: pd.DataFrame, wholes: Mapping[str, str]) -> str:
    """A row for each part left out: mean over the subsets by region, and what the part brings (whole less ablated).

    Args:
        means: the CSV's table; compared are the seeds that both rows have.
        wholes: the row of the whole method, by ablation.
    """
    regions = list(dict.fromkeys(means["region"]))
    wide = means.pivot_table("dice", ["trainer", "seed"], "region")[regions]
    rows = []
    for name, whole in wholes.items():
        if name in wide.index and whole in wide.index:
            ablated, complete = wide.loc[name].align(wide.loc[whole], join="inner", axis=0)
            gain = (complete - ablated).mean()
            dice = [f"{ablated[region].mean():.3f}" for region in regions]
            rows.append([name, *dice, *(f"{gain[region]:+.3f}" for region in regions), f"{gain.mean():+.3f}"])
    return markdown(["ablation", *regions, *(f"gain, {region}" for region in regions), "mean gain"], rows)


def draw_curves(means: pd.DataFrame, file: Path) -> None:
    """Draw the mean Dice by the number of modalities present, a panel for each region, the seeds as a band."""
    curves = [
        robustness_curve(of_seed).stack(future_stack=True).rename("Dice").reset_index().assign(trainer=name)
        for name, of_trainer in by_trainer(means)
        for of_seed in of_trainer
    ]
    long = pd.concat(curves).rename(columns={"num_present": "modalities present"})
    regions = list(dict.fromkeys(means["region"]))
    styles = {"hue": "trainer", "style": "trainer", "markers": True, "dashes": False, "col_order": regions}
    grid = sns.relplot(
        long,
        x="modalities present",
        y="Dice",
        col="region",
        kind="line",
        errorbar="sd",
        height=3,
        aspect=0.95,
        **styles,
    )
    grid.set_titles("{col_name}").set(xticks=sorted(set(long["modalities present"])), ylim=(0, None))
    grid.savefig(file, dpi=110)
    plt.close(grid.figure)


def by_trainer(means: pd.DataFrame) -> Iterator[tuple[str, list[pd.DataFrame]]]:
    """A trainer's tables, one for each seed: a row per subset, a column per region, as ``subset_means`` gives them."""
    for name, of_trainer in means.groupby("trainer", sort=False):
        seeds = [of_seed for _, of_seed in of_trainer.groupby("seed")]
        yield str(name), [of_seed.pivot(index="subset", columns="region", values="dice") for of_seed in seeds]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def spread(values: pd.Series[float]) -> str:
    """Mean, and standard deviation over the seeds if there are several."""
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
