"""The network of M2FTrans: an encoder for each modality, fusion tokens, cross-attention, and two decoders."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import NetworkSpec
from nnunetv2_missmod.building_blocks.per_modality import (
    Logits,
    PerModalityNet,
    decode_each,
    encode_each,
    joining,
    select_present,
)
from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.building_blocks.region_fusion import REGION_CHANNELS
from nnunetv2_missmod.host.unet import decoder_steps
from nnunetv2_missmod.methods.m2ftrans.cross_attention import CrossFusion
from nnunetv2_missmod.methods.m2ftrans.masked_transformer import MaskedTransformer
from nnunetv2_missmod.modalities import available_modalities


class M2FTransOutput(NamedTuple):
    """Output in training. Lists are finest first."""

    logits: Logits  # of D_fuse, (B, K, *patch) and coarser
    separate_logits: Logits  # of D_sep, (B * M, K, *patch) or (B * k, ...) and coarser, sample-major
    region_logits: list[Tensor]  # of what each level starts from, (B, K, *spatial) at every level


class Encoded(NamedTuple):
    """What the encoders make of a batch; every subset is segmented from it."""

    levels: list[Tensor]  # (B, M, C_l, *spatial), finest first
    tokens: list[Tensor]  # of ``MaskedTransformer.of_modalities``; none where they depend on the subset


class M2FTransNet(PerModalityNet):
    """M2FTrans on a plan's topology, with F_l / sqrt(M) features in every part.

    In training every channel is encoded as it is; ``present`` acts in the fusion alone, so that D_sep sees all that is
    available.

    Args:
        num_layers: of the transformer.
        num_heads: of its attention.
        feedforward_dim: hidden channels of its feed-forward networks.
        dropout: share that training drops in the transformer and behind cross-attention.
        cross_levels: on how many levels, the coarsest, cross-attention fuses; on the others convolutions do.
        spatial_weights: whether a modality's maps are multiplied by the attention that the fusion tokens pay it.
        masked: whether the fusion tokens see the tokens of present modalities alone; or else zeros for the absent ones.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        num_layers: int = 3,
        num_heads: int = 8,
        feedforward_dim: int = 4096,
        dropout: float = 0.1,
        cross_levels: int = 2,
        spatial_weights: bool = True,
        masked: bool = True,
    ):
        super().__init__(spec)
        spec.refuse_cascade("M2FTrans")
        self.spatial_weights, self.masked = spatial_weights, masked
        num_modalities, narrow = spec.num_modalities, spec.architecture.for_each_of(spec.num_modalities)
        levels, channels, kernel = range(len(narrow.features)), narrow.features[-1], narrow.kernel_sizes[-1]
        of_blocks = num_layers, num_heads, feedforward_dim, dropout
        self.encoders = nn.ModuleList(narrow.encoder(1) for _ in range(num_modalities))
        self.fusion_transformer = MaskedTransformer(narrow, num_modalities, *of_blocks)
        self.fusions = nn.ModuleList(
            CrossFusion(narrow, level, num_modalities, dropout)
            if level >= len(levels) - cross_levels
            else Concatenation(narrow, level, num_modalities)
            for level in levels
        )
        self.bottleneck = nn.Sequential(narrow.conv(2 * channels, channels, kernel), narrow.conv(channels, channels, 1))
        self.region_heads = nn.ModuleList(region_head(narrow, level, spec.num_classes) for level in levels)
        self.decoder = narrow.decoder(spec.num_classes, spec.deep_supervision)
        self.separate_decoder = narrow.decoder(spec.num_classes, spec.deep_supervision)

    def forward(
        self, images: Tensor, present: Tensor | None = None, alone: Tensor | None = None
    ) -> Logits | M2FTransOutput:
        """Segment images (B, M, *patch) from the modalities present (B, M), see ``MissingModalityNetwork``.

        ``alone`` (B, k) are the modalities of each sample that D_sep segments in training; None: each of the M.
        """
        present = available_modalities(images) if present is None else present
        encoded = self.encode(images)
        if not self.training:
            return self.segment(encoded, present)
        separate_logits = decode_each(self.separate_decoder, encoded.levels, alone)
        logits, starts = self.fuse_and_decode(encoded, present)
        region_logits = [recompute(head, start) for head, start in zip(self.region_heads, starts, strict=True)]
        return M2FTransOutput(logits, separate_logits, region_logits)

    def encode(self, images: Tensor) -> Encoded:
        """Encode each modality on its own, (B, M, *patch), and send its tokens through the transformer."""
        levels = encode_each(self.encoders, images)
        return Encoded(levels, self.fusion_transformer.of_modalities(levels[-1]) if self.masked else [])

    def segment(self, encoded: Encoded, present: Tensor) -> Logits:
        """Segment from a subset (B, M) of what was encoded."""
        return self.fuse_and_decode(encoded, present)[0]

    def fuse_and_decode(self, encoded: Encoded, present: Tensor) -> tuple[Logits, list[Tensor]]:
        """Fuse the modalities present (B, M) at every level and decode, coarsest first.

        Returns:
            Logits (finest first, a list under deep supervision), and what each level starts from, (B, C_l, *spatial),
            finest first: the fusion tokens, then the decoder's upsampled features.
        """
        levels, tokens, seen = encoded.levels, encoded.tokens, present
        if not self.masked:
            tokens = self.fusion_transformer.of_modalities(select_present(levels[-1:], present)[0])
            seen = torch.ones_like(present)
        start, weights = self.fusion_transformer.fuse(tokens, seen, levels[-1].shape[3:])
        transformed = tokens[-1].transpose(2, 3).reshape(levels[-1].shape)
        fused = recompute(self.fuse_level, -1, start, transformed, weights, present)
        features: Tensor = self.bottleneck(torch.cat((fused, start), 1))
        starts: list[Tensor] = [start]
        logits: list[Tensor] = []
        for number, step in enumerate(decoder_steps(self.decoder), start=2):
            start = step.upsampling(features)
            fused = recompute(self.fuse_level, -number, start, levels[-number], weights, present)
            features = step.stage(torch.cat((start, fused), 1))
            starts.insert(0, start)
            if self.decoder.deep_supervision or number == len(levels):
                logits.insert(0, step.head(features))
        return (logits if self.decoder.deep_supervision else logits[0]), starts

    def fuse_level(self, level: int, start: Tensor, maps: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Fuse the maps of one level, each modality's weighed: (B, M, C, *spatial) to (B, C, *spatial).

        Args:
            level: index of its fusion.
            start: what is decoded so far, (B, C, *spatial).
            maps: of the modalities.
            weights: (B, M, *grid).
            present: (B, M) bool.
        """
        if self.spatial_weights:
            enlarged = F.interpolate(weights, maps.shape[3:], mode="nearest-exact")
            maps = maps * enlarged[:, :, None].to(maps.dtype)
        (seen,) = select_present([maps], present)  # not by weights of zero alone: 0 * NaN is NaN
        fused: Tensor = self.fusions[level](start, seen, present)
        return fused


class Concatenation(nn.Module):
    """Fuse one level by convolutions of the concatenated modalities: the fine levels, and an ablation's others."""

    def __init__(self, architecture: Architecture, level: int, num_modalities: int):
        super().__init__()
        channels, kernel = architecture.features[level], architecture.kernel_sizes[level]
        self.join = joining(architecture, num_modalities * channels, [channels] * 3, kernel)

    def forward(self, start: Tensor, maps: Tensor, present: Tensor) -> Tensor:
        """Fuse maps (B, M, C, *spatial), zero where a modality is absent; the rest is as in ``CrossFusion``."""
        fused: Tensor = self.join(maps.flatten(1, 2))
        return fused


def region_head(architecture: Architecture, level: int, num_classes: int) -> nn.Module:
    """Build what segments regions coarsely from where a level starts: (B, C, *spatial) to logits (B, K, *spatial)."""
    conv = architecture.conv(architecture.features[level], REGION_CHANNELS, 1)
    return nn.Sequential(conv, architecture.projection(REGION_CHANNELS, num_classes))
