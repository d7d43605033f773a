"""The cases to predict and their truths: in folders that a user names, or those that a fold held out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw

from nnunetv2_missmod.files.channels import list_cases, stem_of

MOST_NAMED = 5  # files that a warning names


class CaseFiles(NamedTuple):
    """The files of one case."""

    name: str
    images: list[str]  # those that are there, of whichever channels
    label: str | None = None


def cases_in(images: Path, file_ending: str, labels: Path | None = None) -> list[CaseFiles]:
    """List the cases of a folder by the names before ``_XXXX``; images that are no case's are named on stderr.

    Args:
        images: holds ``<case>_XXXX<file_ending>``.
        file_ending: such as ``.nii.gz``.
        labels: holds ``<case><file_ending>``; whether a case's label is there is seen when it is its turn.

    Raises:
        ValueError: a folder is missing, or there is no such file in the first.
    """
    for folder in filter(None, (images, labels)):
        if not folder.is_dir():
            raise ValueError(f"Expected a folder of {file_ending} files, got {folder}, which is none. Check the path.")
    listed = list_cases((file.name for file in images.iterdir()), file_ending)
    if not any(stem_of(name, file_ending) for names in listed.files_of.values() for name in names):
        raise ValueError(
            f"Expected images such as case_0000{file_ending} in {images}, found no file that ends in {file_ending}. "
            f"Give their folder with -i; the ending is that of the training data."
        )
    if listed.passed_over:
        warn(f"Passed over in {images}, since no channel's number ends their names", listed.passed_over)
    label_of = {} if labels is None else _labels_in(labels, file_ending)
    if alone := sorted(label_of.keys() - listed.files_of.keys()):
        warn(f"Labels of {labels} without images in {images}", alone)
    return [
        CaseFiles(
            case,
            [str(images / name) for name in names],
            str(labels / label_of.get(case, f"{case}{file_ending}")) if labels else None,
        )
        for case, names in listed.files_of.items()
    ]


def warn(what: str, names: Sequence[str]) -> None:
    """Name files on stderr: how many, and the first of them."""
    more = ", ..." * (len(names) > MOST_NAMED)
    print(f"{what}: {len(names)}, {', '.join(map(repr, names[:MOST_NAMED]))}{more}", file=sys.stderr)


def _labels_in(labels: Path, file_ending: str) -> dict[str, str]:
    label_of: dict[str, str] = {}
    for name in sorted(file.name for file in labels.iterdir() if not file.name.startswith(".")):
        if case := stem_of(name, file_ending):
            if case in label_of:
                raise ValueError(
                    f"Expected one label for the case {case} in {labels}, found {label_of[case]} and {name}. Remove "
                    "one of them."
                )
            label_of[case] = name
    return label_of


class HeldOut(NamedTuple):
    """The cases that one fold did not train on, and the folders that they are in."""

    images: Path
    labels: Path
    cases: list[CaseFiles]


def held_out_cases(dataset_name: str, fold: str, file_ending: str) -> HeldOut:
    """Find the validation cases of a fold in the raw dataset.

    Raises:
        ValueError: there is no such fold, or the raw images of one of its cases are missing.
    """
    if not (nnUNet_raw.is_set() and nnUNet_preprocessed.is_set()):
        raise ValueError(
            "Expected the variables nnUNet_raw and nnUNet_preprocessed, which say where held-out cases are. Set them, "
            "or give cases with -i and -gt."
        )
    splits_file = Path(nnUNet_preprocessed) / dataset_name / "splits_final.json"
    raw = Path(nnUNet_raw) / dataset_name
    splits = load_json(str(splits_file)) if splits_file.is_file() else []
    if not fold.isdecimal() or int(fold) >= len(splits):
        raise ValueError(
            f"Expected one of the {len(splits)} folds of {splits_file}, got {fold}, which holds nothing out. Give "
            "cases with -i and -gt."
        )
    known = {case.name: case for case in cases_in(raw / "imagesTr", file_ending, raw / "labelsTr")}
    missing = [name for name in splits[int(fold)]["val"] if name not in known]
    if missing:
        raise ValueError(
            f"Expected the validation cases of fold {fold} in {raw / 'imagesTr'}, found no images of "
            f"{', '.join(missing[:5])}. Give cases with -i and -gt."
        )
    return HeldOut(raw / "imagesTr", raw / "labelsTr", [known[name] for name in splits[int(fold)]["val"]])
