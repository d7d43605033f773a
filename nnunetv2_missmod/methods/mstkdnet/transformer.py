"""The transformer of MST-KDNet and the UNETR-like way back from its tokens to maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.transformer import Block, maps_of, position_on, tokens_of

NUM_TAPS = 4  # tokens and attention are taken after each quarter of the depth
NUM_JOINS = NUM_TAPS - 1  # of a shallower tap to what was decoded so far


class Tapped(NamedTuple):
    """What is taken from the transformer after each quarter of its depth. B samples, T tokens, K channels, H heads."""

    hidden: list[Tensor]  # the tokens as maps, (B, K, *grid)
    attention: list[Tensor]  # A, after softmax, (B, H, T, T); empty in eval mode


class Transformer(nn.Module):
    """Pre-norm transformer on the patches of a map.

    Args:
        architecture: of the plan.
        channels: of the map.
        patch: size of a token's patch of the map, P.
        grid: tokens along each axis for images of the plan's patch size; the position embedding is resized to others.
        embed_dim: channels of a token, K.
        num_layers, num_heads, feedforward_dim: of the blocks.

    Raises:
        ValueError: fewer than four layers, or channels that the heads cannot share.
    """

    def __init__(
        self,
        architecture: Architecture,
        channels: int,
        patch: Sequence[int],
        grid: Sequence[int],
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        feedforward_dim: int,
    ):
        super().__init__()
        if num_layers < NUM_TAPS or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"Expected num_layers of at least {NUM_TAPS} and embed_dim a multiple of num_heads, got {num_layers} "
                f"layers, {embed_dim} channels and {num_heads} heads. Correct the plan's missmod block."
            )
        self.embedding: nn.Module = architecture.resolved["conv_op"](channels, embed_dim, list(patch), list(patch))
        self.position = nn.Parameter(self.embedding.weight.new_zeros(1, embed_dim, *grid))
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, feedforward_dim) for _ in range(num_layers))
        self.taps = [math.ceil(num_layers * quarter / NUM_TAPS) - 1 for quarter in range(1, NUM_TAPS + 1)]

    def forward(self, maps: Tensor) -> Tapped:
        """Relate the patches of a map (B, C, *spatial) to each other."""
        embedded = self.embedding(maps)
        grid = embedded.shape[2:]
        tokens = tokens_of(embedded + position_on(self.position, grid))
        tapped = Tapped([], [])
        for index, block in enumerate(self.blocks):
            is_tapped = index in self.taps
            tokens, attention = block(tokens, is_tapped and self.training)
            if is_tapped:
                tapped.hidden.append(maps_of(tokens, grid))
            if attention is not None:
                tapped.attention.append(attention)
        return tapped


class TokenDecoder(nn.Module):
    """From the tapped tokens back to a map, as UNETR: the deepest first, shallower ones joining on finer grids.

    Args:
        architecture: of the plan.
        embed_dim: channels of a token, K.
        channels: of the map.
        strides: from the map down to the tokens' grid, finest first; their product is the tokens' patch.
    """

    def __init__(self, architecture: Architecture, embed_dim: int, channels: int, strides: Sequence[Sequence[int]]):
        super().__init__()
        ones = (1,) * architecture.dimensions
        steps = share_out(strides, ones)
        reached = [total_stride(steps[:step], ones) for step in range(NUM_TAPS)]  # how much finer than the grid
        self.taps = nn.ModuleList(enlarged_tap(architecture, embed_dim, channels, stride) for stride in reached)
        self.upsamplings = nn.ModuleList(enlarge(architecture, channels, stride) for stride in steps)
        self.joins = nn.ModuleList(architecture.conv(channels, channels) for _ in steps)

    def forward(self, hidden: list[Tensor]) -> list[Tensor]:
        """Decode the tokens of each tap (B, K, *grid), shallowest first.

        Returns:
            What was decoded from the deepest tap and after each join, (B, C, *finer), from the tokens' grid to the
            map's own size.
        """
        deepest, *others = (tap(tokens) for tap, tokens in zip(self.taps, reversed(hidden), strict=True))
        maps: list[Tensor] = [deepest]
        for upsampling, join, skip in zip(self.upsamplings, self.joins, others, strict=True):
            maps.append(join(upsampling(maps[-1]) + skip))
        return maps


def share_out(strides: Sequence[Sequence[int]], ones: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Share out strides, finest first, among the joins, coarsest first: one each, and what is left to the last."""
    coarsest_first = [tuple(stride) for stride in reversed(strides)]
    single, rest = coarsest_first[: NUM_JOINS - 1], coarsest_first[NUM_JOINS - 1 :]
    missing = NUM_JOINS - 1 - len(single)
    return [*single, *[ones] * missing, total_stride(rest, ones)]


def enlarged_tap(architecture: Architecture, embed_dim: int, channels: int, stride: Sequence[int]) -> nn.Module:
    """Build what brings a tap's tokens to the map's channels and to a finer grid."""
    return nn.Sequential(architecture.conv(embed_dim, channels, 1), enlarge(architecture, channels, stride))


def enlarge(architecture: Architecture, channels: int, stride: Sequence[int]) -> nn.Module:
    """Build a transposed convolution, or nothing where no axis grows."""
    return architecture.deconv(channels, channels, stride) if max(stride) > 1 else nn.Identity()


def total_stride(strides: Sequence[Sequence[int]], ones: Sequence[int]) -> tuple[int, ...]:
    """Multiply strides along each axis; of no strides, ``ones``."""
    return tuple(math.prod(axis) for axis in zip(ones, *strides, strict=True))
