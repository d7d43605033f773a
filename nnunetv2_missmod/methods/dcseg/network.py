"""The network of DC-Seg: anatomy encoders, region-aware fusion, and the parts that only training needs."""

from __future__ import annotations

import math
import operator
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.disentangling import ModalityEncoder, ReconstructionDecoder
from nnunetv2_missmod.building_blocks.network import NetworkSpec
from nnunetv2_missmod.building_blocks.per_modality import Logits, decode_each, select_present
from nnunetv2_missmod.building_blocks.region_fusion import RegionFusionNet
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.modalities import available_modalities

RELEASED_STRIDE = 8  # of the level that L_ana compares: the released network's bottleneck, 14^3 of 112^3


class DCSegOutput(NamedTuple):
    """Output in training. Lists are finest first."""

    logits: Logits  # of D_fuse, (B, K, *patch) and coarser
    separate_logits: Logits  # of D_sep, (B * M, K, *patch) or (B * k, ...) and coarser, sample-major
    region_logits: list[Tensor]  # of the fusion's region maps, (B, K, *spatial) at every level
    anatomy: Tensor  # a_j at one level, (B, M, C, *spatial)
    codes: Tensor  # m_j, (B, M, D)
    reconstruction: Tensor  # (B, M, *patch)
    mu: Tensor  # AdaIN's, (B, M, C)
    sigma: Tensor


class DCSegNet(RegionFusionNet):
    """DC-Seg on a plan's topology, with F_l / sqrt(M) features in every part.

    In training every channel is encoded as it is; ``present`` acts inside the fusion alone, so that D_sep, the
    contrastive terms and the reconstruction see all that is available.

    Args:
        code_channels: length D of the style codes (paper: 8, released: 128).
        overlapping_regions: region maps are sigmoids with one more map for the background, not a softmax.
        anatomy_level: where a_j of L_ana is taken from: ``stride_8``, the level whose stride is nearest to 8, or
            ``bottleneck``.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        code_channels: int = 8,
        overlapping_regions: bool = False,
        anatomy_level: str = "stride_8",
    ):
        super().__init__(spec, "DC-Seg", overlapping_regions, merge_width="half")
        check_choice("anatomy_level", anatomy_level, ("stride_8", "bottleneck"))
        self.anatomy_level = (
            -1 if anatomy_level == "bottleneck" else level_of_stride(spec.architecture, RELEASED_STRIDE)
        )
        modalities, narrow = range(spec.num_modalities), spec.architecture.for_each_of(spec.num_modalities)
        self.modality_encoders = nn.ModuleList(ModalityEncoder(narrow, code_channels) for _ in modalities)
        self.reconstruction_decoders = nn.ModuleList(ReconstructionDecoder(narrow, code_channels) for _ in modalities)

    def forward(
        self, images: Tensor, present: Tensor | None = None, alone: Tensor | None = None
    ) -> Tensor | list[Tensor] | DCSegOutput:
        """Segment images (B, M, *patch) from the modalities present (B, M), see ``MissingModalityNetwork``.

        ``alone`` (B, k) are the modalities of each sample that D_sep segments in training; None: each of the M.
        """
        present = available_modalities(images) if present is None else present
        anatomy = self.encode(images)
        if not self.training:
            return self.segment(anatomy, present)
        separate_logits = decode_each(self.separate_decoder, anatomy, alone)
        compared, seen = anatomy[self.anatomy_level], select_present(anatomy, present)
        del anatomy  # frees its large maps before the fusion
        logits, region_logits, fused_bottleneck = self.fuse_and_decode(seen)
        codes = torch.stack([e(images[:, m : m + 1]) for m, e in enumerate(self.modality_encoders)], 1)
        rebuilt = [d(fused_bottleneck, codes[:, m]) for m, d in enumerate(self.reconstruction_decoders)]
        reconstruction, mu, sigma = (torch.stack(parts, 1) for parts in zip(*rebuilt, strict=True))
        return DCSegOutput(logits, separate_logits, region_logits, compared, codes, reconstruction, mu, sigma)


def level_of_stride(architecture: Architecture, stride: int) -> int:
    """Find the level, 0 is the finest, whose stride is nearest in ratio: of its axes' geometric mean, deeper of two."""
    levels = range(len(architecture.features))
    volumes = accumulate((math.prod(architecture.stride_to(level)) for level in levels), operator.mul)
    # Of a voxel's volume, not of its side: exact where strides are powers of two, so that ties are ties.
    wanted = architecture.dimensions * math.log2(stride)
    distances = [abs(math.log2(volume) - wanted) for volume in volumes]
    return max(level for level, distance in enumerate(distances) if distance == min(distances))
