"""The divergences of U-HVED [0], and the adversarial loss of RA-HVED [1].

[0] Dorent et al., "Hetero-Modal Variational Encoder-Decoder for Joint Modality Completion and Segmentation", MICCAI
2019. [1] Jeong et al., "Region-of-Interest Attentive Heteromodal Variational Encoder-Decoder for Segmentation with
Missing Modalities", ACCV 2022. Both as their released code has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.methods.uhved.product import EPS, Experts

PIECE = 2**16  # latents of a sample that are looked at together: what 15 subsets of them need fits a cache


def subset_divergences(levels: Sequence[Experts], drawn: Tensor, subsets: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q_drawn || q_s) and KL(q_s || N(0, 1)) of several subsets s, q being the product of a subset's experts.

    KL = 0.5 mean(-1 + lv_2 - lv_1 + (var_1 + (mu_1 - mu_2)^2) / (var_2 + eps)), lv the log variances: a mean over
    channels and voxels, and over levels, where an ELBO has sums.

    Args:
        levels: the experts at each level; what those outside of a subset hold is multiplied by zero.
        drawn: (B, M) bool.
        subsets: (B, S, M) bool.

    Returns:
        Two of (B, S).
    """
    weights = torch.cat((drawn[:, None], subsets), 1).to(levels[0].precision.dtype)
    both = torch.stack([_divergences_at(level, weights) for level in levels]).mean(0)
    return both[0], both[1]


def _divergences_at(experts: Experts, weights: Tensor) -> Tensor:
    """Both divergences at one level, (2, B, S), for weights 0 and 1 (B, 1 + S, M), those of the drawn set first."""
    precision, weighted_mean = (part.flatten(2) for part in experts)
    pieces = zip(*(torch.split(part, PIECE, 2) for part in (precision, weighted_mean)), strict=True)
    sums = torch.stack([recompute(_summed_up, *piece, weights) for piece in pieces]).sum(0)
    log_variance, distance, second_moment = sums / precision.shape[2]
    log_drawn, log_subsets = log_variance[:, :1], log_variance[:, 1:]
    to_subset = 0.5 * (-1 + log_subsets - log_drawn + distance[:, 1:])
    to_prior = 0.5 * (-1 - log_subsets + second_moment[:, 1:] / (1 + EPS))
    return torch.stack((to_subset, to_prior))


def _summed_up(precision: Tensor, weighted_mean: Tensor, weights: Tensor) -> Tensor:
    """Sums over latents: of lv_s, of the last fraction of KL(q_drawn || q_s), and of var_s + mu_s^2.

    Args:
        precision, weighted_mean: (B, M, latents).
        weights: (B, 1 + S, M).

    Returns:
        (3, B, 1 + S).
    """
    variance = 1 / (1 + weights @ precision)
    mean = variance * (weights @ weighted_mean)
    variance = variance + EPS  # the exponential of the log variance, in which the released code adds it
    of_drawn = variance[:, :1] + (mean[:, :1] - mean).square()
    terms = variance.log(), of_drawn / (variance + EPS), variance + mean.square()
    return torch.stack([term.sum(2) for term in terms])


def shares_of(subsets: Tensor, available: Tensor) -> Tensor:
    """Weights (B, S) of subsets (B, S, M) in a mean over those that a case has: alike, zero for the others."""
    has = (available[:, None] | ~subsets).all(2)
    return has / has.sum(1, keepdim=True)


def fooling_loss(missing: Tensor) -> Tensor:
    """Least squares of [1] that the network pays for being told from the full set: (D(missing) - 1)^2.

    Args:
        missing: the discriminator's map (B, 1, *spatial).
    """
    return (missing - 1).square().mean()


def telling_loss(full: Tensor, missing: Tensor) -> Tensor:
    """Least squares of [1] for the discriminator: half of (D(full) - 1)^2 + D(missing)^2.

    Args:
        full, missing: the discriminator's maps (B, 1, *spatial).
    """
    return 0.5 * ((full - 1).square().mean() + missing.square().mean())
