"""Volumes on disk: where they lie, what they hold, and writing them again where they cannot be linked.

SimpleITK reads a truncated .nii.gz, and NaN, as zeros without a word, and writes to a full disk likewise: files are
checked before they are read and read back after they are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunetv2_missmod.files.geometry import Difference, first_difference
from nnunetv2_missmod.files.whole_files import check_whole, is_nifti, write_whole

Array = NDArray[Any]

READ_ERRORS = (
    *(OSError, EOFError, RuntimeError, ValueError, MemoryError, nib.filebasedimages.ImageFileError),
    *(nib.spatialimages.HeaderDataError, nib.spatialimages.ImageDataError),
)
CONSTANT_TOLERANCE = 1e-5  # of the largest value: that of the trainers, whose module takes seconds to load
ROUNDING = 1e-4  # by which a label may miss its whole number, as float files and slopes of 1/255 make it


class Geometry(NamedTuple):
    """Where a 3D volume lies; all in SimpleITK's order (x, y, z), in mm and as 3x3 direction cosines by rows."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def orientation(self) -> str:
        """Three letters such as LPS: where the axes point to."""
        code: str = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(self.direction)
        return code

    def oriented(self, orientation: str) -> Geometry:
        """The geometry of the volume after its axes were permuted and flipped."""
        if orientation == self.orientation:
            return self
        return _geometry_of(sitk.DICOMOrient(self.empty_volume(), orientation))

    def empty_volume(self) -> sitk.Image:
        """A volume of zeros that lies here, one byte a voxel."""
        volume = sitk.Image(self.shape, sitk.sitkUInt8)
        volume.SetSpacing(self.spacing)
        volume.SetOrigin(self.origin)
        volume.SetDirection(self.direction)
        return volume

    def write_empty(self, file: Path, orientation: str) -> None:
        """Write a volume of zeros that lies here, its axes permuted and flipped to the orientation.

        Raises:
            OSError: it could not be written.
        """
        write_volume(self.oriented(orientation).empty_volume(), file)

    def difference(self, other: Any) -> str:
        """Say in what two geometries differ beyond the tolerance and the order of axes; empty if in nothing."""
        assert isinstance(other, Geometry)
        return in_words(first_difference(self.oriented(other.orientation)._asdict(), other._asdict()))


def in_words(difference: Difference | None) -> str:
    """Say in what two geometries differ; empty if in nothing."""
    return f"{difference.what} {difference.here} against {difference.there}" if difference else ""


def read_geometry(file: Path) -> tuple[Geometry, int | None]:
    """Read a header: the geometry, and how many volumes a 4D file has (None for a 3D file).

    Raises:
        ValueError: the file cannot be read, or holds something other than 3D volumes of one value per voxel.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(f"cannot read {file} ({_last_line(error)}): replace it") from error
    dimension, components = reader.GetDimension(), reader.GetNumberOfComponents()
    if components != 1:
        raise ValueError(_said_of_colour(components, file))
    if dimension not in (3, 4):
        raise ValueError(f"expected 3D volumes of one value per voxel, got {dimension}D in {file}: split or replace it")
    size, direction = reader.GetSize(), np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    geometry = Geometry(
        tuple(size[:3]), tuple(reader.GetSpacing()[:3]), tuple(reader.GetOrigin()[:3]), tuple(direction.ravel())
    )
    return geometry, (size[3] if dimension == 4 else None)


def read_voxels(file: Path) -> Array:
    """Read all voxels of a file, (x, y, z) or (x, y, z, volumes).

    Raises:
        ValueError: the file cannot be read, ends too early, is a colour image, or holds NaN or infinity.
    """
    check_whole(file)
    try:
        voxels = _voxels_of(file)
    except READ_ERRORS as error:
        raise ValueError(f"cannot read {file} ({_last_line(error)}): replace it") from error
    if voxels.dtype.kind not in "biuf":
        raise ValueError(f"expected real numbers, got voxels of type {voxels.dtype} in {file}: replace it")
    if not np.isfinite(voxels).all():
        raise ValueError(f"expected finite values, got NaN or infinity in {file}: repair it")
    return voxels


def _voxels_of(file: Path) -> Array:
    if is_nifti(file):
        voxels: Array = np.asanyarray(nib.load(file).dataobj)  # type: ignore[attr-defined]
        return voxels
    image = sitk.ReadImage(str(file))
    if (components := image.GetNumberOfComponentsPerPixel()) != 1:
        raise ValueError(_said_of_colour(components, file))
    voxels = sitk.GetArrayFromImage(image).T
    return voxels


def _said_of_colour(components: int, file: Path) -> str:
    return (
        f"expected 3D volumes of one value per voxel, got a colour image of {components} values per voxel in {file}: "
        "split or replace it"
    )


def is_constant(voxels: Array) -> bool:
    """Tell whether a volume (x, y, z) holds one value, which is no image."""
    low, high = float(voxels.min()), float(voxels.max())
    return high - low <= CONSTANT_TOLERANCE * max(abs(low), abs(high))


def volume_number(wanted: int | None, volumes: int | None, file: Path) -> int | None:
    """Find out which volume of a file to take; None for a 3D file.

    Raises:
        ValueError: there is no such volume, or there are several and none is named.
    """
    if volumes is None:
        return None
    number = 0 if wanted is None and volumes == 1 else wanted
    if number is None or number >= volumes:
        raise ValueError(
            f"expected {'one volume' if wanted is None else f'a volume {wanted}'}, got {volumes} of them in {file}: "
            "split or replace it"
        )
    return number


def read_image(file: Path) -> sitk.Image:
    """Read an image with its place in space.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        return sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise ValueError(f"cannot read {file} ({_last_line(error)}): replace it") from error


