"""Image files of a source that no rule takes: a scan under an unexpected name must not count as absent in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nnunetv2_missmod.datasets.layouts.archive import PACKED_ON_A_MAC, files_of_tree, is_image, printable, stem
from nnunetv2_missmod.datasets.layouts.source import SourceCase

OF_A_MAC = "._"  # how the companions begin that macOS writes beside files
OURS = (".converting_", ".filling_", ".phantom_", ".new_")  # the working folders of a conversion that is under way


def unread_images(folder: Path, cases: Sequence[SourceCase]) -> dict[str, tuple[str, ...]]:
    """Find the image files below a folder that belong to no case, hidden ones too.

    Returns:
        Their paths, relative to the folder, by the case that they stand with; "" for those that stand with none. What
        macOS adds to archives is counted there in one entry.
    """
    taken = {file for case in cases for file in _files_of(case)}
    places = _cases_by_folder(cases)
    found: dict[str, list[str]] = {}
    of_a_mac = 0
    for file in _images_below(folder):
        if file.name.startswith(OF_A_MAC) or PACKED_ON_A_MAC in file.relative_to(folder).parts:
            of_a_mac += 1
        elif file not in taken:
            found.setdefault(_case_of(file, folder, places), []).append(printable(file.relative_to(folder)))
    if of_a_mac:
        found.setdefault("", []).append(f"{of_a_mac} that macOS added (._ and {PACKED_ON_A_MAC})")
    return {case: tuple(names) for case, names in found.items()}


def _files_of(case: SourceCase) -> Iterable[Path]:
    yield from (image.file for image in case.images.values())
    if case.label:
        yield case.label


def _images_below(folder: Path) -> list[Path]:
    files = files_of_tree(folder, lambda name: name.startswith(OURS))
    return [file for file in files if is_image(file.name)]


def _cases_by_folder(cases: Sequence[SourceCase]) -> dict[Path, set[str]]:
    places: dict[Path, set[str]] = {}
    for case in cases:
        for file in _files_of(case):
            places.setdefault(file.parent, set()).add(case.name)
    return places


def _case_of(file: Path, folder: Path, places: Mapping[Path, set[str]]) -> str:
    """The case whose folder it is in, or with whose name it begins where several share a folder."""
    near: set[str] = set()
    for parent in file.parents:
        if near := places.get(parent, set()):
            break
        if parent == folder:
            break
    if len(near) == 1:
        return next(iter(near))
    name = stem(file).lstrip(".")
    begins = [case for case in near if name == case or (name.startswith(case) and not name[len(case)].isalnum())]
    return max(begins, key=len, default="")
