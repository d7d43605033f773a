"""What a student is matched to its teacher by: squared errors, correlations of channels, and when they begin to count.

[0] Zhu et al., "Bridging the Gap in Missing Modalities: Leveraging Knowledge Distillation and Style Matching for Brain
Tumor Segmentation", MICCAI 2025.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from nnunetv2_missmod.modalities import expand_to

NORM_EPS = 1e-5  # of a channel's variance, as in the plan's norms


def mean_square(values: Tensor) -> Tensor:
    """Mean square of each sample's values (B, ...): (B,)."""
    return values.square().flatten(1).mean(1)


def summed_errors(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Mean squared error of each pair of tensors (B, ...), summed over the pairs: (B,)."""
    return torch.stack([mean_square(t - s) for t, s in zip(teacher, student, strict=True)]).sum(0)


def mean_over(values: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean of values (B, ...), in which samples that do not count are zeros.

    Args:
        values: of each sample.
        counts: (B,) bool; all of them if not given.
    """
    return (values if counts is None else torch.where(expand_to(counts, values), values, 0)).mean()


def ramp_up(epoch: int, length: float) -> float:
    """exp(-5 (1 - e / E)^2) over the first E epochs, then 1 (the released code of [0], and what that builds on)."""
    return math.exp(-5 * (1 - min(epoch / length, 1)) ** 2) if length > 0 else 1.0


def gram_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Cross-Gram matching, Equation 10 of [0], of correlations: mean squared error, summed over the pairs, (B,).

    As printed, without normalisation, its value is some 1e-16.

    Args:
        teacher, student: maps of each, alike in number, each (B, C, *spatial) float32; two of them make a pair.
    """
    full, missing = ([unit_channels(maps) for maps in network] for network in (teacher, student))
    grams = [[cross_gram(a, b) for a, b in combinations(maps, 2)] for maps in (full, missing)]
    return summed_errors(*grams)


def cross_gram(first: Tensor, second: Tensor) -> Tensor:
    """Products of every channel of one map with every channel of another, Eq. 10 of [0]: (B, C, C')."""
    return first.flatten(2) @ second.flatten(2).mT


def unit_channels(maps: Tensor) -> Tensor:
    """Shift and scale each channel of (B, C, *spatial) to zero mean and unit norm over space."""
    flat = maps.flatten(2)
    variance, mean = torch.var_mean(flat, 2, correction=0, keepdim=True)
    return (flat - mean) * torch.rsqrt((variance + NORM_EPS) * flat.shape[2])
