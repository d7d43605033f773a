"""The discriminator of MST-KDNet, which tells the student's features from the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.discriminator import CHANNELS, Discriminator


class StyleDiscriminator(Discriminator):
    """D: f_enc&t (B, C, *spatial) to one logit (B, 1), high for the student's.

    Kernel 3 and a pooled head serve maps of any size; the released ones (kernel 4; a head of 2 x 3 x 2) fit one patch.
    """

    def __init__(self, architecture: Architecture, channels: int):
        super().__init__(architecture, channels)
        self.head = nn.Linear(CHANNELS[-1], 1)

    def forward(self, style: Tensor) -> Tensor:
        """Judge features (B, C, *spatial): one logit each, (B, 1)."""
        verdict: Tensor = self.head(self.convs(style).flatten(2).mean(2))
        return verdict
