"""What x_sub, the substitute for absent modalities, begins as, and whether it has learned anything since."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_missmod.methods.m3ae.losses import less_means

SMALLEST_NORM = 1e-12  # below which nothing correlates


def initial_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Draw N(0, 1), on the CPU: the same for a seed on every machine, so that no checkpoint has to hold it."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def pattern_rms(substitute: Tensor) -> float:
    """Root mean square of x_sub (1, M, *patch) less each modality's mean."""
    return less_means(substitute).square().mean().sqrt().item()


def pattern_correlation(substitute: Tensor, noise: Tensor) -> float:
    """Correlation of x_sub with the noise (1, M, *patch) that it began as: 1 while it has learned nothing.

    The share of its mean square that is not noise is 1 less the square of this.
    """
    now, then = less_means(substitute), less_means(noise.to(substitute.device))
    norms = torch.linalg.vector_norm(now) * torch.linalg.vector_norm(then)
    correlation: float = ((now * then).sum() / norms.clamp(min=SMALLEST_NORM)).item()
    return correlation
