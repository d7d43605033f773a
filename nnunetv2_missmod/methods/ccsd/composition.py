"""Composition of shared and specific features, and what stands in the slot of a missing modality."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.modalities import expand_to

CONVOLUTIONS = {2: F.conv2d, 3: F.conv3d}
STANDARDISATION_EPS = 1e-12  # on the variance of a filter's weights [1]


class ResidualComposition(nn.Module):
    """ShaSpec's composition [1]: f_shared + conv3([f_shared, f_spec]), weights standardised per output channel.

    [1] Wang et al., "Multi-modal Learning with Missing Modality via Shared-Specific Feature Modelling", CVPR 2023.
    """

    def __init__(self, architecture: Architecture, channels: int):
        super().__init__()
        conv: Any = architecture.projection(2 * channels, channels, 3)
        self.weight: nn.Parameter = conv.weight
        self.convolve = CONVOLUTIONS[architecture.dimensions]

    def forward(self, features: Tensor) -> Tensor:
        """Compose (N, 2C, *spatial), the shared features first, to (N, C, *spatial)."""
        axes = tuple(range(1, self.weight.ndim))
        variance, mean = torch.var_mean(self.weight, axes, keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(variance + STANDARDISATION_EPS)
        return features.chunk(2, 1)[0] + self.convolve(features, weight, padding=1)


def fill_slots(fused: Tensor, substitute: Tensor, present: Tensor) -> Tensor:
    """Build Z_S: the fused features of the present modalities, the substitute in every other slot.

    Args:
        fused: f_fused^m, (B, M, C, *spatial).
        substitute: broadcasts against it.
        present: (B, M) bool.

    Returns:
        (B, M, C, *spatial). Arguments and result may have further axes before M, alike or of length one.
    """
    return torch.where(expand_to(present, fused), fused, substitute)  # absent means absent


def mean_of_present(shared: Tensor, present: Tensor) -> Tensor:
    """Average the present modalities' shared features: ShaSpec's substitute.

    Args:
        shared: (B, M, C, *spatial).
        present: (B, M) bool.

    Returns:
        (B, 1, C, *spatial). Arguments and result may have further axes before M, alike or of length one.
    """
    axis = present.ndim - 1
    seen = torch.where(expand_to(present, shared), shared, 0)
    return seen.sum(axis, keepdim=True) / expand_to(present.sum(axis, keepdim=True), seen)
