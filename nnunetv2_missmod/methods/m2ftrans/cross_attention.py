"""Channel-wise cross-attention of M2FTrans: the fused map's channels ask those of all modalities present."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture

BLOCKS = 2  # at a level (released code)
EXPANSION = 4  # of the channels in a feed-forward network (released code)
NORM_EPS = 1e-6  # (released code)


class CrossFusion(nn.Module):
    """Fuse the modalities at one level by blocks of channel-wise cross-attention.

    Args:
        architecture: of the encoders whose maps are fused.
        level: 0 is the finest.
        num_modalities: M.
        dropout: share of what attention adds that training drops.
    """

    def __init__(self, architecture: Architecture, level: int, num_modalities: int, dropout: float):
        super().__init__()
        channels, kernel = architecture.features[level], architecture.kernel_sizes[level]
        self.blocks = nn.ModuleList(
            CrossBlock(architecture, channels, kernel, num_modalities, dropout, is_last=number == BLOCKS)
            for number in range(1, BLOCKS + 1)
        )

    def forward(self, query: Tensor, maps: Tensor, present: Tensor) -> Tensor:
        """Fuse to (B, C, *spatial).

        Args:
            query: what is fused so far, (B, C, *spatial).
            maps: of each modality, (B, M, C, *spatial), finite where it is absent.
            present: (B, M) bool, one at least in each sample.
        """
        for block in self.blocks:
            query, maps = block(query, maps, present)
        return query


class CrossBlock(nn.Module):
    """Channel-wise cross-attention and a feed-forward network beside shortcuts; another one for the modalities.

    Each modality has projections of its own to keys and values, side by side in grouped convolutions; all share one
    feed-forward network.

    Args:
        architecture: of the plan.
        channels: C of the fused map and of each modality's.
        kernel: of the convolutions that look at neighbours.
        num_modalities, dropout: as in ``CrossFusion``.
        is_last: the modalities' maps are not asked for again, and are left as they are.
    """

    def __init__(
        self,
        architecture: Architecture,
        channels: int,
        kernel: Any,
        num_modalities: int,
        dropout: float,
        is_last: bool,
    ):
        super().__init__()
        self.query = projections(architecture, channels, kernel, 1)
        self.key_value = projections(architecture, channels, kernel, 2 * num_modalities)
        self.out = nn.Sequential(*projections(architecture, channels, kernel, 1), nn.Dropout(dropout))
        self.feedforward = MapFeedForward(architecture, channels, kernel)
        self.maps_feedforward = None if is_last else MapFeedForward(architecture, channels, kernel)

    def forward(self, query: Tensor, maps: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Give the next fused map (B, C, *spatial) and maps of the modalities (B, M, C, *spatial)."""
        fused = self.feedforward(query + self.out(self.attend(query, maps, present)))
        if self.maps_feedforward is None:
            return fused, maps
        return fused, self.maps_feedforward(maps.flatten(0, 1)).unflatten(0, present.shape)

    def attend(self, query: Tensor, maps: Tensor, present: Tensor) -> Tensor:
        """Mix the present modalities' channels for each channel of the fused map, (B, C, *spatial).

        A channel's vector are its voxels, so that the products are scaled by voxels^-0.5.
        """
        stacked = maps.flatten(1, 2)
        queries = self.query(query).flatten(2)
        keys, values = self.key_value(torch.cat((stacked, stacked), 1)).flatten(2).chunk(2, 1)
        seen = present.repeat_interleave(maps.shape[2], 1)[:, None]
        return F.scaled_dot_product_attention(queries, keys, values, seen).view_as(query)


class MapFeedForward(nn.Module):
    """A feed-forward network of convolutions on maps (B, C, *spatial), of kernel 1, grouped by channels and of 1."""

    def __init__(self, architecture: Architecture, channels: int, kernel: Any):
        super().__init__()
        wide = EXPANSION * channels
        self.change = nn.Sequential(
            architecture.projection(channels, wide),
            ChannelNorm(wide),
            nn.GELU(),
            architecture.projection(wide, wide, kernel, groups=channels),
            ChannelNorm(wide),
            nn.GELU(),
            architecture.projection(wide, channels),
            ChannelNorm(channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Give the next maps, of the same shape."""
        return F.gelu(maps + self.change(maps))


class ChannelNorm(nn.GroupNorm):
    """Layer norm over the channels of each of G groups of a map (B, G * C, *spatial): a group norm of single voxels."""

    def __init__(self, channels: int, groups: int = 1):
        super().__init__(groups, groups * channels, NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        """Norm the maps."""
        voxels = maps.movedim(1, -1)
        return super().forward(voxels.flatten(0, -2)).view_as(voxels).movedim(-1, 1)


def projections(architecture: Architecture, channels: int, kernel: Any, groups: int) -> nn.Sequential:
    """Build the projection of each of G groups of C channels: (B, G * C, *spatial) to the same shape."""
    stacked = groups * channels
    return nn.Sequential(
        architecture.projection(stacked, stacked, groups=groups),
        ChannelNorm(channels, groups),
        nn.GELU(),
        architecture.projection(stacked, stacked, kernel, groups=stacked),
        ChannelNorm(channels, groups),
        nn.GELU(),
        architecture.projection(stacked, stacked, groups=groups),
        ChannelNorm(channels, groups),
    )
