"""The reconstruction of RobustSeg [0] and its divergence, both sums over the modalities as in its released code.

[0] Chen et al., "Robust Multimodal Brain Tumor Segmentation via Feature Disentanglement and Gated Fusion", MICCAI 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunetv2_missmod.building_blocks.disentangling import adain_kl
from nnunetv2_missmod.building_blocks.reconstruction import l1_reconstruction_loss


def summed_l1_loss(reconstruction: Tensor, images: Tensor, available: Tensor) -> Tensor:
    """Mean L1 over voxels, summed over the M modalities: M times its mean over the available ones.

    Args:
        reconstruction, images: (B, M, *patch).
        available: (B, M) bool.
    """
    return available.shape[1] * l1_reconstruction_loss(reconstruction, images, available)


def summed_kl_loss(mu: Tensor, sigma: Tensor, available: Tensor) -> Tensor:
    """KL of N(mu, sigma^2) against N(0, 1), mean over channels and samples, summed over the M modalities.

    A sample's sum is M times the mean over what it has: the same however samples are shared out among processes.

    Args:
        mu, sigma: AdaIN's, (B, M, C).
        available: (B, M) bool.
    """
    kl = torch.where(available, adain_kl(mu, sigma), 0).sum(1) / available.sum(1)
    return available.shape[1] * kl.mean()
