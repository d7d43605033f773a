"""Folders that a dataset.json describes: those of nnU-Net, and those of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
    """Check that a dataset.json has nnU-Net's entries, each of the right kind.

    Raises:
        ValueError: names the entry that is missing or of another kind.
    """
    if not is_nnunet(description):
        raise ValueError(
            f"Expected channel_names in {file}, got none. Is it nnU-Net v1's? nnUNetv2_convert_old_nnUNet_dataset "
            "converts it."
        )
    if missing := [entry for entry in ("labels", "file_ending") if entry not in description]:
        raise ValueError(f"Expected {' and '.join(missing)} in {file}, as nnU-Net demands. Add what is missing.")
    for entry, (is_right, expected) in ENTRIES.items():
        if entry in description and not is_right(description[entry]):
            raise ValueError(
                f"Expected {entry} to be {expected} in {file}, got {_excerpt(description[entry])}. Mend it."
            )


def _excerpt(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _are_channels(names: Any) -> bool:
    is_named = isinstance(names, dict) and bool(names) and all(isinstance(name, str) for name in names.values())
    return is_named and all(re.fullmatch("[0-9]{1,4}", number) for number in names)


def _are_labels(labels: object) -> bool:
    if not isinstance(labels, dict) or labels.get("background") != 0:
        return False
    return all(_is_label(label) or (_are_numbers(label) and label) for label in labels.values())


def _is_label(label: object) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and 0 <= label < LARGEST_LABEL


def _are_numbers(order: object) -> bool:
    return isinstance(order, list) and all(map(_is_label, order))


def _is_ending(ending: object) -> bool:
    return isinstance(ending, str) and bool(re.fullmatch(r"(\.\w+)+", ending, re.ASCII))


LARGEST_LABEL = 2**16  # nnU-Net stores labels in two bytes at most
ENTRIES: dict[str, tuple[Callable[[Any], object], str]] = {
    "channel_names": (_are_channels, 'names by channel, such as {"0": "FLAIR"}'),
    "labels": (_are_labels, "numbers by name, such as background: 0 and lesion: 1, or lists of them"),
    "file_ending": (_is_ending, "an ending such as .nii.gz"),
    "regions_class_order": (lambda order: order is None or _are_numbers(order), "a list of labels"),
    "overwrite_image_reader_writer": (lambda name: isinstance(name, str), "the name of nnU-Net's reader"),
}


def is_nnunet(description: Mapping[str, Any]) -> bool:
    """Whether a dataset.json is nnU-Net's."""
    return "channel_names" in description


def is_decathlon(description: Mapping[str, Any]) -> bool:
    """Whether a dataset.json is of the Decathlon; that of nnU-Net v1 has the same entries, and files of one volume."""
    return "modality" in description and description.get("tensorImageSize") == "4D"
