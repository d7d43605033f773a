"""Which modalities the cases of a preprocessed dataset have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_raw

from nnunetv2_missmod.files.reading import read_images
from nnunetv2_missmod.host.preprocessor import varying
from nnunetv2_missmod.host.raw_dataset import training_files
from nnunetv2_missmod.machine.progress import track
from nnunetv2_missmod.modalities import subset_name

Available = Mapping[str, tuple[bool, ...]]  # of each case: which of its M modalities it has

LONG_SEARCH = 100  # cases from which on a progress bar is worth its line


def find_available(dataset: Any, show_progress: bool = True) -> dict[str, tuple[bool, ...]]:
    """Find the modalities that each case has: its channels that are not constant.

    Args:
        dataset: nnU-Net's dataset.
        show_progress: show a bar when the cases are many.

    Raises:
        ValueError: names the cases that have none.
    """
    cases = dataset.identifiers
    hidden = not show_progress or len(cases) < LONG_SEARCH
    with ThreadPoolExecutor(8) as pool:
        rows = pool.map(lambda case: _varying_in_file(dataset.load_case(case)[0]), cases)
        shown = rows if hidden else track(rows, "Looking for missing modalities", len(cases))
        found = dict(zip(cases, shown, strict=True))
    empty = [case for case, row in found.items() if not any(row)]
    if empty:
        raise ValueError(
            f"Expected cases with at least one modality, got only constant channels in {', '.join(empty)}. "
            f"Leave these cases out of splits_final.json, or remove them from {dataset.source_folder}."
        )
    return found


def check_absent(available: Available, dataset_name: str, dataset_json: dict[str, Any], reader: Any) -> None:
    """Check in the raw dataset, where it is at hand, that what training will take for absent is absent.

    A damaged image is zeros after nnU-Net's preprocessing, as an absent one is.

    Args:
        available: which modalities each case has in the preprocessed data.
        dataset_name: of the raw dataset.
        dataset_json: of the dataset.
        reader: nnU-Net's.

    Raises:
        ValueError: names the case and the file that is damaged, or holds an image.
    """
    incomplete = {case: row for case, row in available.items() if not all(row)}
    raw = Path(str(nnUNet_raw), dataset_name) if nnUNet_raw.is_set() else None
    if raw is None or not incomplete or not ("dataset" in dataset_json or (raw / "imagesTr").is_dir()):
        return
    files_of = training_files(raw, dataset_json)
    for case in sorted(incomplete.keys() & files_of.keys()):
        files = files_of[case]["images"]
        if len(files) != len(incomplete[case]):
            continue  # one file that holds all channels
        for file in (file for file, there in zip(files, incomplete[case], strict=True) if not there):
            _check_no_image(case, file, reader)


def _check_no_image(case: str, file: str, reader: Any) -> None:
    if varying(read_images(reader, [file], case)[0]).any():
        raise ValueError(
            f"Case {case}: expected no image in {file}, since the preprocessed case has none there, but it holds one. "
            "Preprocess the dataset again (nnUNetv2_preprocess)."
        )


def describe_incomplete(available: Available, modalities: list[str]) -> str:
    """Say how many cases lack modalities, and which subsets they have instead."""
    incomplete = Counter(subset_name(torch.tensor(row), modalities) for row in available.values() if not all(row))
    counts = "".join(f" {count} x {name};" for name, count in incomplete.most_common())
    return f"{incomplete.total()} of {len(available)} cases lack modalities.{counts}"


def _varying_in_file(images: Any) -> tuple[bool, ...]:
    """Tell which channels of a case (M, x, y, z), an array on disk, are not constant.

    The middle slice settles it for nearly every channel that holds an image; only the others are read whole.
    """
    middle = images.shape[1] // 2
    return tuple(
        bool(varying(images[m : m + 1, middle : middle + 1])[0] or varying(images[m : m + 1])[0])
        for m in range(images.shape[0])
    )
