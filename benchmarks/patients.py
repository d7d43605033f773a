"""Do the methods help on patients? Every trainer on folds of a dataset of one's own: ``python -m benchmarks.patients``.

``-d 700 -c 2d`` or ``3d_fullres`` names a dataset that nnU-Net has planned and preprocessed, with the splits that are
to be used (``missmod convert`` writes some whose folds each have cases of every hospital). All rows have the same plan
but for their own settings, the same cases, updates and seeds; one whose name says so has several times the updates.
Each fold's model scores the cases that it did not see, incomplete ones from the subsets that they have. Settings are to
be chosen on folds of their own (``--folds 0 1``), and what is reported to come from the others.

The Dice of every case is added to one CSV (``--kept``), fold by fold with all rows of each. What is in it is not run
again, be the folders gone: a comparison may grow over days and machines. The same command may run several times side
by side; each takes what no other has begun. ``python -m benchmarks.patient_tables FILE.csv`` prints the tables.

``--dedicated T1c FLAIR+T2`` adds models of each of these subsets alone, nnU-Net's too: what a model of every subset has
to reach there. ``--patients 20``, ``--complete`` and ``--away T1=0.25 T1c=0.5`` train on fewer patients, on the
complete ones alone, and with files taken away from a share of them; what is scored stays as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from benchmarks.comparison import METHODS, Bench, Run, add_flags, bench_of
from benchmarks.kept_scores import KeptScores, Piece
from benchmarks.methods import ROWS
from benchmarks.training_sets import TrainingSet, prepare

# Of one subset: their trainers, and the rate of DC-Seg's Adam in place of SGD.
DEDICATED_TRAINERS = {
    "nnU-Net": ("DedicatedUNetTrainer", 2e-3),
    "ACN": ("ACNTrainer", 0.0),
    "SMU-Net": ("SMUNetTrainer", 0.0),
}


def main() -> None:
    """Train and score what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser, "benchmark_patients")
    parser.add_argument("-d", required=True, help="dataset: id or name")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--dedicated", nargs="+", default=[], metavar="SUBSET", help="models of these alone as well")
    parser.add_argument("--patients", type=int, help="train on as many of each fold's (default: all)")
    parser.add_argument("--complete", action="store_true", help="train on the complete patients alone")
    parser.add_argument("--away", nargs="+", default=[], metavar="NAME=SHARE", help="take files away from training")
    parser.add_argument("--kept", type=Path, help="the CSV of all cases' Dice (default: cases.csv in -o)")
    arguments = parser.parse_args()
    bench = bench_of(arguments, str(maybe_convert_to_dataset_name(arguments.d)))
    kept = KeptScores(arguments.kept or bench.out / "cases.csv")
    away = {name: float(share) for name, _, share in (part.partition("=") for part in arguments.away)}
    training = TrainingSet(arguments.patients, arguments.complete, away)
    bench.out /= training.suffix.strip(", ") or "all"
    bench.preprocessed = bench.out / "nnUNet_preprocessed" / bench.dataset
    scored = prepare(bench, training)
    dedicated = dedicated_rows(arguments.dedicated)
    rows = ROWS | dedicated
    for seed in arguments.seeds:  # an early end leaves fewer seeds and folds, of all rows
        for fold in arguments.folds:
            for name in arguments.only or [*METHODS, *dedicated]:
                work_on(bench, kept, Piece(name + training.suffix, seed, fold), rows[name], scored)


def work_on(bench: Bench, kept: KeptScores, piece: Piece, run: Run, scored: Sequence[str]) -> None:
    """Train and score a piece, unless it is done or another command is at it.

    Args:
        bench: of the training set.
        kept: where the scores go.
        piece: that is asked for.
        run: the row's.
        scored: flags of `missmod evaluate`, see ``prepare``.
    """
    lock = bench.out / "locks" / f"{piece.row}, seed {piece.seed}, fold {piece.fold}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            if not kept.has(piece):
                folder = f"fold_{piece.fold}"
                bench.train(piece.row, run, piece.seed, piece.fold)
                flags = [flag.format(fold=piece.fold) for flag in scored]
                bench.evaluate(piece.row, run, piece.seed, flags, folder)
                kept.add(piece, bench.scores(piece.row, piece.seed) / folder)
                print(f"{piece.row}, seed {piece.seed}, fold {piece.fold}: done", flush=True)
    except Timeout:
        pass


def dedicated_rows(subsets: Sequence[str]) -> dict[str, Run]:
    """Models of each subset alone: nnU-Net, the bound, and the methods that teach one from all modalities."""
    rows = {}
    for subset in subsets:
        for method, (trainer, rate) in DEDICATED_TRAINERS.items():
            rows[f"{method} of {subset} alone"] = Run(trainer, {trainer: {"subset": subset}}, rate)
    return rows


if __name__ == "__main__":
    main()
