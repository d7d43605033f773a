"""What a folder of scores may name: no path out of the folders that the report is on."""

from __future__ import annotations

from pathlib import Path, PurePath

import pandas as pd

from nnunetv2_missmod.evaluation.provenance import MEND, PROVENANCE, Provenance
from nnunetv2_missmod.evaluation.scores import SCORES_CSV
from nnunetv2_missmod.files.dataset_json import FILE_ENDING
from nnunetv2_missmod.files.entries import Kind, Place
from nnunetv2_missmod.files.names import SEPARATORS

LONGEST, LONGEST_PART = 200, 255  # characters of a name that more is added to, and of one that a file system takes


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


def _is_path(place: str) -> bool:
    return (
        place.isprintable() and bool(place.strip()) and all(len(part) <= LONGEST_PART for part in PurePath(place).parts)
    )


def _is_within(place: str) -> bool:
    path = PurePath(place)
    return (
        _is_path(place) and not path.is_absolute() and ".." not in path.parts and bool(path.parts) and "\\" not in place
    )
