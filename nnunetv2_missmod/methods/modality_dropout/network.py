"""nnU-Net's own network of the plan behind the one line that makes modalities absent."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import MissingModalityNetwork
from nnunetv2_missmod.modalities import available_modalities, drop_absent


class ModalityDropoutOutput(NamedTuple):
    """Output in training: logits, a list of (B, K, *patch), finest first, under deep supervision."""

    logits: Tensor | list[Tensor]


class ModalityDropoutNet(MissingModalityNetwork):
    """The plan's U-Net; its weights carry the names that they have in nnU-Net's checkpoints."""

    def __init__(
        self,
        architecture: Architecture,
        num_modalities: int,
        num_extra_channels: int,
        num_classes: int,
        deep_supervision: bool,
    ):
        super().__init__()
        self.num_modalities = num_modalities
        unet = architecture.unet(num_modalities + num_extra_channels, num_classes, deep_supervision)
        self.encoder: nn.Module = unet.encoder
        self.decoder = unet.decoder

    def forward(self, images: Tensor, present: Tensor | None = None) -> Tensor | list[Tensor] | ModalityDropoutOutput:
        """Segment from the present modalities, see ``MissingModalityNetwork``."""
        if present is None:
            present = available_modalities(images[:, : self.num_modalities])
        logits = self.decoder(self.encoder(drop_absent(images, present)))
        return ModalityDropoutOutput(logits) if self.training else logits
