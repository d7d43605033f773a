"""Cost of scoring all subsets of one BraTS-sized case: ``python -m benchmarks.score``.

15 segmentations of 240 x 240 x 155 voxels, three overlapping regions, against one truth, in one process: the whole of
``score`` with surface distances, lesions and the truth's own surface; reading and writing files are not in it. Masks
are noisy balls of 38, 22 and 14 voxels' radius with some fifty stray components, which is harder than BraTS.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunetv2_missmod.evaluation.metrics import ScoringRules, score
from nnunetv2_missmod.evaluation.truth import Truth

SHAPE, CENTRE, NUM_SUBSETS = (155, 240, 240), (80, 120, 100), 15
REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def main() -> None:
    """Print seconds on the clock and of the CPU."""
    rng = np.random.default_rng(0)
    masks = [noisy_tumor(rng, noise) for noise in (1.0, 1.0, 1.1, 1.2)]
    score(masks[1], Truth(masks[0], (1.0, 1.0, 1.0), REGIONS), ScoringRules())  # loads MONAI
    wall, cpu = time.perf_counter(), time.process_time()
    truth = Truth(masks[0], (1.0, 1.0, 1.0), REGIONS)
    for number in range(NUM_SUBSETS):
        score(masks[1 + number % 3], truth, ScoringRules())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{NUM_SUBSETS} subsets x {len(REGIONS)} regions: {wall:.1f} s, {cpu:.1f} CPU-s")


def noisy_tumor(rng: np.random.Generator, noise: float) -> NDArray[np.uint8]:
    """Draw a label map (*SHAPE): edema 1, necrosis 2, an enhancing rim 3."""
    distance = np.sqrt(sum((axis - centre) ** 2 for axis, centre in zip(np.indices(SHAPE), CENTRE, strict=True)))
    radius = distance + noise * (5 * smooth(rng, 6) + 1.5 * smooth(rng, 2))
    labels = np.select([radius < 14, radius < 22, radius < 38], [2, 3, 1], 0).astype(np.uint8)
    labels[smooth(rng, 3) > 4] = 1
    return labels


def smooth(rng: np.random.Generator, sigma: float) -> NDArray[np.float64]:
    """Draw a random field (*SHAPE) of deviation 1."""
    field: NDArray[np.float64] = ndimage.gaussian_filter(rng.normal(size=SHAPE), sigma)
    return field / field.std()


if __name__ == "__main__":
    main()
