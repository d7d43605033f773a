"""Do the methods help on patients? Every trainer on folds of a dataset of one's own: ``python -m benchmarks.patients``.

``-d 700 -c 2d`` or ``3d_fullres`` names a dataset that nnU-Net has planned and preprocessed, with the splits that are
to be used (``missmod convert`` writes some whose folds each have cases of every hospital). All rows have the same plan
but for their own settings, the same cases, updates and seeds. Each fold's model scores the cases that it did not see,
incomplete ones from the subsets that they have. Settings are to be chosen on folds of their own (``--folds 0 1``), and
what is reported to come from the others. What is finished is kept: a run that was ended goes on with the same command,
and several may run side by side, each with rows (``--only``) or seeds of its own.

``--adam 0.002`` adds a row with DC-Seg's Adam for every trainer, ``--dedicated T1c FLAIR+T2`` nnU-Net trained on each
of these subsets alone: what a model of every subset has to reach there.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from benchmarks.comparison import METHODS, Bench, Run, add_flags, bench_of
from benchmarks.comparison_tables import collect, report, table_of_subsets
from benchmarks.models import NNUNET_TRAINER

DEDICATED_TRAINER = "DedicatedUNetTrainer"
SPLITS = "splits_final.json"


def main() -> None:
    """Train and score what is not there yet; print the tables as Markdown and write OUT/means.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser, "benchmark_patients")
    parser.add_argument("-d", required=True, help="dataset: id or name")
    parser.add_argument("--folds", nargs="+", default=["0", "1", "2", "3", "4"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--adam", type=float, metavar="RATE", help="every trainer with Adam as well")
    parser.add_argument("--dedicated", nargs="+", default=[], metavar="SUBSET", help="nnU-Net on these alone as well")
    arguments = parser.parse_args()
    bench = bench_of(arguments, str(maybe_convert_to_dataset_name(arguments.d)))
    link_dataset(bench)
    dedicated = dedicated_rows(arguments.dedicated)
    rows = METHODS | (adam_rows(arguments.adam) if arguments.adam else {})
    chosen = {name: (rows | dedicated)[name] for name in arguments.only or [*rows, *dedicated]}
    for done, seed in enumerate(arguments.seeds, 1):  # seed by seed: an early end leaves a table of fewer seeds
        for name, run in chosen.items():
            for fold in arguments.folds:
                bench.train(name, run, seed, int(fold))
            bench.evaluate(name, run, seed, ["-f", *arguments.folds])
        print_tables(bench, list(chosen), arguments.dedicated, arguments.seeds[:done])


def adam_rows(rate: float) -> dict[str, Run]:
    """Every trainer that a plan can tell so with DC-Seg's Adam, in place of the optimizer of its own."""
    have_it = {run.trainer for run in METHODS.values() if run.adam == rate and not run.settings}
    own = {
        name: run
        for name, run in METHODS.items()
        if run.trainer not in (NNUNET_TRAINER, *have_it) and not (run.adam or run.settings)
    }
    return {f"{name}, Adam {rate:g}": run._replace(adam=rate) for name, run in own.items()}


def dedicated_rows(subsets: Sequence[str]) -> dict[str, Run]:
    """nnU-Net of each subset alone."""
    return {row_of(subset): Run(DEDICATED_TRAINER, {DEDICATED_TRAINER: {"subset": subset}}) for subset in subsets}


def row_of(subset: str) -> str:
    """Name the row of a dedicated model."""
    return f"nnU-Net of {subset} alone"


def print_tables(bench: Bench, names: Sequence[str], dedicated: Sequence[str], seeds: Sequence[int]) -> None:
    """Print the rows of every subset, then what they give from the subsets of dedicated models beside these."""
    folders = {name: {seed: bench.scores(name, seed) for seed in seeds} for name in names}
    alone = {subset: folders.pop(row_of(subset)) for subset in dedicated if row_of(subset) in folders}
    if folders:
        report(folders, bench.out)
    for subset, of_seeds in alone.items():
        means = collect({**folders, row_of(subset): of_seeds})
        print(f"\n{table_of_subsets(means[means['subset'] == subset])}", flush=True)


def link_dataset(bench: Bench) -> None:
    """Let the bench see the dataset in nnU-Net's folders; plans and results are written to the bench's own alone.

    Raises:
        ValueError: the dataset is not there, or has no plan or no splits.
    """
    raw, preprocessed = (
        Path(os.environ.get(name, "")) / bench.dataset for name in ("nnUNet_raw", "nnUNet_preprocessed")
    )
    for needed in (raw, preprocessed / "nnUNetPlans.json", preprocessed / SPLITS):
        if not needed.exists():
            raise ValueError(
                f"Expected {needed}, found none: set nnU-Net's variables, and run missmod convert and "
                "nnUNetv2_plan_and_preprocess first."
            )
    own = bench.out / "nnUNet_raw" / bench.dataset
    bench.preprocessed.mkdir(parents=True, exist_ok=True)
    own.parent.mkdir(parents=True, exist_ok=True)
    for link, target in [(own, raw), *((bench.preprocessed / each.name, each) for each in preprocessed.iterdir())]:
        if not link.exists():
            link.symlink_to(target.resolve())


if __name__ == "__main__":
    main()
