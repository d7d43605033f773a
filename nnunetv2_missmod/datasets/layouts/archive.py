"""What every layout needs of an unpacked archive: its files, and the cases that they make up."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from nnunetv2_missmod.datasets.layouts.source import ImageFile, SourceCase
from nnunetv2_missmod.files.channels import NIFTI, OTHER_VOLUMES, without_ending

PACKED_ON_A_MAC = "__MACOSX"


class Found(NamedTuple):
    """A file that belongs to a case.

    Args:
        case: its name.
        file: an image, or the labels.
        modality: None for the labels.
        volume: of a 4D file.
        subject: the patient; None leaves it to the case's other files, or to the case's name.
        place: where the whole case stands, for layouts that keep it in one place.
        is_test: whether the layout says that the case is not for training.
    """

    case: str
    file: Path
    modality: str | None
    volume: int | None = None
    subject: str | None = None
    place: Path | None = None
    is_test: bool = False


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, sorted; hidden ones and what macOS adds to archives are left out.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"Expected the folder of a dataset, got {folder}, which is none. Check the path.")
    files = files_of_tree(folder, lambda name: name.startswith(".") or name == PACKED_ON_A_MAC)
    return [file for file in files if not file.name.startswith(".")]


def files_of_tree(folder: Path, is_left_out: Callable[[str], bool]) -> list[Path]:
    """Every file below a folder, sorted, hidden ones too; folders are left out by their names."""
    files: list[Path] = []
    seen: set[str] = set()  # a link may lead back to a folder above it
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not is_left_out(name)]
        files += [Path(parent, name) for name in names]
    return sorted(files)


def volume_files(folder: Path) -> list[Path]:
    """The NIfTI files among ``files_below``.

    Raises:
        ValueError: there is no such folder, or no such file in it.
    """
    files = [file for file in files_below(folder) if file.name.lower().endswith(NIFTI)]
    if not files:
        raise ValueError(
            f"Expected NIfTI files (.nii or .nii.gz) below {folder}, found none. Unpack the archive, or check the path."
        )
    return files


def is_image(name: str) -> bool:
    """Whether a file's name ends as those of medical images do."""
    return name.lower().endswith((*NIFTI, *OTHER_VOLUMES))


def stem(file: Path) -> str:
    """The file's name without the ending of an image."""
    name = without_ending(file.name, (*NIFTI, *OTHER_VOLUMES))
    return file.name if name is None else name


def printable(path: Path) -> str:
    """A path as it can be printed, whatever characters it has."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def examples(names: Iterable[object], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def same_content(one: Path | None, two: Path) -> bool:
    """Whether two files hold the same once they are unpacked; False without a first one, or if one is damaged."""
    if one is None:
        return False
    try:
        return _digest(one) == _digest(two)
    except (OSError, EOFError, zlib.error):
        return False


def _digest(file: Path) -> bytes:
    digest = hashlib.sha256()
    with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.digest()


def cases_of(found: Iterable[Found], modalities: Sequence[str]) -> tuple[SourceCase, ...]:
    """Put files together to cases, sorted by name; a case without labels is not for training.

    Args:
        found: in any order.
        modalities: in channel order, in which a case lists its images.

    Raises:
        ValueError: two files claim to be the same part of a case, or a case has two places or subjects.
    """
    parts: dict[str, list[Found]] = {}
    for part in found:
        parts.setdefault(part.case, []).append(part)
    return tuple(_case(name, parts[name], modalities) for name in sorted(parts))


def _case(name: str, parts: Sequence[Found], modalities: Sequence[str]) -> SourceCase:
    _check_once(name, parts)
    of_modality = {part.modality: part for part in parts}
    there = [modality for modality in modalities if modality in of_modality]
    images = {modality: ImageFile(of_modality[modality].file, of_modality[modality].volume) for modality in there}
    label = of_modality[None].file if None in of_modality else None
    subject = next((part.subject for part in parts if part.subject is not None), name)
    is_training = label is not None and not any(part.is_test for part in parts)
    return SourceCase(name, subject, images, label, is_training)


def _check_once(name: str, parts: Sequence[Found]) -> None:
    places = sorted({part.place for part in parts if part.place is not None})
    if len(places) > 1:
        raise ValueError(
            f"Expected the case {name} once, found it in {places[0]} and in {places[1]}: "
            "give the folder that holds only one of them."
        )
    files: dict[str | None, Path] = {}
    for part in parts:
        if part.modality in files:
            raise ValueError(
                f"Expected one file for the {part.modality or 'labels'} of the case {name}, found "
                f"{files[part.modality]} and {part.file}: remove one, or give the folder that holds only one of them."
            )
        files[part.modality] = part.file
    subjects = sorted({part.subject for part in parts if part.subject is not None})
    if len(subjects) > 1:
        raise ValueError(
            f"Expected the case {name} to be of one subject, found {examples(subjects)}: cases need names of their own."
        )
