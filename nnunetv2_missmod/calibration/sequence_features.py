"""What tells a sequence from another: numbers of one image that need no label and no other image of the case."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]
Mask = NDArray[np.bool_]

VERSION = 1  # of the features: a model knows those of its own version alone
LONGEST_AXIS = 64  # voxels of the coarse grid on which all is measured, so that a large image costs no more
LEAST_FOREGROUND = 64  # voxels
QUANTILES = (1, 10, 25, 50, 75, 90, 99)  # percent
TAILS = (1, 5, 95, 99)  # percent
SHELLS = 6  # of the foreground, from its surface inwards, each with as many voxels
INNER = 0.4  # the depth from which on a voxel belongs to the inner foreground: the brain without scalp and skull
GREYS = 5  # of the inner foreground, from dark to bright, each with as many voxels
BLURS = (1, 2, 4)  # voxels of the coarse grid
NUM_FEATURES = 1 + 2 * (len(QUANTILES) + 1) + 2 * SHELLS + GREYS + 1 + len(BLURS) * (len(TAILS) + 3)


def image_features(image: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """Measure how an image shows what is in it, whatever the scale and offset of its intensities.

    The quantiles of the foreground and of its inner part; mean and deviation by depth below the surface; how steep
    edges are in the dark and in the bright; how far small structures stand out, to either side.

    Args:
        image: (x, y, z) as it was read; one axis may have a single voxel.

    Returns:
        (NUM_FEATURES,), finite; None of an image that shows nothing, such as a constant one.
    """
    coarse = _coarse(image)
    if coarse.max() <= coarse.min():
        return None
    foreground, background = _foreground(coarse)
    if foreground.sum() < LEAST_FOREGROUND:
        return None
    low, high = np.percentile(coarse[foreground], (5, 95))
    if high <= low:
        return None
    normed = np.clip((coarse - low) / (high - low), -1, 3)
    depth = _depth(foreground)
    inner = depth >= INNER
    steepness = _steepness(normed)
    features: list[Image] = [
        np.clip([(background - low) / (high - low)], -2, 2),
        *(_distribution(normed[part]) for part in (foreground, inner)),
        _by_depth(normed[foreground], depth[foreground]),
        _by_grey(steepness[inner], normed[inner]),
        *(_small_structures(normed, blur, foreground, inner) for blur in BLURS),
    ]
    return np.concatenate(features)


def _coarse(image: NDArray[np.floating]) -> Image:
    """Mean over blocks of voxels, none where an axis is short."""
    coarse = np.asarray(image, np.float64)
    for axis, length in enumerate(coarse.shape):
        block = -(-length // LONGEST_AXIS)
        whole = np.take(coarse, range(length // block * block), axis) if block > 1 else coarse
        coarse = whole.reshape(*whole.shape[:axis], length // block, block, *whole.shape[axis + 1 :]).mean(axis + 1)
    return coarse


def _foreground(coarse: Image) -> tuple[Mask, float]:
    """What differs from the background, the most frequent intensity, which need neither be zero nor the lowest.

    Returns:
        The foreground (x, y, z), cavities in a slice filled, and the intensity of the background.
    """
    from skimage.filters import threshold_otsu  # noqa: PLC0415, for a quick start of the commands

    low, high = np.percentile(coarse, (0.5, 99.5))
    counts, edges = np.histogram(coarse, 256, (low, high) if low < high else None)
    least, most = edges[counts.argmax() : counts.argmax() + 2]
    background = float(np.median(coarse[(coarse >= least) & (coarse <= most)]))  # to the bit where it is constant
    distance = np.abs(coarse - background)
    distance = np.minimum(distance, np.percentile(distance, 99))
    if distance.max() <= distance.min():
        return np.zeros(coarse.shape, bool), background
    differs = distance > threshold_otsu(distance) / 2
    plane = _plane(coarse.shape)
    filled: Mask = ndimage.binary_opening(ndimage.binary_fill_holes(differs, plane), plane)
    return (differs if filled.all() else filled), background


def _plane(shape: tuple[int, ...]) -> Mask:
    """A voxel and its neighbours (3, 3, 3) along the two longest axes: slices may be thick, or one alone."""
    across = int(np.argmin(shape))
    plane: Mask = ndimage.generate_binary_structure(3, 1)
    for side in (0, 2):
        plane[(slice(None),) * across + (side,)] = False
    return plane


def _depth(foreground: Mask) -> Image:
    """Rank of each voxel's distance from the surface, 0 to 1; -1 outside."""
    distance = ndimage.distance_transform_edt(foreground)[foreground]
    depth = np.full(foreground.shape, -1.0)
    depth[foreground] = distance.argsort(kind="stable").argsort() / len(distance)
    return depth


def _distribution(values: Image) -> Image:
    return np.append(np.percentile(values, QUANTILES), _skewness(values))


def _skewness(values: Image) -> float:
    centred = values - values.mean()
    deviation = centred.std()
    return float(np.clip((centred**3).mean() / deviation**3, -5, 5)) if deviation > 0 else 0.0


def _by_depth(values: Image, depth: Image) -> Image:
    """Mean and deviation in each shell of the foreground."""
    shells = [values[np.floor(depth * SHELLS) == shell] for shell in range(SHELLS)]
    return np.array([(shell.mean(), shell.std()) for shell in shells]).ravel()


def _steepness(normed: Image) -> Image:
    """Length of the gradient (x, y, z), per voxel of the coarse grid."""
    axes = [axis for axis, length in enumerate(normed.shape) if length > 1]
    return np.sqrt(sum((np.gradient(normed, axis=axis) ** 2 for axis in axes), np.zeros(normed.shape)))


def _by_grey(steepness: Image, values: Image) -> Image:
    """Mean steepness from the darkest to the brightest fifth, and how it correlates with brightness."""
    greys = np.digitize(values, np.percentile(values, np.linspace(0, 100, GREYS + 1)[1:-1]))
    means = [steepness[greys == grey].mean() if (greys == grey).any() else 0.0 for grey in range(GREYS)]
    return np.append(means, _correlation(steepness, values))


def _small_structures(normed: Image, blur: int, foreground: Mask, inner: Mask) -> Image:
    """How far voxels stand out of their surroundings, relative to the spread of the inner foreground."""
    sigma = [blur if length > 1 else 0 for length in normed.shape]
    stands_out = normed - ndimage.gaussian_filter(normed, sigma)
    spread = np.subtract(*np.percentile(normed[inner], (90, 10)))
    relative = np.clip(stands_out[inner] / max(spread, 1e-3), -3, 3)
    shape = [_skewness(relative), _skewness(stands_out[foreground]), _correlation(relative, normed[inner])]
    return np.concatenate([np.percentile(relative, TAILS), shape])


def _correlation(values: Image, others: Image) -> float:
    deviations = values.std() * others.std()
    return float(((values - values.mean()) * (others - others.mean())).mean() / deviations) if deviations > 0 else 0.0
