"""The Dice of every case that a comparison has scored, in one CSV that outlives its folders.

A line for each row of the tables, seed, fold, case and region, a column for each subset; empty where the case lacks a
modality of it, or where Dice is undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from filelock import FileLock

from nnunetv2_missmod.evaluation.scores import read_scores
from nnunetv2_missmod.evaluation.summary import members
from nnunetv2_missmod.files.whole_files import write_whole

KEYS = ["row", "seed", "fold", "case", "region"]


class Piece(NamedTuple):
    """What is trained and scored at a time: one row of the tables, one seed, one fold."""

    row: str
    seed: int
    fold: int


class KeptScores:
    """The CSV; commands side by side may add to it.

    Args:
        file: made with the first scores.
    """

    def __init__(self, file: Path):
        self.file = file

    def wide(self) -> pd.DataFrame:
        """Read all lines; without the file there are none."""
        if not self.file.exists():
            return pd.DataFrame(columns=KEYS)
        return pd.read_csv(self.file, dtype={"row": str, "case": str, "region": str})

    def has(self, piece: Piece) -> bool:
        """Whether a piece has been scored."""
        wide = self.wide()
        found = (wide["row"] == piece.row) & (wide["seed"] == piece.seed) & (wide["fold"] == piece.fold)
        return bool(found.any())

    def add(self, piece: Piece, scores: Path) -> None:
        """Add what ``missmod evaluate`` wrote of a piece."""
        table = read_scores(scores).table
        by_case = table.pivot(index=["case", "region"], columns="subset", values="dice").round(4)
        by_case = by_case[list(dict.fromkeys(table.sort_values("num_present", kind="stable")["subset"]))].reset_index()
        for position, (key, value) in enumerate(zip(KEYS, piece, strict=False)):
            by_case.insert(position, key, value)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_suffix(".lock")):
            before = self.wide()
            both = pd.concat([before, by_case]) if len(before) else by_case
            write_whole(self.file, lambda partial: both.to_csv(partial, index=False))


def long_tables(wide: pd.DataFrame, row: str, pieces: Sequence[tuple[int, int]]) -> dict[int, pd.DataFrame]:
    """Long tables of a row by seed, as ``missmod evaluate`` writes them: case, subset, num_present, region, dice.

    Args:
        wide: the CSV's lines.
        row: of the tables.
        pieces: seeds and folds that count.
    """
    subsets = [column for column in wide.columns if column not in KEYS]
    counted = pd.Series([pair in pieces for pair in zip(wide["seed"], wide["fold"], strict=True)], wide.index, bool)
    of_row = wide[(wide["row"] == row) & counted]
    long = of_row.melt(["seed", "case", "region"], subsets, "subset", "dice").dropna(subset="dice")
    long["num_present"] = [len(members(subset)) for subset in long["subset"]]
    return {int(str(seed)): of_seed.drop(columns="seed") for seed, of_seed in long.groupby("seed")}


def common_pieces(wide: pd.DataFrame, rows: Sequence[str]) -> list[tuple[int, int]]:
    """Seeds and folds that have been scored of every one of these rows, so that tables compare like with like.

    Every seed has the same folds, so that seeds differ in nothing else: of the choices the one with most pieces.
    """
    of_row = [set(zip(part["seed"], part["fold"], strict=True)) for row in rows for part in [wide[wide["row"] == row]]]
    scored = set.intersection(*of_row) if of_row else set()
    folds = {seed: frozenset(fold for other, fold in scored if other == seed) for seed, _ in scored}
    choices = [
        [(seed, fold) for seed, has in folds.items() if has >= chosen for fold in chosen]
        for chosen in sorted(set(folds.values()), key=sorted)
    ]
    return sorted(max(choices, key=len, default=[]))
