"""The network of DC-Seg: anatomy encoders, region-aware fusion, and the parts that only training needs."""

from __future__ import annotations

import math
import operator
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import MissingModalityNetwork, NetworkSpec
from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.host.unet import decoder_steps
from nnunetv2_missmod.methods.dcseg.fusion import RegionAwareFusion
from nnunetv2_missmod.modalities import available_modalities, expand_to

ADAIN_EPS = 1e-5
RELEASED_STRIDE = 8  # of the level that L_ana compares: the released network's bottleneck, 14^3 of 112^3
NARROWEST = 8  # channels that a level of the reconstruction decoders has at least


class DCSegOutput(NamedTuple):
    """Output in training. Lists are finest first."""

    logits: Tensor | list[Tensor]  # of D_fuse, (B, K, *patch) and coarser
    separate_logits: list[Tensor]  # of D_sep, (B * M, K, *patch) and coarser, sample-major
    region_logits: list[Tensor]  # of the fusion's region maps, (B, K, *spatial) at every level
    anatomy: Tensor  # a_j at one level, (B, M, C, *spatial)
    codes: Tensor  # m_j, (B, M, D)
    reconstruction: Tensor  # (B, M, *patch)
    mu: Tensor  # AdaIN's, (B, M, C)
    sigma: Tensor


class DCSegNet(MissingModalityNetwork):
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
        super().__init__(spec)
        spec.refuse_cascade("DC-Seg")
        check_choice("anatomy_level", anatomy_level, ("stride_8", "bottleneck"))
        self.anatomy_level = (
            -1 if anatomy_level == "bottleneck" else level_of_stride(spec.architecture, RELEASED_STRIDE)
        )
        num_modalities, num_classes = spec.num_modalities, spec.num_classes
        narrow = spec.architecture.for_each_of(num_modalities)
        self.anatomy_encoders = nn.ModuleList(narrow.encoder(1) for _ in range(num_modalities))
        self.fusions = nn.ModuleList(
            RegionAwareFusion(narrow, level, num_modalities, num_classes, overlapping_regions)
            for level in range(len(narrow.features))
        )
        self.decoder = narrow.decoder(num_classes, spec.deep_supervision)
        self.separate_decoder = narrow.decoder(num_classes, spec.deep_supervision)
        self.modality_encoders = nn.ModuleList(ModalityEncoder(narrow, code_channels) for _ in range(num_modalities))
        self.reconstruction_decoders = nn.ModuleList(
            ReconstructionDecoder(narrow, code_channels) for _ in range(num_modalities)
        )

    def forward(self, images: Tensor, present: Tensor | None = None) -> Tensor | list[Tensor] | DCSegOutput:
        """Segment images (B, M, *patch) from the modalities present (B, M), see ``MissingModalityNetwork``."""
        present = available_modalities(images) if present is None else present
        anatomy = self.encode(images)
        if not self.training:
            return self.fuse_and_decode(select_present(anatomy, present))[0]
        # Before the fusion, so that its backward pass comes after: the activations of the two are never held together.
        separate_logits = recompute(self.separate_decoder, [level.flatten(0, 1) for level in anatomy])
        compared, seen = anatomy[self.anatomy_level], select_present(anatomy, present)
        del anatomy  # frees its large maps before the fusion
        logits, region_logits, fused_bottleneck = self.fuse_and_decode(seen)
        codes = torch.stack([e(images[:, m : m + 1]) for m, e in enumerate(self.modality_encoders)], 1)
        rebuilt = [d(fused_bottleneck, codes[:, m]) for m, d in enumerate(self.reconstruction_decoders)]
        reconstruction, mu, sigma = (torch.stack(parts, 1) for parts in zip(*rebuilt, strict=True))
        return DCSegOutput(logits, separate_logits, region_logits, compared, codes, reconstruction, mu, sigma)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Encode each modality on its own: images (B, M, *patch) to levels (B, M, C_l, *spatial), finest first."""
        encoded = [e(images[:, m : m + 1]) for m, e in enumerate(self.anatomy_encoders)]
        return [torch.stack(level, 1) for level in zip(*encoded, strict=True)]

    def fuse_and_decode(self, levels: list[Tensor]) -> tuple[Tensor | list[Tensor], list[Tensor], Tensor]:
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

    def forward_subsets(self, images: Tensor, presents: Tensor) -> Tensor:
        """Predict from subsets (S, M), see ``MissingModalityNetwork``: each modality is encoded once."""
        anatomy = self.encode(images)
        selected = (select_present(anatomy, present.expand(len(images), -1)) for present in presents)
        logits: list[Any] = [self.fuse_and_decode(levels)[0] for levels in selected]
        return torch.stack(logits)


def level_of_stride(architecture: Architecture, stride: int) -> int:
    """Find the level, 0 is the finest, whose stride is nearest in ratio: of its axes' geometric mean, deeper of two."""
    levels = range(len(architecture.features))
    volumes = accumulate((math.prod(architecture.stride_to(level)) for level in levels), operator.mul)
    # Of a voxel's volume, not of its side: exact where strides are powers of two, so that ties are ties.
    wanted = architecture.dimensions * math.log2(stride)
    distances = [abs(math.log2(volume) - wanted) for volume in volumes]
    return max(level for level, distance in enumerate(distances) if distance == min(distances))


