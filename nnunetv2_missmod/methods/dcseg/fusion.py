"""Region-aware fusion of modalities (RFNet, Ding et al., ICCV 2021), as DC-Seg uses it at every level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.precision import full_precision

HIDDEN = 128  # units of the net that weighs the modalities (released code)
REGION_CHANNELS = 16  # channels in front of the region maps (released code)
MEAN_EPS = 1e-7


class RegionAwareFusion(nn.Module):
    """F at one level: weigh the modalities anew in each region of a coarse segmentation.

    Args:
        architecture: of the encoders whose maps are fused.
        level: 0 is the finest.
        num_modalities: M.
        num_classes: K outputs of the segmentation.
        overlapping_regions: the K maps are sigmoids and a background map joins them: R = K + 1; else R = K.
    """

    def __init__(
        self, architecture: Architecture, level: int, num_modalities: int, num_classes: int, overlapping_regions: bool
    ):
        super().__init__()
        channels, kernel = architecture.features[level], architecture.kernel_sizes[level]
        is_bottleneck = level == len(architecture.features) - 1
        quarter, half, stacked = channels // 4, channels // 2, num_modalities * channels
        self.overlapping_regions = overlapping_regions
        self.num_regions = num_classes + overlapping_regions
        self.embedding = nn.Sequential(
            architecture.conv(stacked, quarter, 1),
            architecture.conv(quarter, quarter, kernel),
            architecture.conv(quarter, channels, 1),
        )
        self.region_maps = nn.Sequential(
            architecture.conv(channels if is_bottleneck else 2 * channels, REGION_CHANNELS, 1),
            architecture.projection(REGION_CHANNELS, num_classes),
        )
        # One small net per region, folded into grouped convolutions of length one.
        inputs = stacked + 1
        self.weights = nn.Sequential(
            nn.Conv1d(self.num_regions * inputs, self.num_regions * HIDDEN, 1, groups=self.num_regions),
            nn.LeakyReLU(0.2),
            nn.Conv1d(self.num_regions * HIDDEN, self.num_regions * num_modalities, 1, groups=self.num_regions),
            nn.Sigmoid(),
        )
        self.merge = nn.Sequential(
            architecture.conv(self.num_regions * channels, half, 1), architecture.conv(half, half, kernel)
        )
        self.shortcut = nn.Sequential(architecture.conv(stacked, half, 1), architecture.conv(half, half, kernel))

    def forward(self, maps: Tensor, coarser: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fuse the maps of one level.

        Args:
            maps: (B, M, C, *spatial), zero where a modality is absent.
            coarser: the decoder's feature of the level below, upsampled (B, C, *spatial); None at the bottleneck.

        Returns:
            Fused map (B, C, *spatial) and the logits of the region maps (B, K, *spatial).
        """
        stacked = maps.flatten(1, 2)
        embedded = self.embedding(stacked)
        logits = self.region_maps(embedded if coarser is None else torch.cat((embedded, coarser), 1))
        regions = self.probabilities(logits.detach())
        fused = self.fuse(maps, regions)
        return torch.cat((self.merge(fused.flatten(1, 2)), self.shortcut(stacked)), 1), logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn region logits (B, K, *spatial) into maps (B, R, *spatial) that cover every voxel."""
        if not self.overlapping_regions:
            return logits.float().softmax(1)
        maps = logits.float().sigmoid()
        return torch.cat((maps, 1 - maps.amax(1, keepdim=True)), 1)

    def fuse(self, maps: Tensor, regions: Tensor) -> Tensor:
        """Sum the modalities in each region by its own weights: (B, M, C, *spatial) to (B, R, C, *spatial)."""
        size = regions.flatten(2).mean(2)
        means = self.region_means(maps, regions) / (size[..., None] + MEAN_EPS)
        inputs = torch.cat((means, size[..., None]), 2)
        weights = self.weights(inputs.flatten(1)[..., None]).view(len(maps), self.num_regions, maps.shape[1])
        mixed: Tensor = (weights.to(maps.dtype) @ maps.flatten(2)).view(len(maps), self.num_regions, *maps.shape[2:])
        return mixed * regions[:, :, None].to(maps.dtype)

    @staticmethod
    def region_means(maps: Tensor, regions: Tensor) -> Tensor:
        """Mean over space of every map times every region map: (B, R, M * C), in float32: the sums overflow half."""
        values = maps.flatten(3).flatten(1, 2)
        with full_precision(maps.device):
            means: Tensor = regions.flatten(2) @ values.float().transpose(1, 2) / values.shape[2]
        return means
