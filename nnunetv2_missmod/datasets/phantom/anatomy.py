"""What a phantom case is made of: a brain, its tumour, and healthy tissue that looks like one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Shape = tuple[int, int, int]
Range = tuple[float, float]
Field = NDArray[np.float64]
Region = NDArray[np.bool_]

OUTSIDE, CSF, GREY, WHITE, VESSEL, EDEMA, CORE, ENHANCING, HAEMORRHAGE, GLIOSIS = range(10)

SHARE_WITHOUT_ENHANCEMENT = 0.25


@dataclass(frozen=True)
class Difficulty:
    """How hard the tumours of a cohort are to find; ranges are drawn from for each case.

    Args:
        foci: tumours that a case has, at least and at most.
        whole: share of the brain that they take up together.
        change: how far their tissue is from healthy (0) to that of a clear tumour (1), on average over the tumour.
        patchiness: deviation of that within the tumour.
        mimics: healthy findings of each kind, at most: cysts, haemorrhages, vascular malformations, gliosis.
        noise: deviation of the noise, of an intensity of 1.
    """

    foci: tuple[int, int]
    whole: Range
    change: Range
    patchiness: float
    mimics: int
    noise: Range


CLEAR = Difficulty((1, 1), (0.08, 0.22), (0.75, 1.1), 0.15, 0, (0.03, 0.07))
HARD = Difficulty((1, 3), (0.01, 0.06), (0.4, 0.8), 0.3, 3, (0.05, 0.1))


class Anatomy(NamedTuple):
    """What a case is made of, before any modality images it; each array has the case's shape.

    `healthy` and `tissue` hold tissue numbers (OUTSIDE ... GLIOSIS) without and with the tumour; `strength` says how
    far a tumour voxel has changed from healthy (0) to tumour (1), and may exceed 1.
    """

    healthy: NDArray[np.uint8]
    tissue: NDArray[np.uint8]
    strength: Field


def draw_anatomy(rng: np.random.Generator, shape: Shape, difficulty: Difficulty) -> Anatomy:
    """Draw a brain with its tumour."""
    frame = _brain_frame(rng, shape)
    depth = 1 - np.linalg.norm(frame, axis=0) + 0.025 * smooth_noise(rng, shape, 4)
    brain = depth > 0
    healthy = _draw_healthy(rng, frame, depth)
    if difficulty.mimics:
        healthy = _add_mimics(rng, frame, depth, healthy, difficulty.mimics)
    tissue = _draw_tumour(rng, frame, brain & (healthy != CSF), healthy, difficulty)
    patches = np.clip(0.85 + difficulty.patchiness * smooth_noise(rng, shape, 8), 0.4, 1.2)
    return Anatomy(healthy, tissue, patches * rng.uniform(*difficulty.change))


def _brain_frame(rng: np.random.Generator, shape: Shape) -> Field:
    """Coordinates (3, *shape) in which the undeformed brain is the unit ball."""
    axes = [(np.arange(n) + 0.5) / n * 2 - 1 for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    q, r = np.linalg.qr(np.eye(3) + 0.1 * rng.normal(size=(3, 3)))
    rotation = q * np.sign(np.diag(r))  # QR leaves the signs open; these keep it near the identity
    half_axes = np.array([0.78, 0.84, 0.72]) * rng.uniform(0.9, 1.05, size=3)
    frame: Field = np.tensordot(rotation / half_axes[:, None], grid, axes=1)
    return frame


def _draw_healthy(rng: np.random.Generator, frame: Field, depth: Field) -> NDArray[np.uint8]:
    """Tissue numbers of a brain without tumour: white matter, folded cortex, deep grey nuclei, ventricles, vessels."""
    brain, folds = depth > 0, smooth_noise(rng, depth.shape, 16)
    hemisphere = np.stack([frame[0], frame[1], np.abs(frame[2])])
    tissue = np.where(brain, WHITE, OUTSIDE).astype(np.uint8)
    tissue[brain & (depth < 0.18 + 0.08 * folds)] = GREY
    tissue[brain & (_distance(hemisphere, (-0.1, 0.05, 0.3), (0.17, 0.24, 0.12)) < 1)] = GREY
    tissue[brain & (depth < 0.08 * folds)] = CSF
    tissue[brain & (np.abs(frame[2]) < 0.03) & (depth < 0.35)] = CSF  # the fissure between the hemispheres
    tissue[brain & (_distance(hemisphere, (0.1, 0.0, 0.13), (0.2, 0.42, 0.09)) < rng.uniform(0.8, 1.3))] = CSF
    # Two random fields vanish together along curves: a network of tubes.
    tubes = -np.hypot(smooth_noise(rng, depth.shape, 5), smooth_noise(rng, depth.shape, 5))
    tissue[_highest_share(tubes, brain, rng.uniform(0.004, 0.01))] = VESSEL
    return tissue


def _distance(frame: Field, centre: Sequence[float] | Field, half_axes: Sequence[float] | Field) -> Field:
    """Distance (*shape) from `centre`, 1 on the surface of the ellipsoid with these half axes."""
    distance: Field = np.linalg.norm((frame.T - centre) / half_axes, axis=-1).T
    return distance


def _add_mimics(
    rng: np.random.Generator, frame: Field, depth: Field, healthy: NDArray[np.uint8], most: int
) -> NDArray[np.uint8]:
    """Add blobs that look like tumour on one modality, but not on the others.

    Cysts are as bright as edema on T2 alone, gliosis on FLAIR alone; malformed vessels are as bright as the rim on T1c
    alone, haemorrhages on T1c and on T1.
    """
    tissue: NDArray[np.uint8] = healthy.copy()
    for mimic in (CSF, GLIOSIS, VESSEL, HAEMORRHAGE):
        for _ in range(rng.integers(most, endpoint=True)):
            centre = _direction(rng) * rng.uniform(0.2, 0.75)
            distance = _distance(frame, centre, rng.uniform(0.07, 0.16, size=3))
            tissue[(depth > 0.1) & (distance + 0.15 * smooth_noise(rng, depth.shape, 9) < 1)] = mimic
    return tissue


def _direction(rng: np.random.Generator) -> Field:
    direction = rng.normal(size=3)
    unit: Field = direction / np.linalg.norm(direction)
    return unit


def _draw_tumour(
    rng: np.random.Generator, frame: Field, invadable: Region, healthy: NDArray[np.uint8], difficulty: Difficulty
) -> NDArray[np.uint8]:
    """Replace healthy tissue by nested regions: edema around the core, an enhancing rim around the necrosis."""
    shape = healthy.shape
    foci = range(rng.integers(*difficulty.foci, endpoint=True))
    closeness = np.max([_closeness(rng, frame) for _ in foci], axis=0)
    fingers = 0.09 * smooth_noise(rng, shape, 9) + 0.08 * (healthy == WHITE)  # edema spreads along white matter
    whole = _highest_share(closeness + fingers, invadable, rng.uniform(*difficulty.whole))
    closeness = closeness + 0.08 * smooth_noise(rng, shape, 7)
    core = _highest_share(closeness, whole, rng.uniform(0.3, 0.6))
    enhances = rng.random() >= SHARE_WITHOUT_ENHANCEMENT
    closeness = closeness + 0.05 * smooth_noise(rng, shape, 9)
    necrosis = _highest_share(closeness, core, rng.uniform(0.25, 0.5)) if enhances else core
    tissue = np.where(whole, EDEMA, healthy).astype(np.uint8)
    tissue[core] = ENHANCING
    tissue[necrosis] = CORE
    return tissue


def _closeness(rng: np.random.Generator, frame: Field) -> Field:
    """Closeness (*shape) to a focus: 0 in its centre, lower around it."""
    centre = _direction(rng) * rng.uniform(0.3, 0.6)
    return -_distance(frame, centre, rng.uniform(0.8, 1.25, size=3))


def _highest_share(field: Field, within: Region, share: float) -> Region:
    """The voxels of `within` where `field` is highest: `share` of them."""
    highest: Region = within & (field >= np.quantile(field[within], 1 - share))
    return highest


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Field:
    """Random field (*shape) of mean 0 and deviation 1 that varies over about 1 / `cells` of an axis."""
    coarse = rng.normal(size=(cells, cells, cells))
    # Splines are separable: one matrix per axis gives what zooming the volume gives, forty times faster.
    z, y, x = (ndimage.zoom(np.eye(cells), (n / cells, 1), order=3) for n in shape)
    noise = np.einsum("zi,yj,xk,ijk->zyx", z, y, x, coarse, optimize=True)
    standard: Field = (noise - noise.mean()) / noise.std()
    return standard
