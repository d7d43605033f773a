"""The images and labels of a case, read by nnU-Net's readers: whole, finite, and in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnunetv2_missmod.files.geometry import first_difference
from nnunetv2_missmod.files.resampling import onto_grid
from nnunetv2_missmod.files.whole_files import check_whole

LABEL_TOLERANCE = 1e-4  # within which a value of a label map is a whole number
RESAMPLED = "resampled"  # among the properties: the files that were brought onto another's grid

Properties = dict[str, Any]
Grid = dict[str, Any]  # shape, spacing, and what else the reader knows of a place


class Read(NamedTuple):
    """A file as it was read."""

    file: str
    voxels: np.ndarray  # (channels, x, y, z)
    properties: Properties  # of nnU-Net's reader


def read_images(
    reader: Any, image_files: Sequence[str], case: str, resample: bool = False
) -> tuple[np.ndarray, Properties]:
    """Read the files of one case with nnU-Net's reader.

    Args:
        reader: nnU-Net's.
        image_files: of the case.
        case: its name, for messages.
        resample: bring files that lie elsewhere onto the first one's grid instead of refusing them.

    Returns:
        Images (channels, x, y, z) of the files one after the other, and the first one's properties; among them, as
        ``RESAMPLED``, the files that were brought onto its grid, if any were.

    Raises:
        ValueError: names the case and the file that is damaged, cannot be read, holds NaN or lies elsewhere.
    """
    try:
        found = [_read(reader, file) for file in image_files]
        first = found[0]
        moved = [read.file for read in found[1:] if resample and _differ(read, first)]
        found = [_onto(read, first) if read.file in moved else read for read in found]
        check_one_grid(found)
    except ValueError as error:
        raise ValueError(f"Case {case}: {error}.") from error
    properties = {**first.properties, RESAMPLED: moved} if moved else first.properties
    return np.concatenate([read.voxels for read in found]), properties


def read_label(reader: Any, file: str) -> tuple[np.ndarray, Properties]:
    """Read a label map with nnU-Net's reader, values that miss a whole number by rounding alone put right.

    Returns:
        Label map (1, x, y, z) and its properties.

    Raises:
        ValueError: names the file that is damaged or cannot be read, or holds fractions.
    """
    label, properties = _checked(file, reader.read_seg)
    whole = np.rint(label)
    if (far := np.abs(label - whole) > LABEL_TOLERANCE).any():
        raise ValueError(
            f"expected whole numbers in {file}, got {float(label[far][0])!r}: it is no label map, or its header scales "
            "its values"
        )
    return whole, properties


def difference(name: str, grid: Grid, other_name: str, other: Grid) -> str:
    """Say in what two grids, of ``grid_of``, differ beyond the tolerance; empty if in nothing."""
    if found := first_difference(grid, other):
        return f"the {found.what} {found.here} in {name} and {found.there} in {other_name}"
    return ""


def grid_of(shape: Sequence[int], properties: Properties) -> Grid:
    """Collect what nnU-Net's readers know of an image's grid; how they say its place depends on their library."""
    of_library = {**properties.get("sitk_stuff", {}), **properties.get("nibabel_stuff", {})}
    if "reoriented_affine" in of_library:  # what the voxels lie by; the original is for writing
        del of_library["original_affine"]
    keys = ("origin", "direction", "original_affine", "reoriented_affine")
    placed = {key: np.ravel(of_library[key]) for key in keys if key in of_library}
    return {"shape": tuple(shape), "spacing": [float(mm) for mm in properties["spacing"]], **placed}


def check_one_grid(found: Sequence[Read]) -> None:
    """Check that files lie on one grid; where most agree, the file that differs from those is named.

    Raises:
        ValueError: says in what two of them differ.
    """
    agreeing = [sum(not _differ(read, other) for other in found) for read in found]
    usual = found[int(np.argmax(agreeing))]
    for read in found:
        if differs := _differ(read, usual):
            raise ValueError(
                f"expected images on one grid, got {differs}. Register and resample one onto the other, correct its "
                "header, or remove it (missmod predict --resample brings it onto the first one's grid)"
            )


def _read(reader: Any, file: str) -> Read:
    voxels, properties = _checked(file, lambda name: reader.read_images([name]))
    return Read(file, voxels, _of_three_axes(properties, voxels.shape[0], file))


def _checked(file: str, read: Any) -> tuple[np.ndarray, Properties]:
    check_whole(Path(file))
    try:
        voxels, properties = read(file)
    except Exception as error:  # whatever a library raises, assertions and exhausted memory among it
        reason = str(error).strip().split("\n")[-1] or type(error).__name__
        raise ValueError(f"cannot read {file} ({reason}). Replace or remove this file") from error
    if not np.isfinite(voxels).all():
        raise ValueError(f"expected finite values, got NaN or infinity in {file}. Repair the file")
    return voxels, properties


def _of_three_axes(properties: Properties, channels: int, file: str) -> Properties:
    """Cut what SimpleITK knows of a 4D file's place to the axes of its volumes, on which a mask is written."""
    placed = properties.get("sitk_stuff")
    if placed is None:
        return properties
    axes = len(placed["spacing"])
    if len(properties["spacing"]) != 3 or (axes == 3 and channels != 1):
        raise ValueError(
            f"expected one value per voxel, got several in {file}: it is a colour image. Export it again without "
            "colours, or remove it"
        )
    if axes != 4:
        return properties
    direction = np.reshape(placed["direction"], (4, 4))[:3, :3].ravel()
    cut = {"spacing": placed["spacing"][:3], "origin": placed["origin"][:3], "direction": tuple(direction.tolist())}
    return {**properties, "sitk_stuff": {**placed, **cut}}


def _onto(read: Read, target: Read) -> Read:
    voxels = onto_grid(read.voxels, read.properties, target.voxels.shape[1:], target.properties)
    if voxels is None:
        raise ValueError(f"expected files that say where they lie, to resample them, got {read.file}")
    if np.ptp(voxels) == 0 < np.ptp(read.voxels):  # it would pass for absent
        raise ValueError(f"expected images of one place, got {read.file}, of which nothing reaches {target.file}")
    return Read(read.file, voxels, target.properties)


def _differ(read: Read, other: Read) -> str:
    grids = [grid_of(each.voxels.shape[1:], each.properties) for each in (read, other)]
    return difference(read.file, grids[0], other.file, grids[1])
