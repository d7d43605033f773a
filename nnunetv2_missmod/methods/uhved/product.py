"""The product of Gaussians (Eq. 4 of U-HVED, Dorent et al., MICCAI 2019): one expert per modality and the prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_missmod.building_blocks.precision import at_least_float32, full_precision
from nnunetv2_missmod.modalities import expand_to

EPS = 1e-7  # of variances (released code)
TILE = 32  # voxels along each axis after which the noise of a prediction repeats itself
LARGEST_LOG_VARIANCE = 50.0  # and its negative the smallest (released code)


class Experts(NamedTuple):
    """The Gaussians of the modalities at one level, by what a product sums up; float32."""

    precision: Tensor  # T_m, (B, M, L, *spatial)
    weighted_mean: Tensor  # T_m mu_m, (B, M, L, *spatial)


class Gaussian(NamedTuple):
    """One Gaussian per voxel and latent channel, (B, L, *spatial) float32."""

    mean: Tensor
    log_variance: Tensor


def experts_of(parameters: Tensor) -> Experts:
    """Read Gaussians off a convolution's output, whose first half is their mean, the second their log variance.

    Args:
        parameters: (B, M, 2 L, *spatial).
    """
    with full_precision(parameters.device):  # exp(50) overflows half
        mean, log_variance = at_least_float32(parameters).chunk(2, 2)
        bounded = log_variance.clamp(-LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)
        precision = 1 / (bounded.exp() + EPS)
        return Experts(precision, precision * mean)


def product(experts: Experts, present: Tensor) -> Gaussian:
    """Multiply the experts that are present (B, M), one at least, with the prior N(0, 1)."""
    kept = expand_to(present, experts.precision)
    precision, weighted_mean = (torch.where(kept, part, 0).sum(1) for part in experts)  # absent means absent
    variance = 1 / (1 + precision)
    return Gaussian(weighted_mean * variance, torch.log(variance + EPS))


def sample(gaussian: Gaussian, noise: Tensor | None) -> Tensor:
    """Draw from a Gaussian by standard normal noise (B, L, *spatial), or (L, *spatial) for all; its mean without."""
    if noise is None:
        return gaussian.mean
    return gaussian.mean + torch.exp(gaussian.log_variance / 2) * noise


def steady_noise(shape: Sequence[int], device: torch.device) -> Tensor:
    """Standard normal noise (L, *spatial) that is the same each time and on every device.

    It comes from hashes of the places in a tile, which integers give exactly and ``torch.compile`` can trace.
    """
    tile = [shape[0], *(min(size, TILE) for size in shape[1:])]
    place = torch.arange(math.prod(tile), device=device)
    first, second = ((_mixed(2 * place + number) // 2**8 + 0.5) / 2**24 for number in (1, 2))
    normal = torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * math.pi * second)  # Box and Muller
    repeated = normal.view(tile).repeat(1, *(-(-size // TILE) for size in shape[1:]))
    return repeated[tuple(slice(size) for size in shape)]


def _mixed(numbers: Tensor) -> Tensor:
    """Hash numbers below 2^32 to such numbers; no product overflows."""
    for _ in range(2):
        numbers = ((numbers ^ (numbers >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return numbers ^ (numbers >> 16)
