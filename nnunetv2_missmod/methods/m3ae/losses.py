"""The loss terms of M3AE [0], one function each: stage 1 is its Equations 1 and 3, stage 2 its Equations 2, 4 and 5.

The mean square of stage 1 is ``building_blocks.reconstruction.mse_reconstruction_loss``.

[0] Liu et al., "M3AE", AAAI 2023. [1] its released code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# x_sub at the paper's patch of 128^3 and four modalities, with N(0, 1) in it, has a norm of the square root of this.
PAPER_SIZE = 4 * 128**3
# There, the norm of [1] pulls as hard as the mean square times half of that norm. So hard, x_sub is zero before it has
# learned anything; the mean square alone leaves it the noise that it began as. This is their geometric mean, 38.
SCALE: float = math.sqrt(math.sqrt(PAPER_SIZE) / 2)


def mean_square_penalty(substitute: Tensor) -> Tensor:
    """R(x_sub) of stage 1 of [0] as a mean square, whose pull on a voxel does not depend on how many there are.

    Of x_sub less each modality's mean, as in [1]: what is regularised is its pattern, not its level.

    Args:
        substitute: x_sub, (1, M, *patch).
    """
    penalty: Tensor = SCALE * less_means(substitute).square().mean()
    return penalty


def norm_penalty(substitute: Tensor) -> Tensor:
    """R(x_sub) as [1] has it: norm (not squared) of the whole x_sub less each modality's mean.

    Args:
        substitute: x_sub, (1, M, *patch).
    """
    norm: Tensor = torch.linalg.vector_norm(less_means(substitute))
    return norm


def less_means(substitute: Tensor) -> Tensor:
    """Subtract from x_sub (1, M, *patch) the mean of each modality."""
    return substitute - substitute.mean(tuple(range(2, substitute.ndim)), keepdim=True)


def consistency_loss(first: Tensor, second: Tensor) -> Tensor:
    """MSE of stage 2 of [0] between what two subsets of one case give; gradients go both ways.

    Args:
        first, second: bottlenecks (B, C, *spatial), or logits (B, K, *patch) as in [1].
    """
    return (first - second).square().mean()
