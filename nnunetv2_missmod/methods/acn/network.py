"""The network of ACN for one subset, and what a training has beside it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture, initialize_weights
from nnunetv2_missmod.building_blocks.dedicated import DedicatedNetwork
from nnunetv2_missmod.building_blocks.discriminator import STRIDES
from nnunetv2_missmod.building_blocks.network import NetworkSpec

FIRST_VARIANCE = 5.0  # of the regressor, of every channel
SMALLEST_VARIANCE = 1e-5


class ACNOutput(NamedTuple):
    """Output in training."""

    logits: Tensor | list[Tensor]  # (B, K, *patch), a list of them, finest first, under deep supervision
    bottleneck: Tensor  # (B, C, *spatial)


class ACNNet(DedicatedNetwork):
    """The plan's U-Net with a channel for each modality of the subset: student, and of all modalities teacher."""

    def __init__(self, spec: NetworkSpec, *, subset: list[int] | None = None):
        super().__init__(spec, subset=subset)
        unet = spec.architecture.unet(len(self.subset), spec.num_classes, spec.deep_supervision)
        self.encoder: nn.Module = unet.encoder
        self.decoder = unet.decoder

    def forward(self, images: Tensor, present: Tensor | None = None) -> Tensor | list[Tensor] | ACNOutput:
        """Segment images (B, M, *patch) from what is present (B, M) of the subset, see ``MissingModalityNetwork``."""
        levels = self.encoder(self.select(images, present))
        logits: Tensor | list[Tensor] = self.decoder(levels)
        return ACNOutput(logits, levels[-1]) if self.training else logits


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
