"""Masks with the label values of the dataset's source, as its challenge wants them."""

from __future__ import annotations

import glob
import os
import re
import sys
from pathlib import Path

from nnunetv2_missmod.datasets.layouts.described import check_nnunet, read_description
from nnunetv2_missmod.datasets.volumes import (
    read_image,
    read_voxels,
    unknown_values,
    whole_values,
    with_values,
    write_volume,
)
from nnunetv2_missmod.machine.progress import track


def restore_labels(masks: Path, output: Path, dataset_json: Path) -> int:
    """Map the labels of every mask of a folder back to the values that the source's label files have.

    Args:
        masks: holds masks as nnU-Net writes them.
        output: folder for the restored masks, of the same names.
        dataset_json: of the converted dataset.

    Returns:
        How many masks could not be restored; each is named on stderr.

    Raises:
        ValueError: the folders are one, there is no mask, or the dataset was not converted by `missmod convert`.
        OSError: a mask could not be written, as when the disk is full; those before it are restored.
    """
    source_values, file_ending = _read_mapping(dataset_json)
    files = sorted(file for file in masks.glob(f"*{file_ending}") if not file.name.startswith("."))
    if not files:
        raise ValueError(f"Expected masks that end in {file_ending} in {masks}, found none: check -i.")
    if output.resolve() == masks.resolve():
        raise ValueError(f"Expected another folder than that of the masks, got {output}: give another -o.")
    output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for file in track(files, output.name, len(files)):
        try:
            _restore(file, output / file.name, source_values)
        except (ValueError, MemoryError) as error:
            print(f"{file.name}: {error or 'it needs more memory than there is'}", file=sys.stderr)
            failed += 1
    return failed


def description_of_dataset(dataset: str | None) -> Path:
    """Find the dataset.json of a raw dataset.

    Args:
        dataset: id or name.

    Raises:
        ValueError: there is no such dataset, or it cannot be looked up.
    """
    raw = os.environ.get("nnUNet_raw")  # noqa: SIM112, nnU-Net's spelling
    if not (raw and dataset):
        raise ValueError("Expected -d and the variable nnUNet_raw, or -dataset_json, got neither. Give one of them.")
    name = f"Dataset{int(dataset):03d}_*" if dataset.isascii() and dataset.isdecimal() else glob.escape(dataset)
    found = sorted(Path(raw).glob(f"{name}/dataset.json"))
    if len(found) != 1:
        raise ValueError(f"Expected one dataset {dataset} in {raw}, found {len(found)}: check -d.")
    return found[0]


def _read_mapping(dataset_json: Path) -> tuple[dict[int, int], str]:
    if not dataset_json.is_file():
        raise ValueError(f"Expected the dataset's description at {dataset_json}, found none: give -dataset_json.")
    description = read_description(dataset_json)
    ours = description.get("missmod")
    values = ours.get("source_values") if isinstance(ours, dict) else None
    if not values:
        raise ValueError(
            f"Expected a dataset that missmod convert wrote, found no block 'missmod' in {dataset_json}: the "
            "source's label values are not known."
        )
    check_nnunet(dataset_json, description)
    return _mapping_of(dataset_json, values), description["file_ending"]


def _mapping_of(dataset_json: Path, values: object) -> dict[int, int]:
    if not isinstance(values, dict) or not all(map(_is_number, (*values, *values.values()))):
        raise ValueError(
            f'Expected source_values such as {{"1": 4}} in {dataset_json}, got {ascii(values)[:80]}. Convert again.'
        )
    return {int(label): int(value) for label, value in values.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, str)) and bool(re.fullmatch("-?[0-9]{1,9}", str(value)))


def _restore(mask: Path, restored: Path, source_values: dict[int, int]) -> None:
    found = whole_values(read_voxels(mask), mask)
    if unknown := unknown_values(found, set(source_values), mask):
        raise ValueError(f"{unknown}: restore masks of this dataset's models, once")
    write_volume(with_values(read_image(mask), source_values), restored)
