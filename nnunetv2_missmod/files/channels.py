"""Which file of a folder is which channel of which case, by its name alone: ``<case>_XXXX<file_ending>``.

A file that is there is never passed over in silence. NIfTI files are taken with and without compression, endings in any
case; what looks like a channel but is none is an error of its case.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nnunetv2_missmod.files.names import check_name

SUFFIX = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})", re.DOTALL)
LIKE_A_SUFFIX = re.compile(r"(?P<case>.+)[_-]\d+", re.DOTALL)  # digits of any script: _001, -0001
NIFTI = (".nii.gz", ".nii")
OTHER_VOLUMES = (
    *(".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".gipl.gz"),
    *(".hdr", ".img", ".img.gz", ".mgz", ".mgh", ".mnc"),
)
IMAGES = (*NIFTI, *OTHER_VOLUMES, ".dcm", ".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")


class Listed(NamedTuple):
    """The files of a folder.

    Attributes:
        files_of: case -> names of its files, misnamed ones among them.
        passed_over: images that are no case's.
    """

    files_of: dict[str, list[str]]
    passed_over: list[str]


def stem_of(name: str, file_ending: str) -> str | None:
    """Give a file's name without its ending, if that is the dataset's in whatever case, or the other NIfTI one."""
    endings = NIFTI if file_ending in NIFTI else (file_ending,)
    return without_ending(name, endings)


def list_cases(names: Iterable[str], file_ending: str) -> Listed:
    """Sort the files of a folder into cases.

    Args:
        names: of the files.
        file_ending: of the dataset.
    """
    files_of: dict[str, list[str]] = {}
    unnumbered: list[tuple[str, str]] = []
    passed_over: list[str] = []
    for name in sorted(names):
        stem = without_ending(name, (file_ending, *IMAGES))
        if stem is None:
            continue
        if name.startswith("."):
            passed_over.append(name)
        elif match := SUFFIX.fullmatch(stem) or LIKE_A_SUFFIX.fullmatch(stem):
            files_of.setdefault(match["case"], []).append(name)
        else:
            unnumbered.append((stem, name))
    cases = tuple(f"{case}{mark}" for case in files_of for mark in "_-. ")
    for stem, name in unnumbered:
        if stem_of(name, file_ending) is None or stem.startswith(cases):  # such as a mask beside the images
            passed_over.append(name)
        else:
            files_of.setdefault(stem, []).append(name)  # the whole case would be lost: its error tells
    return Listed(files_of, sorted(passed_over))


def passed_over_by_nnunet(image_files: Sequence[str], file_ending: str) -> list[str]:
    """Find files of a case beside those that nnU-Net lists: misnamed ones, or of an ending that nnU-Net does not take.

    Args:
        image_files: of the case, in one folder.
        file_ending: of the dataset.
    """
    match = SUFFIX.fullmatch(stem_of(os.path.basename(image_files[0]), file_ending) or "")
    folder = os.path.dirname(image_files[0])
    if match is None or not os.path.isdir(folder or "."):
        return []
    like = [name for name in os.listdir(folder or ".") if name.startswith(match["case"])]
    of_case = list_cases(like, file_ending).files_of.get(match["case"], [])
    return [os.path.join(folder, name) for name in of_case if not _is_nnunets(name, file_ending)]


def assign_channels(image_files: Sequence[str], modalities: Sequence[str], file_ending: str) -> tuple[list[int], str]:
    """Read the channel of each file from its ``_XXXX`` suffix.

    Returns:
        The channel of each file, and the name of the case.

    Raises:
        ValueError: names the case and the file when the case cannot be a file's name, or a suffix is missing, beyond
            the modalities, or taken twice.
    """
    if not image_files:
        raise ValueError(f"Expected a case with at least one of the channels {modalities}, got no file at all.")
    case = _case_of(image_files, file_ending)
    check_name(case, "a case")
    file_of: dict[int, str] = {}
    for file in image_files:
        channel = _channel_of(file, case, file_ending)
        if channel is None or channel >= len(modalities):
            known = ", ".join(f"_{number:04d} = {name}" for number, name in enumerate(modalities))
            raise ValueError(
                f"Case {case}: expected files that end in one of {known} and {file_ending}, got {file}. Rename or "
                "remove this file."
            )
        if channel in file_of:
            raise ValueError(
                f"Case {case}: expected one file for channel {channel} ({modalities[channel]}), got {file_of[channel]} "
                f"and {file}. Remove one of them."
            )
        file_of[channel] = file
    return list(file_of), case


def _case_of(image_files: Sequence[str], file_ending: str) -> str:
    names = [os.path.basename(file) for file in image_files]
    stems = [without_ending(name, (file_ending, *IMAGES)) or name for name in names]
    matches = [SUFFIX.fullmatch(stem) or LIKE_A_SUFFIX.fullmatch(stem) for stem in stems]
    return next((match["case"] for match in matches if match), stems[0])


def _channel_of(file: str, case: str, file_ending: str) -> int | None:
    match = SUFFIX.fullmatch(stem_of(os.path.basename(file), file_ending) or "")
    return int(match["channel"]) if match and match["case"] == case else None


def _is_nnunets(name: str, file_ending: str) -> bool:
    return name.endswith(file_ending) and SUFFIX.fullmatch(name[: -len(file_ending)]) is not None


def without_ending(name: str, endings: Iterable[str]) -> str | None:
    """Give a name without the longest of some endings that it has, in whatever case; None if it has none."""
    fitting = [ending for ending in endings if name.lower().endswith(ending.lower())]
    return name[: -len(max(fitting, key=len))] if fitting else None
