"""How each modality shows the tissues of a phantom."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from nnunetv2_missmod.datasets.phantom.anatomy import (
    CORE,
    EDEMA,
    ENHANCING,
    GLIOSIS,
    OUTSIDE,
    Anatomy,
    Field,
    Range,
    smooth_noise,
)

# Mean intensity of each tissue, in the order above.
CONTRASTS: dict[str, tuple[float, ...]] = {
    "FLAIR": (0.0, 0.15, 0.58, 0.48, 0.40, 0.85, 0.62, 0.66, 0.62, 0.84),
    "T1": (0.0, 0.20, 0.60, 0.75, 0.50, 0.54, 0.36, 0.46, 1.05, 0.68),
    "T1c": (0.0, 0.20, 0.60, 0.75, 1.25, 0.51, 0.30, 1.10, 1.12, 0.68),
    "T2": (0.0, 0.95, 0.55, 0.42, 0.30, 0.80, 0.90, 0.67, 0.40, 0.50),
    "PD": (0.0, 0.72, 0.66, 0.52, 0.35, 0.72, 0.68, 0.64, 0.50, 0.58),
    "DWI": (0.0, 0.12, 0.52, 0.46, 0.30, 0.44, 0.34, 0.48, 0.30, 0.45),
}
GENERATED = "SYN"


def contrast_of(modality: str) -> Field:
    """Mean intensity (10,) of each tissue on `modality`; ValueError if it is unknown."""
    if modality in CONTRASTS:
        return np.array(CONTRASTS[modality])
    number = modality.removeprefix(GENERATED)
    if number == modality or not number.isdecimal():
        known = ", ".join(CONTRASTS)
        raise ValueError(f"Expected one of {known} or {GENERATED}<number>, got {modality!r}: see phantom_modalities.")
    contrast = np.random.default_rng(int(number)).uniform(0.2, 0.9, size=GLIOSIS + 1)
    contrast[OUTSIDE] = 0
    contrast[ENHANCING] = (contrast[EDEMA] + contrast[CORE]) / 2  # only T1c shows the rim for itself
    return contrast


def acquire(rng: np.random.Generator, anatomy: Anatomy, contrast: Field, noise: Range) -> Field:
    """Image (*shape), positive in the brain: partial volume, bias field, Rician noise, a gain of its own."""
    contrast = contrast[: max(ENHANCING, anatomy.healthy.max()) + 1]
    varied = contrast * rng.normal(1, 0.06, size=contrast.shape)
    signal = varied[anatomy.healthy]
    signal += anatomy.strength * (varied[anatomy.tissue] - signal)
    signal = ndimage.gaussian_filter(signal, 0.6, truncate=3)
    signal *= np.exp(0.12 * smooth_noise(rng, signal.shape, 3))
    sigma = rng.uniform(*noise)
    magnitude = np.hypot(signal + sigma * rng.normal(size=signal.shape), sigma * rng.normal(size=signal.shape))
    image: Field = np.where(anatomy.tissue != OUTSIDE, rng.uniform(200, 800) * np.maximum(magnitude, 1e-3), 0)
    return image
