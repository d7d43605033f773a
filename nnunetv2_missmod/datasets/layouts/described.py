"""Folders that a dataset.json describes: those of nnU-Net, and those of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2_missmod.files.dataset_json import MEND, check_entries
from nnunetv2_missmod.files.entries import Kind, Place, is_list, is_whole

DESCRIPTION = "dataset.json"


def described_folders(folder: Path) -> list[Path]:
    """The folder itself if it has a dataset.json, otherwise those right below it that have one."""
    if (folder / DESCRIPTION).is_file():
        return [folder]
    below = folder.iterdir() if folder.is_dir() else ()
    return sorted(entry for entry in below if not entry.name.startswith(".") and (entry / DESCRIPTION).is_file())


def the_described_folder(folder: Path) -> Path:
    """The one folder that has a dataset.json.

    Raises:
        ValueError: there is none, or there are several.
    """
    folders = described_folders(folder)
    if len(folders) != 1:
        found = "found none" if not folders else f"found them in {folders[0]} and in {folders[1]}"
        raise ValueError(f"Expected one {DESCRIPTION} in {folder} or right below it, {found}. Give its folder.")
    return folders[0]


def description_of(folder: Path) -> dict[str, Any]:
    """What the dataset.json of a folder says.

    Raises:
        ValueError: it is not a JSON object.
    """
    return read_description(folder / DESCRIPTION)


def read_description(file: Path) -> dict[str, Any]:
    """What a dataset.json says.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {file}, got something else ({error}). Mend the file.") from error
    if not isinstance(description, dict):
        raise ValueError(f"Expected a JSON object in {file}, got a {type(description).__name__}. Mend the file.")
    return description


def check_nnunet(file: Path, description: Mapping[str, Any]) -> None:
    """Check that a dataset.json has nnU-Net's entries, each of the right kind; its labels may leave out numbers.

    Raises:
        ValueError: names the entry that is missing or of another kind.
    """
    if not is_nnunet(description):
        raise ValueError(
            f"Expected channel_names in {file}, got none. Is it nnU-Net v1's? nnUNetv2_convert_old_nnUNet_dataset "
            "converts it."
        )
    check_entries(description, str(file))
    order = description.get("regions_class_order")
    Place(str(file), mend=MEND).check("regions_class_order", order, ORDER)


ORDER = Kind(lambda order: order is None or is_list(order, is_whole), "a list of labels")


def is_nnunet(description: Mapping[str, Any]) -> bool:
    """Whether a dataset.json is nnU-Net's."""
    return "channel_names" in description


def is_decathlon(description: Mapping[str, Any]) -> bool:
    """Whether a dataset.json is of the Decathlon; that of nnU-Net v1 has the same entries, and files of one volume."""
    return "modality" in description and description.get("tensorImageSize") == "4D"
