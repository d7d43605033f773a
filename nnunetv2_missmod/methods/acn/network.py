"""The network of ACN for one subset, and what a training has beside it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture, initialize_weights
from nnunetv2_missmod.building_blocks.dedicated import DedicatedUNet
from nnunetv2_missmod.building_blocks.discriminator import STRIDES

FIRST_VARIANCE = 5.0  # of the regressor, of every channel
SMALLEST_VARIANCE = 1e-5


class ACNNet(DedicatedUNet):
    """Student, and of all modalities teacher."""


class Regressor(nn.Module):
    """g: the student's bottleneck (B, C, *spatial) to a Gaussian over the teacher's, its variance one per channel."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        channels, conv_op = architecture.features[-1], architecture.resolved["conv_op"]
        first, second, third = (conv_op(channels, channels, 1, bias=False) for _ in range(3))
        self.mean = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third).apply(initialize_weights)
        scale = math.log(math.expm1(FIRST_VARIANCE - SMALLEST_VARIANCE))  # softplus gives the variance back
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, bottleneck: Tensor) -> tuple[Tensor, Tensor]:
        """Give the mean (B, C, *spatial) and the variance (C,)."""
        return self.mean(bottleneck), F.softplus(self.scale) + SMALLEST_VARIANCE


def first_strides(architecture: Architecture) -> list[Any]:
    """Strides for a discriminator of what has the patch's size: the plan's first, 2 where it has fewer."""
    planned = [architecture.stride_to(level) for level in range(1, len(architecture.features))][: len(STRIDES)]
    return [*planned, *STRIDES[len(planned) :]]
