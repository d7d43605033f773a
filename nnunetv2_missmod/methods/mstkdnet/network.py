"""The network of MST-KDNet: a convolutional encoder, a transformer on its coarsest maps, and the plan's decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import MissingModalityNetwork, NetworkSpec
from nnunetv2_missmod.building_blocks.style import pool_to_deepest
from nnunetv2_missmod.methods.mstkdnet.transformer import TokenDecoder, Transformer, total_stride
from nnunetv2_missmod.modalities import available_modalities, drop_absent

DEEPEST_LEVEL = 3  # of the convolutions; with nnU-Net's strides of 2 its maps are an eighth of the image
FEWEST_TOKENS = 2  # along each axis, where the maps allow it


class MSTKDNetOutput(NamedTuple):
    """Output in training. f_... are maps of the deepest level, (B, C, *spatial)."""

    logits: Tensor | list[Tensor]  # (B, K, *patch), a list of them, finest first, under deep supervision
    attention: list[Tensor]  # A after each quarter of the transformer's depth, (B, H, T, T)
    hidden: list[Tensor]  # the tokens there, as maps (B, embed_dim, *grid)
    maps: list[Tensor]  # what is decoded from them, joined tap by tap, (B, C, *finer), the last of the deepest level
    encoded: Tensor  # f_enc
    transformed: Tensor  # f_t
    style: Tensor  # f_enc&t
    decoded: Tensor  # f_dec


class MSTKDNet(MissingModalityNetwork):
    """Student and teacher of MST-KDNet; absent modalities enter as zeros.

    Args:
        embed_dim: channels of a token, K (released code: 768).
        num_layers: of the transformer, at least 4 (released code: 12).
        num_heads: of its self-attention (released code: 12).
        feedforward_dim: hidden channels of its feed-forward networks (released code: 2048).
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        embed_dim: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        feedforward_dim: int = 2048,
    ):
        super().__init__(spec)
        architecture = spec.architecture
        level = deepest_level(architecture)
        convolutional = architecture.down_to(level)
        above, channels = convolutional.features[-2:]
        strides = token_strides(architecture, level)
        patch = total_stride(strides, (1,) * architecture.dimensions)
        grid = [size // p for size, p in zip(architecture.size_at(level), patch, strict=True)]
        self.encoder = convolutional.encoder(spec.num_channels)
        self.transformer = Transformer(
            architecture, channels, patch, grid, embed_dim, num_layers, num_heads, feedforward_dim
        )
        self.token_decoder = TokenDecoder(architecture, embed_dim, channels, strides)
        self.pool = pool_to_deepest(convolutional, level - 1)
        self.mix = architecture.projection(above + channels, channels)
        self.first_conv = architecture.conv(channels, channels)
        self.decoder = convolutional.decoder(spec.num_classes, spec.deep_supervision)

    def forward(self, images: Tensor, present: Tensor | None = None) -> Tensor | list[Tensor] | MSTKDNetOutput:
        """Segment images (B, M + extra, *patch) from the modalities present (B, M), see ``MissingModalityNetwork``."""
        if present is None:
            present = available_modalities(images[:, : self.num_modalities])
        *skips, above, deepest = self.encoder(drop_absent(images, present))
        tapped = self.transformer(deepest)
        maps = self.token_decoder(tapped.hidden)
        transformed = deepest + maps[-1]
        encoded = self.pool(above)
        style = self.mix(torch.cat((encoded, transformed), 1))
        decoded = self.first_conv(style)
        logits: Tensor | list[Tensor] = self.decoder([*skips, above, decoded])
        if not self.training:
            return logits
        return MSTKDNetOutput(logits, tapped.attention, tapped.hidden, maps, encoded, transformed, style, decoded)


def deepest_level(architecture: Architecture) -> int:
    """Find the level on which the transformer works: 1/8, or the plan's coarsest where that is finer."""
    return min(DEEPEST_LEVEL, len(architecture.features) - 1)


def token_strides(architecture: Architecture, level: int) -> list[tuple[int, ...]]:
    """Strides from a level down to the grid of tokens: those of the plan, so that the grid is its bottleneck.

    An axis that would be left with fewer than two tokens is not reduced further.

    Returns:
        One stride per level below, finest first; empty where the level is the coarsest.
    """
    size, strides = architecture.size_at(level), []
    for deeper in range(level + 1, len(architecture.features)):
        planned = architecture.stride_to(deeper)
        fits = [n % s == 0 and n // s >= FEWEST_TOKENS for n, s in zip(size, planned, strict=True)]
        strides.append(tuple(s if fit else 1 for s, fit in zip(planned, fits, strict=True)))
        size = tuple(n // s for n, s in zip(size, strides[-1], strict=True))
    return strides
