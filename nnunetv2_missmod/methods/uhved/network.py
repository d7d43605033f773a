"""The network of U-HVED: encoders to Gaussians, their product at every level, decoders to labels and to images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import NetworkSpec
from nnunetv2_missmod.building_blocks.per_modality import Logits, PerModalityNet, encode_each
from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.host.unet import decoder_steps
from nnunetv2_missmod.methods.uhved.attention import SkipGates
from nnunetv2_missmod.methods.uhved.product import Experts, experts_of, product, sample, steady_noise
from nnunetv2_missmod.modalities import available_modalities


class UHVEDOutput(NamedTuple):
    """Output in training, of P passes: what is present, and what is available where it is given."""

    logits: Logits  # of the first pass, (B, K, *patch), a list of them, finest first, under deep supervision
    full_logits: Logits | None  # of the second
    reconstruction: Tensor  # all modalities from the first pass, (B, M, *patch)
    full_reconstruction: Tensor | None
    experts: list[Experts]  # of all modalities at every level, finest first


class UHVEDNet(PerModalityNet):
    """U-HVED on a plan's topology, with F_l / sqrt(M) features in every part and half as many latents.

    In training every channel is encoded as it is; ``present`` acts in the product alone.

    Args:
        roi_attention: RA-HVED's gates on what the steps of the segmentation's decoder join.
    """

    def __init__(self, spec: NetworkSpec, *, roi_attention: bool = False):
        super().__init__(spec)
        spec.refuse_cascade("U-HVED")
        narrow = spec.architecture.for_each_of(spec.num_modalities)
        widths = zip(latents_of(narrow), narrow.features, strict=True)
        self.encoders = nn.ModuleList(GaussianEncoder(narrow) for _ in range(spec.num_modalities))
        self.widen = nn.ModuleList(narrow.conv(latents, features, 1) for latents, features in widths)
        self.decoder = narrow.decoder(spec.num_classes, spec.deep_supervision)
        self.image_decoders = nn.ModuleList(image_decoder(narrow) for _ in range(spec.num_modalities))
        levels = range(len(narrow.features) - 2, -1, -1) if roi_attention else ()
        self.gates = nn.ModuleList(SkipGates(narrow, level) for level in levels)  # coarsest first

    def forward(
        self,
        images: Tensor,
        present: Tensor | None = None,
        noise: list[Tensor] | None = None,
        available: Tensor | None = None,
    ) -> Logits | UHVEDOutput:
        """Segment from the present modalities, see ``MissingModalityNetwork``.

        Args:
            images: (B, M, *patch).
            present: (B, M) bool.
            noise: standard normal, (P * B, L, *spatial) at each level, finest first, by which training draws from the
                Gaussians; None for their means. Prediction has noise of its own, always the same.
            available: (B, M) bool, what a second pass of training sees.
        """
        present = available_modalities(images) if present is None else present
        experts = self.encode(images)
        if not self.training:
            return self.segment(experts, present)
        skips = self.fuse(experts, [present] if available is None else [present, available], noise)
        reconstruction = torch.cat([recompute(decoder, skips) for decoder in self.image_decoders], 1)
        logits = self.decode(skips)
        if available is None:
            return UHVEDOutput(logits, None, reconstruction, None, experts)
        of_drawn, of_available = halves(logits)
        return UHVEDOutput(
            of_drawn, of_available, reconstruction[: len(images)], reconstruction[len(images) :], experts
        )

    def encode(self, images: Tensor) -> list[Experts]:
        """Encode each modality on its own, (B, M, *patch): its Gaussians at every level, finest first."""
        return [recompute(experts_of, level) for level in encode_each(self.encoders, images)]

    def fuse(self, experts: list[Experts], presents: list[Tensor], noise: list[Tensor] | None) -> list[Tensor]:
        """Multiply, draw and widen at every level: (P * B, C_l, *spatial), finest first, for P subsets (B, M)."""
        skips = []
        for level, (of_level, widen) in enumerate(zip(experts, self.widen, strict=True)):
            of_passes = None if noise is None else noise[level].chunk(len(presents))
            drawn = [
                sample(product(of_level, present), None if of_passes is None else of_passes[number])
                for number, present in enumerate(presents)
            ]
            skips.append(widen(torch.cat(drawn)))
        return skips

    def decode(self, skips: list[Tensor]) -> Logits:
        """Decode the segmentation from maps (B, C_l, *spatial), finest first."""
        if not self.gates:
            logits: Logits = self.decoder(skips)
            return logits
        features: Tensor = skips[-1]
        outputs: list[Tensor] = []
        for number, (step, gates) in enumerate(zip(decoder_steps(self.decoder), self.gates, strict=True), start=2):
            features = step.stage(torch.cat(gates(step.upsampling(features), skips[-number]), 1))
            if self.decoder.deep_supervision or number == len(skips):
                outputs.insert(0, step.head(features))
        return outputs if self.decoder.deep_supervision else outputs[0]

    def segment(self, encoded: list[Experts], present: Tensor) -> Logits:
        """Segment from a draw of a subset (B, M), whose noise is always the same.

        Not from the means: they vary less than the draws of training, which the decoder's norms make up for, so that it
        finds lesions where there are none.
        """
        noise = [steady_noise(level.precision.shape[2:], level.precision.device) for level in encoded]
        return self.decode(self.fuse(encoded, [present], noise))


class GaussianEncoder(nn.Module):
    """An encoder of one modality; nnU-Net's stages end in a nonlinearity, hence a linear head for each level.

    Without it a log variance would hardly be below zero, as LeakyReLU gives it.
    """

    def __init__(self, architecture: Architecture):
        super().__init__()
        widths = zip(architecture.features, latents_of(architecture), strict=True)
        self.encoder = architecture.encoder(1)
        self.heads = nn.ModuleList(architecture.projection(features, 2 * latents) for features, latents in widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Encode one modality (B, 1, *patch): means, then log variances, (B, 2 L, *spatial), finest first."""
        return [head(level) for head, level in zip(self.heads, self.encoder(image), strict=True)]


def latents_of(architecture: Architecture) -> list[int]:
    """Count the latent channels L of each level: half of its features (released code)."""
    return [features // 2 for features in architecture.features]


def image_decoder(architecture: Architecture) -> nn.Module:
    """Build a decoder to one image; the heads of the coarser levels, which nothing asks, do not learn."""
    decoder: nn.Module = architecture.decoder(1, False)
    for step in decoder_steps(decoder)[:-1]:
        step.head.requires_grad_(False)
    return decoder


def halves(logits: Logits) -> tuple[Logits, Logits]:
    """Take two passes of a batch apart, at every level of deep supervision."""
    if isinstance(logits, Tensor):
        first, second = logits.chunk(2)
        return first, second
    pairs = [level.chunk(2) for level in logits]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
