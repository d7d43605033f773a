"""Small heads as three sequences show them, and a model of them."""

from functools import cache

import numpy as np
from scipy import ndimage

from nnunetv2_missmod.calibration.sequence_features import image_features

SEQUENCES = ("FLAIR", "T1", "T2")
# air, scalp, skull, grey matter, white matter, ventricles, lesion
GREYS = ((0, 0.9, 0.1, 0.6, 0.5, 0.1, 1.0), (0, 1.2, 0.1, 0.5, 0.8, 0.2, 0.4), (0, 0.5, 0.1, 0.7, 0.4, 1.3, 1.0))
SHAPE = (24, 28, 20)


def small_head(seed, shape=SHAPE, sequences=GREYS, air_noise=0.02):
    """Images (M, *shape), float32, each with a gain, an offset and noise of its own."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1.1, 1.1, length) if length > 1 else [0.0] for length in shape), indexing="ij")
    wobble = ndimage.gaussian_filter(rng.normal(size=shape), 1.5) * 0.4
    radius = np.sqrt(sum(axis**2 for axis in axes)) + wobble
    tissue = np.select([radius < 0.25, radius < 0.6, radius < 0.8, radius < 0.88, radius < 1], [5, 4, 3, 2, 1], 0)
    centre = rng.uniform(-0.4, 0.4, size=3)
    tissue[np.sqrt(sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))) < 0.2] = 6
    return np.stack([acquired(rng, np.array(greys)[tissue], air_noise) for greys in sequences]).astype(np.float32)


def acquired(rng, image, air_noise):
    noisy = np.where(image > 0, image * rng.normal(1, 0.05), 0) + rng.normal(size=image.shape) * air_noise
    return rng.uniform(-50, 50) + rng.uniform(20, 900) * noisy


@cache
def head_features(seed):
    """Features by channel of a small head; measured once, to be left as they are."""
    return {channel: image_features(image) for channel, image in enumerate(small_head(seed))}
