"""dataset.json: what it must hold before anything is read or written by it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_missmod.files.entries import TABLE, Kind, Place, is_list, is_whole
from nnunetv2_missmod.files.json_files import read_object
from nnunetv2_missmod.files.names import whats_wrong

BACKGROUND, IGNORE = "background", "ignore"
MOST_LABELS = 2**16 - 1  # that masks can hold
MEND = "Correct dataset.json."
INNER = str.maketrans("/\\", "--")  # may stand within names here: what becomes a folder or a file is made of others
ENDING = re.compile(r"(\.[A-Za-z0-9_-]+)+")

_LABEL = Kind(
    lambda value: is_label(value) or (is_list(value, is_label) and bool(value)),
    "a whole number, 0 or more, or a list of them",
)
FILE_ENDING = Kind(
    lambda value: isinstance(value, str) and bool(ENDING.fullmatch(value)),
    "a dot and letters or digits, such as .nii.gz",
)


def read_dataset_json(file: Path) -> dict[str, Any]:
    """Read and check a dataset.json.

    Raises:
        ValueError: names the file, and the entry that is missing or wrong.
    """
    content = read_object(file)
    check_dataset_json(content, str(file))
    return content


def check_dataset_json(content: Mapping[str, Any], file: str = "dataset.json") -> None:
    """Check the entries, and that the labels are numbered as nnU-Net demands.

    Raises:
        ValueError: names the file and the entry.
    """
    check_entries(content, file)
    place = Place(file, mend=MEND)
    check_numbers(content["labels"], place)
    check_order(content, place)


def check_entries(content: Mapping[str, Any], file: str) -> None:
    """Check that channels, labels, file ending and reader are what they must be, each by itself.

    Raises:
        ValueError: names the file and the entry.
    """
    place = Place(file, mend=MEND)
    channel_names(content, file)
    place.check_all(content, {"labels": TABLE, "file_ending": FILE_ENDING})
    for name, value in content["labels"].items():
        check_inner_name(name, f"the name of label {name!r}", place)
        place.check(f"labels.{name}", value, _LABEL)
    if content["labels"].get(BACKGROUND) not in (0, "0"):
        place.refuse("labels.background", "0", content["labels"].get(BACKGROUND))
    reader = content.get("overwrite_image_reader_writer", "None")
    place.check("overwrite_image_reader_writer", reader, Kind(lambda value: isinstance(value, str), "a name"))


def channel_names(content: Mapping[str, Any], file: str = "dataset.json") -> list[str]:
    """Give the names of the M image channels, in channel order.

    Args:
        content: of dataset.json; ``modality`` stands for ``channel_names`` in older ones.
        file: it.

    Raises:
        ValueError: names the file and the entry.
    """
    place = Place(file, mend=MEND)
    key = "modality" if "modality" in content and "channel_names" not in content else "channel_names"
    place.check_all(content, {key: Kind(lambda value: TABLE.fits(value) and bool(value), "names by channel, from 0")})
    names: Mapping[str, Any] = content[key]
    channels = [int(channel) for channel in map(str, names) if channel.isascii() and channel.isdecimal()]
    if len(channels) < len(names) or sorted(channels) != list(range(len(names))):
        place.refuse(key, f"names of the channels 0 to {len(names) - 1}", list(names))
    for channel, name in names.items():
        check_inner_name(name, f"{key}.{channel}", place)
    return [names[channel] for channel in sorted(names, key=int)]


def distinct_names(dataset_json: dict[str, Any]) -> list[str]:
    """Name the modalities so that a subset's name says which they are and may be a folder.

    nnU-Net takes a channel's name for its normalisation, so that several may be called "zscore": such names get their
    channel's number. ``+`` joins names and ``/`` and ``,`` part them, so they become ``-``.
    """
    names = [name.translate(str.maketrans("+/\\,", "----")) for name in channel_names(dataset_json)]
    count = Counter(names)
    return [name if count[name] == 1 else f"{name}_{channel:04d}" for channel, name in enumerate(names)]


def check_numbers(labels: Mapping[str, Any], place: Place) -> None:
    """Check that the labels, of which regions have several, leave out no number, and what is ignored has the last.

    Raises:
        ValueError: names the entry.
    """
    known = values_of(labels)
    if known != list(range(len(known))):
        place.refuse("labels", "values from 0 without a gap", known)
    if IGNORE in labels and labels[IGNORE] != len(known):
        place.refuse("labels.ignore", f"one more than the highest label, {len(known)}", labels[IGNORE])


def check_order(content: Mapping[str, Any], place: Place) -> None:
    """Check the values that regions are written with.

    Raises:
        ValueError: names the entry.
    """
    labels = {name: value for name, value in content["labels"].items() if name != IGNORE}
    if not any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        return
    regions = [name for name, value in labels.items() if value not in (0, [0])]
    known = values_of(labels)
    place.check(
        "regions_class_order",
        content.get("regions_class_order"),
        Kind(
            lambda value: is_list(value, lambda each: is_whole(each) and each in known, (len(regions),)),
            f"a list of a label's value for each of the {len(regions)} regions",
        ),
    )


def values_of(labels: Mapping[str, Any]) -> list[int]:
    """List the values of all labels but the one to ignore, in order."""
    values: list[Sequence[Any]] = [
        value if isinstance(value, list) else [value] for name, value in labels.items() if name != IGNORE
    ]
    return sorted({int(each) for value in values for each in value})


def check_inner_name(name: Any, key: str, place: Place) -> None:
    """Check the name of a modality or a label; slashes may stand within it.

    Raises:
        ValueError: names the entry.
    """
    if not isinstance(name, str):
        place.refuse(key, "a name", name)
    if wrong := whats_wrong(name.translate(INNER)):
        raise ValueError(f"{place.file}: expected {key} to be a name, got {name!r}, which {wrong}. {place.mend}")


def is_label(value: Any) -> bool:
    """Tell whether a value can be a label's; nnU-Net takes "1" for 1."""
    is_number = isinstance(value, str) and value.isascii() and value.isdecimal()
    return is_whole(int(value) if is_number else value, most=MOST_LABELS)
