"""What a folder of scores may say: entries of the right type, and no path out of the folders that the report is on."""

from __future__ import annotations

import json
import types
import typing
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from nnunetv2_missmod.evaluation.scores import PROVENANCE, SCORES_CSV, Provenance
from nnunetv2_missmod.files.dataset_json import FILE_ENDING
from nnunetv2_missmod.files.entries import Kind, Place, is_finite
from nnunetv2_missmod.files.names import SEPARATORS

MEND = "Run missmod evaluate again into an empty folder."
LONGEST, LONGEST_PART = 200, 255  # characters of a name that more is added to, and of one that a file system takes


def check_entries(folder: Path) -> None:
    """Check that every entry of provenance.json is of its type; one that is missing is another's concern.

    Raises:
        ValueError: names the file and the entry.
    """
    file = folder / PROVENANCE
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected a JSON object, but it cannot be read: {error}. {MEND}") from error
    place = Place(str(file), mend=MEND)
    place.check("the file", found, Kind(lambda value: isinstance(value, dict), "a JSON object"))
    for name, hint in typing.get_type_hints(Provenance).items():
        if name in found:
            place.check(name, found[name], Kind(partial(fits, hint=hint), f"of type {_words(hint)}"))
    check_members(found, place)


def check_members(found: dict[str, Any], place: Place) -> None:
    """Check that subsets are of the modalities, and that every region has its labels.

    Raises:
        ValueError: names the file and the entry.
    """
    known = set(found.get("modalities", ()))
    for subset, members in found.get("subsets", {}).items():
        if not members or not known.issuperset(members):
            place.refuse(f"subsets.{subset}", "some of modalities", members)
    for region in found.get("regions", ()):
        if not found.get("region_labels", {}).get(region):
            place.refuse(f"region_labels.{region}", "the region's labels", found.get("region_labels"))


def check_places(folder: Path, provenance: Provenance, table: pd.DataFrame) -> None:
    """Check that no file is looked for outside the folders of scores, images and labels.

    Args:
        folder: of the scores.
        provenance: its ``images`` and ``labels`` are wherever the data is.
        table: of the scores; a case's name is a part of its files' names, a subset's of its predictions' folder.

    Raises:
        ValueError: names the file and the entry.
    """
    place = Place(str(folder / PROVENANCE), mend=MEND)
    place.check("file_ending", provenance.file_ending, FILE_ENDING)
    for key, value in (("images", provenance.images), ("labels", provenance.labels)):
        place.check(key, value, Kind(_is_path, "a folder"))
    rows = Place(str(folder / SCORES_CSV), mend=MEND)
    for case in table["case"].unique():
        rows.check("case", case, Kind(is_part_of_a_path, "a name without a path"))
    if provenance.predictions is None:
        return
    place.check("predictions", provenance.predictions, Kind(_is_within, "a folder within that of the scores"))
    if not (folder / provenance.predictions).is_dir():
        return  # no subset's name is looked for anywhere
    for subset in provenance.subsets:
        place.check("subsets", subset, Kind(is_part_of_a_path, "names without a path"))


def is_part_of_a_path(name: str) -> bool:
    """Tell whether a name stays in the folder that it is looked for in."""
    return (
        name.isprintable()
        and 0 < len(name) <= LONGEST
        and name not in (".", "..")
        and not any(separator in name for separator in SEPARATORS)
    )


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value that was read from JSON is of a type such as ``dict[str, list[int]]``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, each) for each in arguments)
    if origin is list:
        return isinstance(value, list) and all(fits(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(each, arguments[1]) for each in value.values())
    if hint in (int, float):
        return is_finite(value) and (hint is float or isinstance(value, int))
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    return str(hint) if typing.get_origin(hint) else hint.__name__


def _is_path(place: str) -> bool:
    return (
        place.isprintable() and bool(place.strip()) and all(len(part) <= LONGEST_PART for part in PurePath(place).parts)
    )


def _is_within(place: str) -> bool:
    path = PurePath(place)
    return (
        _is_path(place) and not path.is_absolute() and ".." not in path.parts and bool(path.parts) and "\\" not in place
    )
