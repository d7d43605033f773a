"""HD95 by the conventions under which papers print it.

All measure how far two masks' surfaces are apart and leave out the farthest 5 %: of the surface's area (``surface``,
in ``shapes``), or of the voxels at the masks' edges (the two here).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from nnunetv2_missmod.evaluation.shapes import bounding_box
from nnunetv2_missmod.prediction.regions import Mask

SURFACE = "surface"


def edge_of(mask: Mask, spacing: tuple[float, ...]) -> KDTree:
    """Find the edge voxels of a mask (*shape) that is not empty, searchable by their places in mm.

    They are the mask without its erosion by the voxels that share a face; what lies beyond the image is background.
    """
    box = bounding_box(mask)
    inside = mask[box]
    faces = ndimage.generate_binary_structure(mask.ndim, 1)
    places = np.argwhere(inside & ~ndimage.binary_erosion(inside, faces)) + [side.start for side in box]
    return KDTree(places * np.asarray(spacing), leafsize=32)


def pooled_hd95(predicted: KDTree, reference: KDTree) -> float:
    """Compute HD95 in mm as medpy does: the 95th percentile of the distances in both directions, pooled.

    Args:
        predicted: edge voxels.
        reference: edge voxels.
    """
    return float(np.percentile(np.concatenate(_directed(predicted, reference)), 95))


def larger_hd95(predicted: KDTree, reference: KDTree) -> float:
    """Compute HD95 in mm as MONAI does: the larger of the 95th percentiles of the distances in either direction.

    Args:
        predicted: edge voxels.
        reference: edge voxels.
    """
    return float(max(np.percentile(distances, 95) for distances in _directed(predicted, reference)))


def _directed(predicted: KDTree, reference: KDTree) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return reference.query(predicted.data)[0], predicted.query(reference.data)[0]


EDGE_HD95 = {"medpy": pooled_hd95, "monai": larger_hd95}
HD95_CONVENTIONS = (SURFACE, *EDGE_HD95)
