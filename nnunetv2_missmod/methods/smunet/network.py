"""The network of SMU-Net for one subset: its bottleneck is split into content and style."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.dedicated import DedicatedNetwork
from nnunetv2_missmod.building_blocks.network import NetworkSpec
from nnunetv2_missmod.building_blocks.style import pool_to_deepest

LEVELS_OF_STYLE = 3  # the deepest and those above it, as many as the plan has


class SMUNetOutput(NamedTuple):
    """Output in training. Content and style are maps of the deepest level, (B, C, *spatial)."""

    logits: Tensor | list[Tensor]  # (B, K, *patch), a list of them, finest first, under deep supervision
    content: Tensor  # the deepest maps
    style: Tensor  # what is mixed from the levels of style


class SMUNet(DedicatedNetwork):
    """The plan's U-Net for the modalities of the subset, whose decoder starts from style and content.

    Student, and of all modalities teacher.
    """

    def __init__(self, spec: NetworkSpec, *, subset: list[int] | None = None):
        super().__init__(spec, subset=subset)
        architecture = spec.architecture
        features = architecture.features[-LEVELS_OF_STYLE:]
        levels = range(len(architecture.features))[-LEVELS_OF_STYLE:]
        unet = architecture.unet(len(self.subset), spec.num_classes, spec.deep_supervision)
        self.encoder: nn.Module = unet.encoder
        self.pools = nn.ModuleList(pool_to_deepest(architecture, level) for level in levels)
        self.mix = architecture.projection(sum(features), features[-1])
        self.join = architecture.projection(2 * features[-1], features[-1])
        self.decoder = unet.decoder

    def forward(self, images: Tensor, present: Tensor | None = None) -> Tensor | list[Tensor] | SMUNetOutput:
        """Segment images (B, M, *patch) from what is present (B, M) of the subset, see ``MissingModalityNetwork``."""
        levels = self.encoder(self.select(images, present))
        pooled = [pool(maps) for pool, maps in zip(self.pools, levels[-len(self.pools) :], strict=True)]
        style, content = self.mix(torch.cat(pooled, 1)), levels[-1]
        logits: Tensor | list[Tensor] = self.decoder([*levels[:-1], self.join(torch.cat((style, content), 1))])
        return SMUNetOutput(logits, content, style) if self.training else logits
