"""Volumes whose place is an affine, as nnU-Net's nibabel readers have it: sheared ones too, which SimpleITK refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from nnunetv2_missmod.datasets.volumes import (
    READ_ERRORS,
    Array,
    Geometry,
    in_words,
    mapped_values,
    read_geometry,
    read_voxels,
)
from nnunetv2_missmod.files.geometry import first_difference
from nnunetv2_missmod.files.whole_files import check_whole, write_whole

REORIENTS = {"NibabelIO": False, "NibabelIOWithReorient": True}  # nnU-Net's readers that go by the affine


class AffineGeometry(NamedTuple):
    """Where a 3D volume lies; the affine (4, 4) is from voxels to mm, and ``reorients`` is its reader's."""

    shape: tuple[int, ...]
    affine: Array
    reorients: bool

    @property
    def orientation(self) -> str:
        """None is told apart: files stay as they are."""
        return "as stored"

    def difference(self, other: Geometry | AffineGeometry) -> str:
        """Say in what two geometries differ beyond the tolerance; empty if in nothing."""
        assert isinstance(other, AffineGeometry)
        here, there = (place._canonical() if self.reorients else place for place in (self, other))
        return in_words(first_difference(here._grid(), there._grid()))

    def write_empty(self, file: Path, _: str) -> None:
        """Write a volume of zeros that lies here, one byte a voxel.

        Raises:
            OSError: it could not be written.
        """
        write_array(np.zeros(self.shape, np.uint8), self.affine, file)

    def _grid(self) -> dict[str, Any]:
        return {"shape": self.shape, "affine": self.affine[:3].ravel()}

    def _canonical(self) -> AffineGeometry:
        turned = nib.as_closest_canonical(nib.Nifti1Image(np.empty(self.shape, np.uint8), self.affine))  # type: ignore
        return AffineGeometry(turned.shape, turned.affine, self.reorients)


AnyGeometry = Geometry | AffineGeometry


def read_any_geometry(file: Path, reader: str) -> tuple[AnyGeometry, int | None]:
    """Read a header as ``read_geometry`` does, by the affine where nnU-Net's reader goes by it.

    Raises:
        ValueError: as ``read_geometry``.
    """
    if reader not in REORIENTS:
        return read_geometry(file)
    try:
        image = nib.load(file)
    except READ_ERRORS as error:
        raise ValueError(f"cannot read {file} ({error}): replace it") from error
    shape, affine = image.shape, getattr(image, "affine", None)  # type: ignore[attr-defined]
    if len(shape) not in (3, 4) or affine is None:
        raise ValueError(f"expected 3D volumes with an affine, got the shape {shape} in {file}: split or replace it")
    if not np.isfinite(affine).all() or not np.linalg.det(affine[:3, :3]):
        raise ValueError(f"expected an affine that can be inverted, got {affine.tolist()} in {file}: correct it")
    return AffineGeometry(shape[:3], affine, REORIENTS[reader]), (shape[3] if len(shape) == 4 else None)


def rewrite(source: Path, volume: int | None, new_label: dict[int, int] | None, file: Path) -> None:
    """Write one volume of a file anew, as a label map of other values if wanted, where it lay.

    Raises:
        ValueError: the source cannot be read.
        OSError: it could not be written.
    """
    voxels = read_voxels(source)
    voxels = voxels if volume is None else voxels[..., volume]
    affine = nib.load(source).affine  # type: ignore[attr-defined]
    write_array(mapped_values(voxels, new_label) if new_label else voxels, affine, file)


def write_array(voxels: Array, affine: Array, file: Path) -> None:
    """Write a volume (x, y, z) with its affine (4, 4); it gets its name when it was read back.

    Raises:
        OSError: it could not be written, as when the disk is full.
    """

    def write(partial: Path) -> None:
        nib.save(nib.Nifti1Image(voxels, affine, dtype=voxels.dtype.newbyteorder("=").type), partial)  # type: ignore
        try:
            check_whole(partial)
        except ValueError as error:
            raise OSError(f"cannot write {file} ({error}): is there room on the disk?") from error
        if not np.array_equal(np.asanyarray(nib.load(partial).dataobj), voxels):  # type: ignore[attr-defined]
            raise OSError(f"cannot write {file}: it holds other voxels than it was given")

    write_whole(file, write)