def read_volume(file: Path, volume: int | None, orientation: str) -> sitk.Image:
    """Read one volume, its axes permuted and flipped to the orientation.

    Raises:
        ValueError: the file cannot be read.
    """
    image = read_image(file)
    return sitk.DICOMOrient(image if volume is None else image[:, :, :, volume], orientation)


def write_volume(image: sitk.Image, file: Path) -> None:
    """Write a volume, compressed where the file's ending says so; it gets its name when it was read back.

    Raises:
        OSError: it could not be written, as when the disk is full.
    """

    def write(partial: Path) -> None:
        try:
            sitk.WriteImage(image, str(partial), useCompression=True)
        except RuntimeError as error:
            raise OSError(f"cannot write {file} ({_last_line(error)})") from error
        if wrong := _difference_from(image, partial):
            raise OSError(f"cannot write {file} ({wrong}): is there room on the disk?")

    write_whole(file, write)


def _difference_from(image: sitk.Image, written: Path) -> str:
    """Say in what a file differs from the image that it was to hold; empty if in nothing."""
    try:
        check_whole(written)
        found = read_image(written)
    except ValueError as error:
        return str(error)
    if not np.array_equal(sitk.GetArrayViewFromImage(found), sitk.GetArrayViewFromImage(image)):
        return "it holds other voxels than it was given"
    return _geometry_of(found).difference(_geometry_of(image))


def with_values(image: sitk.Image, new_value: dict[int, int]) -> sitk.Image:
    """Replace the values of a label map; the result has the smallest integer type that holds the new ones."""
    mapped = sitk.GetImageFromArray(mapped_values(sitk.GetArrayFromImage(image), new_value))
    mapped.CopyInformation(image)
    return mapped


def mapped_values(voxels: Array, new_value: dict[int, int]) -> Array:
    """Replace the values of a label map (*shape); those within ``ROUNDING`` of a whole number count as it."""
    old = np.rint(voxels) if voxels.dtype.kind == "f" else voxels
    new = np.zeros(old.shape, np.result_type(*map(np.min_scalar_type, new_value.values())))
    for value, replacement in new_value.items():
        new[old == value] = replacement
    return new


def whole_values(voxels: Array, file: Path) -> set[int]:
    """Collect the values of a label map (*shape); those within ``ROUNDING`` of a whole number count as it.

    Raises:
        ValueError: one of them is no whole number.
    """
    found = _unique(voxels)
    if fractions := [value for value in found if abs(value - round(value)) > ROUNDING]:
        listed = ", ".join(map(repr, fractions[:10])) + ", ..." * (len(fractions) > 10)
        raise ValueError(
            f"expected whole numbers in {file}, got {listed}{_slope_of(file)}: it is no label map, replace it"
        )
    return {round(value) for value in found}


def is_rounded(voxels: Array) -> bool:
    """Tell whether ``whole_values`` had to round the voxels (*shape)."""
    return voxels.dtype.kind == "f" and bool((voxels != np.rint(voxels)).any())


def _slope_of(file: Path) -> str:
    """Say by what a header multiplies the voxels; empty if by nothing."""
    if not is_nifti(file):
        return ""
    stored = nib.load(file).dataobj  # type: ignore[attr-defined]
    slope, intercept = float(stored.slope), float(stored.inter)
    return "" if slope == 1 else f" (its header multiplies by {slope!r} and adds {intercept!r})"


def unknown_values(values: set[int], known: set[int], file: Path) -> str:
    """Say which values of a label map the scheme does not know; empty if it knows all."""
    unknown = sorted(values - known)
    return f"expected the values {sorted(known)} in {file}, got {_listed(unknown)}" if unknown else ""


def _unique(voxels: Array) -> list[float]:
    # Neighbouring voxels mostly agree: only where the value changes is there something to sort.
    flat = voxels.ravel(order="K")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return [float(value) for value in np.unique(np.append(flat[:1], flat[changes]))]


def _geometry_of(image: sitk.Image) -> Geometry:
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def _listed(values: list[Any]) -> str:
    return ", ".join(f"{value:g}" for value in values[:10]) + ", ..." * (len(values) > 10)


def _last_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[-1] or type(error).__name__
