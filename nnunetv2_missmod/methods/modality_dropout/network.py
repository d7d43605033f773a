"""nnU-Net's own network of the plan behind the one line that makes modalities absent."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.network import MissingModalityNetwork, NetworkSpec
from nnunetv2_missmod.modalities import available_modalities, drop_absent


class ModalityDropoutOutput(NamedTuple):
    """Output in training: logits, a list of (B, K, *patch), finest first, under deep supervision."""

    logits: Tensor | list[Tensor]


class ModalityDropoutNet(MissingModalityNetwork):
    """The plan's U-Net; its weights carry the names that they have in nnU-Net's checkpoints."""

    def __init__(self, spec: NetworkSpec):
        super().__init__(spec)
        unet = spec.unet()
        self.encoder: nn.Module = unet.encoder
        self.decoder = unet.decoder

    def forward(self, images: Tensor, present: Tensor | None = None) -> Tensor | list[Tensor] | ModalityDropoutOutput:
        """Segment images (B, M + extra, *patch) from the modalities present (B, M), see ``MissingModalityNetwork``."""
        if present is None:
            present = available_modalities(images[:, : self.num_modalities])
        logits = self.decoder(self.encoder(drop_absent(images, present)))
        return ModalityDropoutOutput(logits) if self.training else logits
