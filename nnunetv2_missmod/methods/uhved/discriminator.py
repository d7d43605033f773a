"""The discriminator of RA-HVED (Jeong et al., ACCV 2022), and what it gets to see."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.discriminator import CHANNELS, Discriminator
from nnunetv2_missmod.modalities import drop_absent

INSIDE = 0.5  # the probability above which a voxel belongs to a region


class PatchDiscriminator(Discriminator):
    """D: probabilities and images (B, K + M, *patch) to a map of verdicts (B, 1, *spatial), 1 for the full set."""

    def __init__(self, architecture: Architecture, channels: int):
        super().__init__(architecture, channels)
        self.head = architecture.projection(CHANNELS[-1], 1, 3)

    def forward(self, seen: Tensor) -> Tensor:
        """Judge (B, K + M, *patch)."""
        verdict: Tensor = self.head(self.convs(seen))
        return verdict


def seen_by_discriminator(
    probabilities: Tensor, foreground: Tensor, reconstruction: Tensor, available: Tensor
) -> Tensor:
    """Put together what D sees: probabilities, and images that stand out in the region of interest.

    Args:
        probabilities: (B, K, *patch).
        foreground: (B, R, *patch), see ``region_of_interest``.
        reconstruction: (B, M, *patch).
        available: (B, M) bool; what is rebuilt of others, which learn from nothing else, is left out.

    Returns:
        (B, K + M, *patch).
    """
    region = region_of_interest(foreground.detach())
    return torch.cat((probabilities, drop_absent(reconstruction, available) * (1 + region)), 1)


def region_of_interest(foreground: Tensor) -> Tensor:
    """The probability of the innermost region that a voxel is in, (B, 1, *patch); zero outside of all.

    Args:
        foreground: probabilities (B, R, *patch) of regions, each within the one before it.
    """
    region = torch.zeros_like(foreground[:, :1])
    for inner in foreground.unbind(1):
        region = torch.where(inner[:, None] > INSIDE, inner[:, None], region)
    return region
