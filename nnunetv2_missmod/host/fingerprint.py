"""nnU-Net's fingerprint of a dataset: its file, and how intensities of the foreground are drawn for it.

Relies on nnunetv2/experiment_planning/dataset_fingerprint/fingerprint_extractor.py:
``DatasetFingerprintExtractor.collect_foreground_intensities`` draws from each channel with a seed of its own, which is
the same for every case; percentiles and entries are those of its ``run``.
"""

from __future__ import annotations

import numpy as np
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

FINGERPRINT = "dataset_fingerprint.json"
NUM_VOXELS = 10e7  # whose intensities are drawn from all cases
PERCENTILES = {"median": 50.0, "percentile_99_5": 99.5, "percentile_00_5": 0.5}


def foreground_intensities(labels: np.ndarray, images: np.ndarray, num_samples: int) -> list[np.ndarray]:
    """Draw intensities (num_samples,) of the foreground of each channel.

    Args:
        labels: (1, x, y, z), cropped.
        images: (M, x, y, z), cropped.
        num_samples: from each channel; none come from a case without foreground.
    """
    drawn, _ = DatasetFingerprintExtractor.collect_foreground_intensities(labels, images, num_samples=num_samples)
    return [np.asarray(values) for values in drawn]