def select_present(anatomy: list[Tensor], present: Tensor) -> list[Tensor]:
    """Keep the present modalities of every level (B, M, C_l, *spatial); the absent ones become zero."""
    return [torch.where(expand_to(present, level), level, 0) for level in anatomy]  # absent means absent


class ModalityEncoder(nn.Module):
    """E_j^mod: image (B, 1, *patch) to style code (B, D). No norm: intensity statistics are the style."""

    def __init__(self, architecture: Architecture, code_channels: int):
        super().__init__()
        features = [architecture.features[0] * 2**i for i in range(3)]
        inputs = [1, *features[:-1]]
        self.convs = nn.Sequential(
            *(architecture.conv(i, o, 3, 2, norm=False) for i, o in zip(inputs, features, strict=True))
        )
        self.code = nn.Linear(features[-1], code_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Encode the style of one modality (B, 1, *patch) in a code (B, D)."""
        code: Tensor = self.code(self.convs(image).flatten(2).mean(2))
        return code


class ReconstructionDecoder(nn.Module):
    """D_j^rec: fused anatomy z with the style of one modality back to its image. Used in training alone."""

    def __init__(self, architecture: Architecture, code_channels: int):
        super().__init__()
        width = max(architecture.features[-1] // 2, NARROWEST)
        self.reduce = architecture.projection(architecture.features[-1], width)
        self.style = nn.Sequential(nn.Linear(code_channels, width), nn.LeakyReLU(), nn.Linear(width, 2 * width))
        self.residual = nn.ModuleList(architecture.conv(width, width, norm=False) for _ in range(2))
        self.strides = [tuple(s) if isinstance(s, (list, tuple)) else s for s in architecture.strides[:0:-1]]
        kernels = architecture.kernel_sizes[-2::-1]
        widths = [max(width // 4**level, NARROWEST) for level in range(len(self.strides))]
        self.upsampling = nn.ModuleList(
            architecture.conv(i, o, k, norm=False) for i, o, k in zip(widths, widths[1:], kernels, strict=False)
        )
        self.image = architecture.projection(widths[-1], 1, kernels[-1])

    def forward(self, fused: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rebuild one modality.

        Args:
            fused: z, (B, C, *spatial).
            code: m_j, (B, D).

        Returns:
            Image (B, *patch), and AdaIN's mu and sigma, each (B, C / 2).
        """
        mu, log_sigma = self.style(code).float().chunk(2, 1)
        sigma = F.softplus(log_sigma)
        features = adain(self.reduce(fused).float(), mu, sigma)
        for conv in self.residual:
            features = features + conv(features)
        for stride, conv in zip(self.strides, [*self.upsampling, self.image], strict=True):
            features = conv(F.interpolate(features, scale_factor=stride, mode="nearest"))
        return features[:, 0], mu, sigma


def adain(content: Tensor, mu: Tensor, sigma: Tensor, eps: float = ADAIN_EPS) -> Tensor:
    """Adaptive instance normalisation: give each channel of each sample the mean mu and standard deviation sigma.

    Args:
        content: (B, C, *spatial) float32.
        mu, sigma: (B, C).
        eps: added to the variance, which a blank patch leaves at zero.
    """
    axes = tuple(range(2, content.ndim))
    variance, mean = torch.var_mean(content, axes, keepdim=True)
    return expand_to(sigma, content) * (content - mean) * torch.rsqrt(variance + eps) + expand_to(mu, content)
