"""Which cases a fold trains on and which it validates on, in the form of nnU-Net's splits_final.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from nnunetv2_missmod.datasets.conversion.split_files import Fold, read_split_files
from nnunetv2_missmod.datasets.layouts.archive import examples

Splits = list[dict[str, list[str]]]


def subject_splits(subject_of_case: Mapping[str, str], num_folds: int = 5) -> Splits:
    """Share the subjects out to folds with about as many cases each; every scan of a subject stays with it.

    The same cases always give the same folds. Fewer subjects than folds make as many folds as there are subjects; one
    subject cannot be split and makes none.

    Args:
        subject_of_case: of the cases that have labels.
        num_folds: at least 2.

    Raises:
        ValueError: there are fewer folds.
    """
    if num_folds < 2:
        raise ValueError(f"Expected at least 2 folds, got {num_folds}: ask for more.")
    cases_of: dict[str, list[str]] = {}
    for case in sorted(subject_of_case):
        cases_of.setdefault(subject_of_case[case], []).append(case)
    if len(cases_of) < 2:
        return []
    held_out: list[list[str]] = [[] for _ in range(min(num_folds, len(cases_of)))]
    # Names often tell the hospital: dealt out in their order, each fold gets some of every hospital.
    for subject in sorted(cases_of, key=lambda name: (-len(cases_of[name]), name)):
        min(held_out, key=len).extend(cases_of[subject])
    return [{"train": sorted(set(subject_of_case) - set(val)), "val": sorted(val)} for val in held_out]


def read_splits(files: Sequence[Path], subject_of_case: Mapping[str, str], left_out: Collection[str] = ()) -> Splits:
    """Read published splits; see ``split_files`` for their forms.

    Args:
        files: one of all folds, or one list of cases for training, one for validation and perhaps one for testing.
        subject_of_case: of the cases in the dataset. Those that no file names are in neither side.
        left_out: cases that the caller knows not to be in the dataset, such as refused ones: they are left out of the
            splits, while any other name that is not in the dataset is an error.

    Raises:
        ValueError: a file has no such form or names an unknown case, a case or subject is on two sides of a fold, or
            a side is empty.
    """
    folds = read_split_files(files)
    if not folds:
        raise ValueError(f"Expected folds in {examples(files)}, found none.")
    return [_checked(number, fold, subject_of_case, left_out) for number, fold in enumerate(folds)]


def _checked(
    number: int, fold: Fold, subject_of_case: Mapping[str, str], left_out: Collection[str]
) -> dict[str, list[str]]:
    named = (set(fold.train) | set(fold.val)) - set(left_out)
    if unknown := sorted(named - subject_of_case.keys()):
        raise ValueError(
            f"Expected names of cases in fold {number}, got {examples(unknown)}, of which the dataset has none. "
            f"Its cases are called as {examples(sorted(subject_of_case), 1)}: are the splits of another release?"
        )
    for one, two in (("train", "val"), ("train", "test"), ("val", "test")):
        _check_apart(number, fold, (one, two), subject_of_case)
    sides = {side: sorted(set(getattr(fold, side)) & subject_of_case.keys()) for side in ("train", "val")}
    for side, cases in sides.items():
        if not cases:
            raise ValueError(f"Expected cases to {side} fold {number} on, got none: remove the fold, or add cases.")
    return sides


def _check_apart(number: int, fold: Fold, sides: tuple[str, str], subject_of_case: Mapping[str, str]) -> None:
    first, second = (set(getattr(fold, side)) for side in sides)
    if both := sorted(first & second):
        raise ValueError(
            f"Expected each case on one side of fold {number}, got {examples(both)} in both {sides[0]} and {sides[1]}."
        )
    subjects = {subject_of_case[case]: case for case in sorted(first & subject_of_case.keys())}
    for case in sorted(second & subject_of_case.keys()):
        if (subject := subject_of_case[case]) in subjects:
            raise ValueError(
                f"Expected all scans of a subject on one side of fold {number}, but {subjects[subject]} ({sides[0]}) "
                f"and {case} ({sides[1]}) are both of {subject}: move one of them."
            )
