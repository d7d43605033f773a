"""What is wrong with a case, and which modalities it has, found by reading every one of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunetv2_missmod.datasets.source import ImageFile, LabelScheme, SourceCase
from nnunetv2_missmod.datasets.volumes import (
    Geometry,
    is_constant,
    read_geometry,
    read_voxels,
    unknown_values,
    volume_number,
    whole_values,
)


class OtherReleaseError(ValueError):
    """The labels of one case tell that those of all cases mean something else."""


@dataclass(frozen=True)
class CheckedCase:
    """What was found in the files of a case.

    Args:
        case: its images are those that are not constant.
        geometry: of the first of them; None if the case is refused.
        constant: files that hold one value, by modality.
        new_label: the converted label of each value in the label file, where values or their type change.
        label_is_float: whether the label file stores its whole numbers as floats.
        has_foreground: whether the label file holds more than background; True without one.
        refused: why the case cannot be used; empty if it can.
    """

    case: SourceCase
    geometry: Geometry | None = None
    constant: Mapping[str, Path] | None = None
    new_label: Mapping[int, int] | None = None
    label_is_float: bool = False
    has_foreground: bool = True
    refused: str = ""


def check_case(case: SourceCase, scheme: LabelScheme) -> CheckedCase:
    """Read every file of a case and compare them with one another and with the scheme of the labels.

    Raises:
        OtherReleaseError: the label file has a value of another release's scheme.
    """
    try:
        checked = _with_present_images(case)
        return _with_label(checked, scheme) if case.label else checked
    except OtherReleaseError:
        raise
    except ValueError as error:
        return CheckedCase(case, refused=str(error))


def orientation_of(case: SourceCase) -> str | None:
    """Read the orientation of a case from the header of its first readable image; None if none is."""
    for image in case.images.values():
        try:
            return read_geometry(image.file)[0].orientation
        except ValueError:
            continue  # check_case says why
    return None


def _with_present_images(case: SourceCase) -> CheckedCase:
    present: dict[str, ImageFile] = {}
    constant: dict[str, Path] = {}
    geometry: Geometry | None = None
    first: Path | None = None
    several: tuple[Path, np.ndarray] | None = None  # a 4D file is decompressed once for its volumes
    for modality, image in case.images.items():
        here, volumes = read_geometry(image.file)
        number = volume_number(image.volume, volumes, image.file)
        voxels = several[1] if several and several[0] == image.file else read_voxels(image.file)
        several = (image.file, voxels) if number is not None else None
        if is_constant(voxels if number is None else voxels[..., number]):
            constant[modality] = image.file
            continue
        present[modality] = image
        geometry, first = geometry or here, first or image.file
        _check_geometry(here, image.file, geometry, first)
    if geometry is None:
        found = f"only constant volumes ({', '.join(constant)})" if constant else "no image"
        raise ValueError(f"expected at least one modality, got {found}: nothing to segment from")
    return CheckedCase(replace(case, images=present), geometry, constant)


def _check_geometry(geometry: Geometry, file: Path, first: Geometry, first_file: Path) -> None:
    if difference := geometry.oriented(first.orientation).difference(first):
        raise ValueError(
            f"expected files on one grid, got {difference} in {file} and {first_file}: resample one onto the other, or "
            "correct its header"
        )


def _with_label(checked: CheckedCase, scheme: LabelScheme) -> CheckedCase:
    file = checked.case.label
    assert file and checked.geometry
    geometry, volumes = read_geometry(file)
    volume_number(None, volumes, file)
    _check_geometry(geometry, file, checked.geometry, next(iter(checked.case.images.values())).file)
    voxels = read_voxels(file)
    values = whole_values(voxels, file)
    if others := sorted(values & scheme.of_others.keys()):
        raise OtherReleaseError(
            f"Expected the values {sorted(scheme.from_source)} in {file}, got {others[0]}, as in "
            f"{scheme.of_others[others[0]]}: the values of all its cases mean something else. Give another --layout; "
            "--layout pattern takes any values."
        )
    if unknown := unknown_values(values, set(scheme.from_source), file):
        raise ValueError(f"{unknown}: correct the labels, or the scheme if these values have a meaning")
    new_label = {value: scheme.from_source[value] for value in values}
    is_float = voxels.dtype.kind == "f"
    changes = is_float or any(value != label for value, label in new_label.items())
    return replace(
        checked,
        new_label=new_label if changes else None,
        label_is_float=is_float,
        has_foreground=any(new_label.values()),
    )
