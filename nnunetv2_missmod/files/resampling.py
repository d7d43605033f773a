"""Bringing an image that lies elsewhere in space onto another one's grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.processing import resample_from_to


def onto_grid(
    voxels: np.ndarray, properties: dict[str, Any], shape: Sequence[int], target: dict[str, Any]
) -> np.ndarray | None:
    """Resample images linearly onto a grid; zero where they do not reach.

    Args:
        voxels: (channels, x, y, z) in the order of nnU-Net's readers.
        properties: of nnU-Net's reader, which say where they lie.
        shape: of the grid.
        target: properties of an image on the grid.

    Returns:
        (channels, *shape), or None where the reader does not know where images lie.
    """
    if "sitk_stuff" in properties and "sitk_stuff" in target:
        grid = _placed(np.zeros(shape, np.uint8), target["sitk_stuff"])
        return np.stack([_sitk_resampled(_placed(image, properties["sitk_stuff"]), grid) for image in voxels])
    affines = [_affine(properties), _affine(target)]
    if any(affine is None for affine in affines):
        return None
    return np.stack([_nibabel_resampled(image, affines[0], tuple(shape), affines[1]) for image in voxels])


def _placed(image: np.ndarray, place: dict[str, Any]) -> sitk.Image:
    flat = len(place["spacing"]) == 2
    placed = sitk.GetImageFromArray(image[0] if flat else image)
    placed.SetSpacing(place["spacing"])
    placed.SetOrigin(place["origin"])
    placed.SetDirection(place["direction"])
    return placed


def _sitk_resampled(image: sitk.Image, grid: sitk.Image) -> np.ndarray:
    resampled: np.ndarray = sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, 0.0))
    return resampled if resampled.ndim == 3 else resampled[None]


def _affine(properties: dict[str, Any]) -> Any:
    known = properties.get("nibabel_stuff", {})
    return known.get("reoriented_affine", known.get("original_affine"))


def _nibabel_resampled(image: np.ndarray, affine: Any, shape: tuple[int, ...], target: Any) -> np.ndarray:
    placed = nib.Nifti1Image(image.transpose(2, 1, 0), affine)  # type: ignore[no-untyped-call]
    resampled: Any = resample_from_to(placed, (shape[::-1], target), order=1)  # type: ignore[no-untyped-call]
    voxels: np.ndarray = np.asarray(resampled.dataobj, dtype=image.dtype).transpose(2, 1, 0)
    return voxels
