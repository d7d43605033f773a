"""Masks of simple shapes."""

import numpy as np
from scipy import ndimage


def box_mask(shape, start, stop):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def ball(radius, spacing, image_radius=22):
    """A ball in the middle of an image, both with a radius in mm."""
    axes = [np.arange(-int(image_radius / mm), int(image_radius / mm) + 1) * mm for mm in spacing]
    return sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) <= radius**2


def blobs(seed, shape=(9, 10, 8), sigma=1.0, level=0.5):
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return smooth > level * smooth.std()
