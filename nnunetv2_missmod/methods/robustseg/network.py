"""The network of RobustSeg: content encoders, gated fusion, and the parts that only training needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.disentangling import ModalityEncoder, ReconstructionDecoder
from nnunetv2_missmod.building_blocks.network import NetworkSpec
from nnunetv2_missmod.building_blocks.per_modality import Logits, PerModalityNet, encode_each, select_present
from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.methods.robustseg.fusion import GatedFusion
from nnunetv2_missmod.modalities import available_modalities


class RobustSegOutput(NamedTuple):
    """Output in training."""

    logits: Tensor | list[Tensor]  # (B, K, *patch), a list of them, finest first, under deep supervision
    reconstruction: Tensor  # of every modality from the fused content and its own code, (B, M, *patch)
    mu: Tensor  # AdaIN's, (B, M, C)
    sigma: Tensor


class RobustSegNet(PerModalityNet):
    """RobustSeg on a plan's topology, with F_l / sqrt(M) features in every part.

    In training every channel is encoded as it is; ``present`` acts inside the fusion alone, so that a modality that was
    dropped is rebuilt from the others' content and its own code.

    Args:
        code_channels: length of the appearance codes (released code: 8).
        fusion: "gates", or "concat", which lets all content through.
        gate_norm: whether the plan's norm stands before the gates' sigmoid (released code).
    """

    def __init__(self, spec: NetworkSpec, *, code_channels: int = 8, fusion: str = "gates", gate_norm: bool = True):
        super().__init__(spec)
        spec.refuse_cascade("RobustSeg")
        check_choice("fusion", fusion, ("gates", "concat"))
        narrow, modalities = spec.architecture.for_each_of(spec.num_modalities), range(spec.num_modalities)
        self.content_encoders = nn.ModuleList(narrow.encoder(1) for _ in modalities)
        self.fusions = nn.ModuleList(
            GatedFusion(narrow, level, spec.num_modalities, fusion == "gates", gate_norm)
            for level in range(len(narrow.features))
        )
        self.decoder = narrow.decoder(spec.num_classes, spec.deep_supervision)
        self.appearance_encoders = nn.ModuleList(ModalityEncoder(narrow, code_channels) for _ in modalities)
        self.reconstruction_decoders = nn.ModuleList(ReconstructionDecoder(narrow, code_channels) for _ in modalities)

    def forward(self, images: Tensor, present: Tensor | None = None) -> Tensor | list[Tensor] | RobustSegOutput:
        """Segment images (B, M, *patch) from the modalities present (B, M), see ``MissingModalityNetwork``."""
        present = available_modalities(images) if present is None else present
        fused = self.fuse(self.encode(images), present)
        logits: Tensor | list[Tensor] = self.decoder(fused)
        if not self.training:
            return logits
        codes = [encoder(images[:, m : m + 1]) for m, encoder in enumerate(self.appearance_encoders)]
        rebuilt = [decoder(fused[-1], code) for decoder, code in zip(self.reconstruction_decoders, codes, strict=True)]
        return RobustSegOutput(logits, *(torch.stack(parts, 1) for parts in zip(*rebuilt, strict=True)))

    def encode(self, images: Tensor) -> list[Tensor]:
        """Encode the content of each modality: images (B, M, *patch) to levels (B, M, C_l, *spatial), finest first."""
        return encode_each(self.content_encoders, images)

    def fuse(self, content: list[Tensor], present: Tensor) -> list[Tensor]:
        """Fuse the modalities present (B, M) at every level: (B, C_l, *spatial), finest first."""
        seen = select_present(content, present)  # absent means absent
        return [recompute(fusion, level) for fusion, level in zip(self.fusions, seen, strict=True)]

    def segment(self, encoded: list[Tensor], present: Tensor) -> Logits:
        """Segment from a subset (B, M) of the encoded content."""
        logits: Logits = self.decoder(self.fuse(encoded, present))
        return logits
