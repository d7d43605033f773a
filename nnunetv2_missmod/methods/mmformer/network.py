"""The network of mmFormer: an encoder and a transformer for each modality, one transformer for all, two decoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
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
from nnunetv2_missmod.building_blocks.transformer import position_on, tokens_of
from nnunetv2_missmod.methods.mmformer.transformers import InterTransformer, IntraTransformers, Size
from nnunetv2_missmod.modalities import available_modalities

BOTTLENECK = -1
FINEST_TOKENS = 2  # level: below it deep supervision has no two outputs


class MmFormerOutput(NamedTuple):
    """Output in training. Lists are finest first."""

    logits: Logits  # of D_fuse, (B, K, *patch) and coarser
    separate_logits: Logits  # of D_sep, (B * M, K, *patch) or (B * k, ...) and coarser, sample-major


class Encoded(NamedTuple):
    """What does not depend on the subset."""

    levels: list[Tensor]  # of the encoders, (B, M, C_l, *spatial), finest first
    tokens: Tensor  # of the intra-modal transformers on the coarsest of them, (B, M, T, E)


class MmFormerNet(PerModalityNet):
    """mmFormer on a plan's topology, with F_l / sqrt(M) features in encoders and decoders.

    In training every channel is encoded as it is; ``present`` acts behind encoders and intra-modal transformers, so
    that D_sep, which reads the encoders' maps, sees all that is available.

    Args:
        embed_dim: channels of a token, E, a multiple of ``num_heads`` (released code: 512).
        num_heads: of the self-attention (released code: 8).
        feedforward_dim: hidden channels of the transformers' feed-forward networks (released code: 4096).
        intra_layers: of the transformer within a modality (released code: 1); 0: none, the ablation.
        inter_layers: of the transformer across modalities (released code: 1); 0: none, the ablation.
        dropout: in the transformers, in training (released code: 0.1).
        token_level: whose voxels are the tokens, counted from 0, the finest; the network ends there. -1: the plan's
            bottleneck. The released network's is 4, of stride 16.
        share_intra: the modalities have one transformer in place of one each; their projections and positions stay
            their own.
        mask_absent_tokens: absent modalities' tokens are left out of the attention; released, they take part as zeros.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        embed_dim: int = 512,
        num_heads: int = 8,
        feedforward_dim: int = 4096,
        intra_layers: int = 1,
        inter_layers: int = 1,
        dropout: float = 0.1,
        token_level: int = BOTTLENECK,
        share_intra: bool = False,
        mask_absent_tokens: bool = False,
    ):
        super().__init__(spec)
        spec.refuse_cascade("mmFormer")
        count, size = spec.num_modalities, Size(embed_dim, num_heads, feedforward_dim, dropout)
        narrow = down_to_tokens(spec.architecture, token_level).for_each_of(count)
        levels = range(len(narrow.features))
        self.encoders = nn.ModuleList(narrow.encoder(1) for _ in range(count))
        self.position = nn.Parameter(
            torch.zeros(count, embed_dim, *narrow.size_at(levels[-1])), requires_grad=intra_layers + inter_layers > 0
        )
        self.intra = IntraTransformers(narrow, count, size, intra_layers, share_intra)
        self.inter = InterTransformer(narrow, count, size, inter_layers, mask_absent_tokens)
        self.fusions = nn.ModuleList(fusion(narrow, level, count) for level in levels)
        self.decoder = narrow.decoder(spec.num_classes, spec.deep_supervision)
        self.separate_decoder = narrow.decoder(spec.num_classes, spec.deep_supervision)

    def forward(
        self, images: Tensor, present: Tensor | None = None, alone: Tensor | None = None
    ) -> Logits | MmFormerOutput:
        """Segment images (B, M, *patch) from the modalities present (B, M), see ``MissingModalityNetwork``.

        ``alone`` (B, k) are the modalities of each sample that D_sep segments in training; None: each of the M.
        """
        present = available_modalities(images) if present is None else present
        encoded = self.encode(images)
        if not self.training:
            return self.segment(encoded, present)
        separate_logits = decode_each(self.separate_decoder, encoded.levels, alone)
        return MmFormerOutput(self.segment(encoded, present), separate_logits)

    def encode(self, images: Tensor) -> Encoded:
        """Encode each modality of images (B, M, *patch), and relate its voxels to each other."""
        levels = encode_each(self.encoders, images)
        return Encoded(levels, self.intra(levels[-1], self.position_tokens(levels[-1].shape[3:])))

    def segment(self, encoded: Encoded, present: Tensor) -> Logits:
        """Segment from a subset (B, M): relate its tokens across modalities, fuse at every level, decode."""
        *skips, coarsest = encoded.levels
        grid = coarsest.shape[3:]
        fused = [recompute(self.fuse, level, maps, present) for level, maps in enumerate(skips)]
        related = self.inter(encoded.tokens, self.position_tokens(grid), present, grid)
        logits: Logits = self.decoder([*fused, self.fusions[-1](related)])
        return logits

    def fuse(self, level: int, maps: Tensor, present: Tensor) -> Tensor:
        """Fuse a level's maps (B, M, C, *spatial) to (B, C, *spatial)."""
        (seen,) = select_present([maps], present)
        fused: Tensor = self.fusions[level](seen.flatten(1, 2))
        return fused

    def position_tokens(self, grid: Sequence[int]) -> Tensor:
        """Give the position embeddings for the tokens of a grid, (M, T, E), laid out as every layer adds them."""
        return tokens_of(position_on(self.position, grid)).contiguous()


def fusion(architecture: Architecture, level: int, num_modalities: int) -> nn.Module:
    """Build what fuses the modalities' stacked maps of a level: three convolutions, to the width of one."""
    channels = architecture.features[level]
    return joining(architecture, num_modalities * channels, [channels] * 3, architecture.kernel_sizes[level])


def down_to_tokens(architecture: Architecture, token_level: int) -> Architecture:
    """Cut a plan's topology off below the level of the tokens.

    Raises:
        ValueError: there is no such level, or it is too fine.
    """
    if token_level == BOTTLENECK:
        return architecture
    deepest = len(architecture.features) - 1
    if not FINEST_TOKENS <= token_level <= deepest:
        raise ValueError(
            f"Expected token_level from {FINEST_TOKENS} to {deepest}, the plan's coarsest, or -1 for that, got "
            f"{token_level}. Correct the plan's missmod block."
        )
    return architecture.down_to(token_level)
