"""Surfaces and lesions of a mask, and the scores that compare them.

Surfaces are those of DeepMind's surface-distance (Nikolov et al. 2018, arXiv:1809.04430), with MONAI's table of them:
a surface element lies between the 2^d voxels of a neighbourhood that is partly inside, and counts with its area in mm²
(in a 2D image its length in mm).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from nnunetv2_missmod.prediction.regions import Mask

Box = tuple[slice, ...]

ROUNDING_MM = 1e-6  # a distance that equals the tolerance may come out this much longer


class Surface(NamedTuple):
    """The elements of a surface: their places in mm, searchable, and their areas (n,) in mm² (2D: lengths in mm)."""

    places: KDTree
    areas: NDArray[np.float64]


class Lesions(NamedTuple):
    """The lesions of a truth, numbered from 1, together with the one-voxel rim around each."""

    with_rims: NDArray[np.int32]
    sizes: NDArray[np.int64]  # of lesion 1, 2, ... in voxels, without the rim


def surface_of(mask: Mask, spacing: tuple[float, ...]) -> Surface:
    """Find the surface elements of a mask (*shape) that is not empty; the image's border closes it."""
    # MONAI takes seconds to load, and who predicts without scoring needs none of it.
    from monai.metrics.utils import get_code_to_measure_table  # noqa: PLC0415

    box = bounding_box(mask)
    table, kernel = get_code_to_measure_table(spacing)
    inside = np.pad(mask[box], 1).astype(np.uint8)
    code = ndimage.correlate(inside, kernel[0, 0].numpy().astype(np.uint8), mode="constant")
    on_surface = (code > 0) & (code < len(table) - 1)
    places = np.argwhere(on_surface) + [side.start for side in box]
    return Surface(KDTree(places * np.asarray(spacing), leafsize=32), table.double().numpy()[code[on_surface]])


def surface_scores(predicted: Surface, reference: Surface, tolerance_mm: float) -> tuple[float, float]:
    """Compute HD95 in mm and NSD between two surfaces, as DeepMind's surface-distance does.

    HD95 is the larger of the two directed distances that 95 % of a surface's area stay within; NSD (Nikolov et al.
    2018) is the share of both surfaces' area that lies within the tolerance of the other surface.
    """
    directed = [
        (reference.places.query(predicted.places.data)[0], predicted.areas),
        (predicted.places.query(reference.places.data)[0], reference.areas),
    ]
    hd95 = max(_percentile(distances, areas, 0.95) for distances, areas in directed)
    agreeing = sum(areas[distances <= tolerance_mm + ROUNDING_MM].sum() for distances, areas in directed)
    return hd95, float(agreeing / (predicted.areas.sum() + reference.areas.sum()))


def _percentile(distances: NDArray[np.float64], areas: NDArray[np.float64], share: float) -> float:
    order = np.argsort(distances)
    covered = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order[min(int(np.searchsorted(covered, share)), len(order) - 1)]])


def lesions_of(mask: Mask) -> Lesions:
    """Find the lesions of a truth (*shape) that is not empty: components (26 neighbours) that a rim of a voxel joins.

    The rim is one dilation with 18 neighbours (2D: 8), as ``lesion_wise_dice`` says.
    """
    box = bounding_box(mask, margin=1)
    rims = ndimage.binary_dilation(mask[box], ndimage.generate_binary_structure(mask.ndim, 2))
    with_rims, number = _components(rims, box, mask.shape)
    return Lesions(with_rims, np.bincount(with_rims[mask], minlength=number + 1)[1:])


def lesion_wise_dice(predicted: Mask, reference: Mask, lesions: Lesions) -> float:
    """Compute the lesion-wise Dice of BraTS 2023 between two masks (*shape) that are not empty.

    A lesion is what one dilation of the truth joins (``lesions_of``). It is compared with all predicted components
    (26 neighbours) that touch it, that is which overlap with it or its rim. The score is the sum of the lesions' Dice
    over the number of lesions and of predicted components that touch none.

    Args:
        predicted: (*shape) bool.
        reference: (*shape) bool.
        lesions: those of ``reference``.

    Source: github.com/rachitsaluja/BraTS-2023-Metrics, with the single dilation that it has for meningioma and
    metastases (3 for glioma). It leaves out lesions of up to 50 voxels (metastases: 2); here every lesion counts.
    """
    components, number = _components(predicted[box := bounding_box(predicted)], box, predicted.shape)
    lesion_at, component_at = lesions.with_rims[predicted], components[predicted]
    touches = np.zeros((len(lesions.sizes) + 1, number + 1), dtype=bool)
    touches[lesion_at, component_at] = True
    touches = touches[1:, 1:]  # number 0 is no lesion
    matched = touches @ np.bincount(component_at, minlength=number + 1)[1:]
    common = np.bincount(lesions.with_rims[predicted & reference], minlength=len(lesions.sizes) + 1)[1:]
    num_false = number - np.count_nonzero(touches.any(0))
    return float((2 * common / (matched + lesions.sizes)).sum() / (len(lesions.sizes) + num_false))


def _components(mask: Mask, box: Box, shape: tuple[int, ...]) -> tuple[NDArray[np.int32], int]:
    """Number the components, diagonal neighbours included, of a mask that fills a box of an image of this shape."""
    components = np.zeros(shape, dtype=np.int32)
    number = ndimage.label(mask, np.ones((3,) * mask.ndim), output=components[box])
    return components, number


def bounding_box(mask: Mask, margin: int = 0) -> Box:
    """Find the smallest box around a mask (*shape) that is not empty, grown by a margin as far as the image goes."""
    box = []
    for axis, length in enumerate(mask.shape):
        occupied = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(max(occupied[0] - margin, 0), min(occupied[-1] + 1 + margin, length)))
    return tuple(box)
