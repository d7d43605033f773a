"""What is wrong with a case, and which modalities it has, found by reading every one of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunetv2_missmod.datasets.conversion.affine_volumes import AnyGeometry, read_any_geometry
from nnunetv2_missmod.datasets.layouts.source import ImageFile, LabelScheme, SourceCase
from nnunetv2_missmod.datasets.volumes import (
    is_constant,
    is_rounded,
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
        geometry: on which its files agree; None if the case is refused.
        constant: files that hold one value, by modality.
        new_label: the converted label of each value in the label file, where values or their type change.
        label_is_float: whether the label file stores its whole numbers as floats.
        label_is_rounded: whether they miss whole numbers by a rounding error.
        has_foreground: whether the label file holds more than background; True without one.
        refused: why the case cannot be used; empty if it can.
    """

    case: SourceCase
    geometry: AnyGeometry | None = None
    constant: Mapping[str, Path] | None = None
    new_label: Mapping[int, int] | None = None
    label_is_float: bool = False
    label_is_rounded: bool = False
    has_foreground: bool = True
    refused: str = ""


def check_case(case: SourceCase, scheme: LabelScheme, reader: str = "") -> CheckedCase:
    """Read every file of a case and compare them with one another and with the scheme of the labels.

    Args:
        case: with its files.
        scheme: of its labels.
        reader: nnU-Net's, if the dataset chooses one.

    Raises:
        OtherReleaseError: the label file has a value of another release's scheme.
    """
    try:
        checked, geometries = _with_present_images(case, reader)
        return _with_label(checked, geometries, scheme, reader) if case.label else _with_geometry(checked, geometries)
    except OtherReleaseError:
        raise
    except ValueError as error:
        return CheckedCase(case, refused=str(error))
    except MemoryError:
        return CheckedCase(case, refused="it needs more memory than there is: ask for fewer processes with -np")


def orientation_of(case: SourceCase, reader: str) -> str | None:
    """Read the orientation of a case from the header of its first readable image; None if none is."""
    for image in case.images.values():
        try:
            return read_any_geometry(image.file, reader)[0].orientation
        except ValueError:
            continue  # check_case says why
    return None


def _with_present_images(case: SourceCase, reader: str) -> tuple[CheckedCase, dict[Path, AnyGeometry]]:
    """Find the images that are not constant; they come with where their files lie."""
    present: dict[str, ImageFile] = {}
    constant: dict[str, Path] = {}
    geometries: dict[Path, AnyGeometry] = {}
    several: tuple[Path, np.ndarray] | None = None  # a 4D file is decompressed once for its volumes
    for modality, image in case.images.items():
        voxels = several[1] if several and several[0] == image.file else read_voxels(image.file)
        geometry, volumes = read_any_geometry(image.file, reader)
        number = volume_number(image.volume, volumes, image.file)
        several = (image.file, voxels) if number is not None else None
        if is_constant(voxels if number is None else voxels[..., number]):
            constant[modality] = image.file
        else:
            present[modality], geometries[image.file] = image, geometry
    if not present:
        found = f"only constant volumes ({', '.join(constant)})" if constant else "no image"
        raise ValueError(f"expected at least one modality, got {found}: nothing to segment from")
    return CheckedCase(replace(case, images=present), constant=constant), geometries


def _with_geometry(checked: CheckedCase, geometries: Mapping[Path, AnyGeometry]) -> CheckedCase:
    """Compare all files with the one that most agree with, so that the file that differs is the one that is named."""
    agreeing = {
        file: sum(not geometry.difference(other) for other in geometries.values())
        for file, geometry in geometries.items()
    }
    reference = max(agreeing, key=lambda file: agreeing[file])
    for file, geometry in geometries.items():
        if difference := geometry.difference(geometries[reference]):
            raise ValueError(
                f"expected files on one grid, got {difference} in {file} and {reference}: resample one onto the other, "
                "or correct its header"
            )
    return replace(checked, geometry=geometries[reference])


def _with_label(
    checked: CheckedCase, geometries: Mapping[Path, AnyGeometry], scheme: LabelScheme, reader: str
) -> CheckedCase:
    file = checked.case.label
    assert file
    voxels = read_voxels(file)
    geometry, volumes = read_any_geometry(file, reader)
    volume_number(None, volumes, file)
    checked = _with_geometry(checked, {**geometries, file: geometry})
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
        label_is_rounded=is_rounded(voxels),
        has_foreground=any(new_label.values()),
    )
