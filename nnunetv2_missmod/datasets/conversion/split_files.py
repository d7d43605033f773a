"""The forms in which splits are published.

* nnU-Net's splits_final.json: a list of {"train": [...], "val": [...]}.
* Lists of cases, one file for each side, as RFNet, mmFormer and those after them publish them: train.txt, val.txt and
  test.txt with a case in each line (of a path the last part counts), or csv files with a column case. Several folds
  are told apart by the rest of the name: train1.txt with val1.txt.
* A csv file of all folds: FeTS' partitioning (columns Partition_ID and Subject_ID), or columns case and fold. Each
  partition or fold is what one fold is validated on, and all others are what it trains on. With the words train, val
  and test in the second column (fold or split) it is one fold.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

SIDES = ("train", "val", "test")
SIDE_OF = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
CASE_COLUMNS = ("case", "subject_id")
FOLD_COLUMNS = ("fold", "split", "partition_id")


class Fold(NamedTuple):
    """The cases of a fold; those for testing are in neither side of nnU-Net's splits."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


def read_split_files(files: Sequence[Path]) -> list[Fold]:
    """Read files of one of the forms above; nothing but their form is checked.

    Raises:
        ValueError: they have none of the forms.
    """
    for file in files:
        if not file.is_file():
            raise ValueError(f"Expected a file of splits, got {file}, which is none. Check the path.")
    if len(files) == 1 and files[0].suffix == ".json":
        return _nnunet_folds(files[0])
    if len(files) == 1 and files[0].suffix == ".csv":
        return _folds_of_table(files[0])
    return _folds_of_lists(files)


def _nnunet_folds(file: Path) -> list[Fold]:
    try:
        folds = json.loads(file.read_text(encoding="utf-8"))
        return [Fold(tuple(map(str, fold["train"])), tuple(map(str, fold["val"]))) for fold in folds]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'Expected nnU-Net\'s list of {{"train": [...], "val": [...]}} in {file}, got something else ({error!r}).'
        ) from error


def _folds_of_table(file: Path) -> list[Fold]:
    rows = _read_table(file)
    case_column = next((column for column in CASE_COLUMNS if column in rows[0]), None)
    fold_column = next((column for column in FOLD_COLUMNS if column in rows[0]), None)
    if case_column is None or fold_column is None:
        raise ValueError(
            f"Expected columns case and fold (or Subject_ID and Partition_ID) in {file}, got {', '.join(rows[0])}."
        )
    cases_of: dict[str, tuple[str, ...]] = {}
    for row in rows:
        cases_of[row[fold_column]] = (*cases_of.get(row[fold_column], ()), row[case_column])
    if "" in cases_of or "" in chain(*cases_of.values()):
        raise ValueError(f"Expected a {case_column} and a {fold_column} in each line of {file}, found an empty one.")
    if all(name.lower() in SIDE_OF for name in cases_of):
        return [_fold_of_sides((SIDE_OF[name.lower()], cases) for name, cases in cases_of.items())]
    return _folds_that_take_turns(file, cases_of)


def _folds_that_take_turns(file: Path, cases_of: dict[str, tuple[str, ...]]) -> list[Fold]:
    """Each is validated on once; a fold called test never."""
    test = tuple(chain(*(cases for name, cases in cases_of.items() if SIDE_OF.get(name.lower()) == "test")))
    names = sorted((name for name in cases_of if SIDE_OF.get(name.lower()) != "test"), key=_with_numbers)
    if sides := [name for name in names if name.lower() in SIDE_OF]:
        raise ValueError(
            f"Expected either folds or the words train, val and test in {file}, got {sides[0]} beside folds."
        )
    trains = [tuple(chain(*(cases_of[other] for other in names if other != name))) for name in names]
    return [Fold(train, cases_of[name], test) for train, name in zip(trains, names, strict=True)]


def _folds_of_lists(files: Sequence[Path]) -> list[Fold]:
    folds: dict[str, dict[str, tuple[str, ...]]] = {}
    single = sum("train" in file.stem.lower() for file in files) == 1
    for file in files:
        side, rest = _side_and_rest(file)
        fold = folds.setdefault("" if single else rest, {})
        if side in fold:
            raise ValueError(
                f"Expected one list to {side} each fold on, got {file} as another. Name folds as train1, val1."
            )
        fold[side] = _listed_cases(file)
    for name, fold in folds.items():
        if missing := [side for side in ("train", "val") if side not in fold]:
            raise ValueError(
                f"Expected a list for train and one for val, got none for {missing[0]}{f' of {name}' if name else ''} "
                f"among {', '.join(file.name for file in files)}. Add it; to validate on the test list, call it val."
            )
    return [_fold_of_sides(folds[name].items()) for name in sorted(folds, key=_with_numbers)]


def _side_and_rest(file: Path) -> tuple[str, str]:
    name = file.stem.lower()
    found = [side for side in SIDES if side in name]
    if len(found) != 1:
        raise ValueError(
            f"Expected one .json or .csv of all folds, or lists of cases called train, val or test, got {file}: "
            "rename it."
        )
    return found[0], name.replace(found[0], "", 1)


def _listed_cases(file: Path) -> tuple[str, ...]:
    lines: Iterable[str]
    if file.suffix == ".csv":
        rows = _read_table(file)
        if "case" not in rows[0]:
            raise ValueError(f"Expected a column case in {file}, got {', '.join(rows[0])}.")
        lines = (row["case"] for row in rows)
    else:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    return tuple(line.strip().rstrip("/").rpartition("/")[2] for line in lines if line.strip())


def _read_table(file: Path) -> list[dict[str, str]]:
    """The rows of a csv file, at least one; the names of its columns in lower case."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = [
            {str(key).strip().lower(): str(cell or "").strip() for key, cell in row.items()}
            for row in csv.DictReader(lines)
        ]
    if not rows:
        raise ValueError(f"Expected a csv file with column names and a line for each case, got {file}, which has none.")
    return rows


def _fold_of_sides(sides: Iterable[tuple[str, tuple[str, ...]]]) -> Fold:
    cases_of: dict[str, tuple[str, ...]] = {}
    for side, cases in sides:
        cases_of[side] = cases_of.get(side, ()) + cases
    return Fold(*(cases_of.get(side, ()) for side in SIDES))


def _with_numbers(name: str) -> list[tuple[int, str]]:
    """A key by which 10 comes after 9."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isascii() and part.isdecimal() else (-1, part) for part in parts]
