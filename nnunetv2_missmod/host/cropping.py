"""nnU-Net's crop: to the union of the channels' voxels that are not zero, its holes filled.

Relies on nnunetv2/preprocessing/cropping/cropping.py: ``create_nonzero_mask`` fills the holes of the union, so that the
mask of several channels is that of the union of their masks; ``crop_to_nonzero`` crops images and labels to its
bounding box.
"""

from __future__ import annotations

import numpy as np
from nnunetv2.preprocessing.cropping import cropping


def nonzero_mask(images: np.ndarray) -> np.ndarray:
    """Find the mask (x, y, z) bool by which nnU-Net crops and normalises images (M, x, y, z)."""
    mask: np.ndarray = cropping.create_nonzero_mask(images)
    return mask


def cropped_to_nonzero(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop images (M, x, y, z) and labels (1, x, y, z) as nnU-Net does; labels outside the mask become -1."""
    images, labels, _ = cropping.crop_to_nonzero(images, labels)
    return images, labels
