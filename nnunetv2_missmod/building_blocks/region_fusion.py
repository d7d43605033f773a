"""Region-aware fusion of modalities at every level (Ding et al., ICCV 2021): networks around it, and their losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import NetworkSpec
from nnunetv2_missmod.building_blocks.per_modality import (
    Logits,
    PerModalityNet,
    encode_each,
    joining,
    select_present,
)
from nnunetv2_missmod.building_blocks.precision import at_least_float32, full_precision
from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.host.deep_supervision import loss_at_one_level
from nnunetv2_missmod.host.unet import decoder_steps

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
        merge_width: of the convolutions that join regions, and modalities: "full", three, of C channels but the last,
            of C / 2; "half", two of C / 2.
    """

    def __init__(
        self,
        architecture: Architecture,
        level: int,
        num_modalities: int,
        num_classes: int,
        overlapping_regions: bool,
        merge_width: str,
    ):
        super().__init__()
        channels, kernel = architecture.features[level], architecture.kernel_sizes[level]
        is_bottleneck = level == len(architecture.features) - 1
        quarter, stacked = channels // 4, num_modalities * channels
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
        half = channels // 2
        widths = (half, half) if merge_width == "half" else (channels, channels, half)
        self.merge = joining(architecture, self.num_regions * channels, widths, kernel)
        self.shortcut = joining(architecture, stacked, widths, kernel)

    def forward(self, maps: Tensor, coarser: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fuse the maps of one level.

        Args:
            maps: (B, M, C, *spatial), zero where a modality is absent.
            coarser: the decoder's feature of the level below, upsampled (B, C, *spatial); None at the bottleneck.

        Returns:
            Fused map (B, C, *spatial) and the logits of the region maps (B, K, *spatial).
        """
        stacked = maps.flatten(1, 2)
        logits = self.region_logits(stacked, coarser)
        regions = self.probabilities(logits.detach())
        fused = self.fuse(maps, regions)
        return torch.cat((self.merge(fused.flatten(1, 2)), self.shortcut(stacked)), 1), logits

    def region_logits(self, stacked: Tensor, coarser: Tensor | None) -> Tensor:
        """Segment the level's regions coarsely, from its maps (B, M * C, *spatial) and the coarser level's feature."""
        embedded = self.embedding(stacked)
        logits: Tensor = self.region_maps(embedded if coarser is None else torch.cat((embedded, coarser), 1))
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn region logits (B, K, *spatial) into maps (B, R, *spatial) that cover every voxel."""
        logits = at_least_float32(logits)
        if not self.overlapping_regions:
            return logits.softmax(1)
        maps = logits.sigmoid()
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
            means: Tensor = regions.flatten(2) @ at_least_float32(values).transpose(1, 2) / values.shape[2]
        return means


class RegionFusionNet(PerModalityNet):
    """Base of networks with an encoder for each modality, region-aware fusion at every level, and two decoders.

    All parts have the plan's topology with F_l / sqrt(M) features. ``decoder`` reads the fused maps;
    ``separate_decoder``, which training alone calls, those of each modality by itself.

    Args:
        spec: what plan and dataset ask for.
        method: its name, for an error's words.
        overlapping_regions, merge_width: see ``RegionAwareFusion``.
    """

    def __init__(self, spec: NetworkSpec, method: str, overlapping_regions: bool, merge_width: str):
        super().__init__(spec)
        spec.refuse_cascade(method)
        num_modalities, num_classes = spec.num_modalities, spec.num_classes
        narrow = spec.architecture.for_each_of(num_modalities)
        # "anatomy": their name in checkpoints.
        self.anatomy_encoders = nn.ModuleList(narrow.encoder(1) for _ in range(num_modalities))
        self.fusions = nn.ModuleList(
            RegionAwareFusion(narrow, level, num_modalities, num_classes, overlapping_regions, merge_width)
            for level in range(len(narrow.features))
        )
        self.decoder = narrow.decoder(num_classes, spec.deep_supervision)
        self.separate_decoder = narrow.decoder(num_classes, spec.deep_supervision)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Encode each modality on its own: images (B, M, *patch) to levels (B, M, C_l, *spatial), finest first."""
        return encode_each(self.anatomy_encoders, images)

    def segment(self, encoded: list[Tensor], present: Tensor) -> Logits:
        """Segment from a subset (B, M) of the encoded levels."""
        return self.fuse_and_decode(select_present(encoded, present))[0]

    def fuse_and_decode(self, levels: list[Tensor]) -> tuple[Logits, list[Tensor], Tensor]:
        """Fuse the modalities at every level and decode, coarsest first.

        Args:
            levels: (B, M, C_l, *spatial), finest first, zero where a modality is absent.

        Returns:
            Logits (finest first, a list under deep supervision), region logits (finest first) and z, the fused
            bottleneck (B, C, *spatial).
        """
        fused_bottleneck, bottleneck_regions = recompute(self.fusions[-1], levels[-1], None)
        features, region_logits = fused_bottleneck, [bottleneck_regions]
        logits: list[Tensor] = []
        for number, step in enumerate(decoder_steps(self.decoder), start=2):
            upsampled = step.upsampling(features)
            fused, regions = recompute(self.fusions[-number], levels[-number], upsampled)
            features = step.stage(torch.cat((upsampled, fused), 1))
            region_logits.insert(0, regions)
            if self.decoder.deep_supervision or number == len(levels):
                logits.insert(0, step.head(features))
        return (logits if self.decoder.deep_supervision else logits[0]), region_logits, fused_bottleneck


def region_loss(loss: Callable[..., Tensor], region_logits: list[Tensor], target: Tensor | list[Tensor]) -> Tensor:
    """The segmentation loss of the region maps, mean over levels with weights 2^-level.

    nnU-Net's deep supervision gives the two deepest levels no weight; the fusion uses their maps all the same.

    Args:
        loss: the pipeline's.
        region_logits: (B, K, *spatial) at every level, finest first.
        target: as the pipeline's loss takes it, finest first.
    """
    finest = target[0] if isinstance(target, list) else target
    at_one_level = loss_at_one_level(loss)
    weights = [0.5**level for level in range(len(region_logits))]
    losses = [
        weight * at_one_level(logits, F.interpolate(finest.float(), logits.shape[2:], mode="nearest-exact"))
        for weight, logits in zip(weights, region_logits, strict=True)
    ]
    return torch.stack(losses).sum() / sum(weights)
