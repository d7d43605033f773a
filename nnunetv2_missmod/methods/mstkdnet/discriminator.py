"""The discriminator of MST-KDNet, which tells the student's features from the teacher's."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.func import functional_call

from nnunetv2_missmod.building_blocks.architecture import Architecture

CHANNELS = (64, 128, 256)  # released code
SLOPE = 0.2  # of LeakyReLU


class Discriminator(nn.Module):
    """D: f_enc&t (B, C, *spatial) to one logit (B, 1), high for the student's.

    Kernel 3 and a pooled head serve maps of any size; the released ones (kernel 4; a head of 2 x 3 x 2) fit one patch.
    """

    def __init__(self, architecture: Architecture, channels: int):
        super().__init__()
        conv_op = architecture.resolved["conv_op"]
        inputs = (channels, *CHANNELS[:-1])
        layers = [(conv_op(i, o, 3, 2, 1), nn.LeakyReLU(SLOPE)) for i, o in zip(inputs, CHANNELS, strict=True)]
        self.convs = nn.Sequential(*(module for layer in layers for module in layer))
        self.head = nn.Linear(CHANNELS[-1], 1)

    def forward(self, style: Tensor) -> Tensor:
        """Judge features (B, C, *spatial): one logit each, (B, 1)."""
        verdict: Tensor = self.head(self.convs(style).flatten(2).mean(2))
        return verdict

    def judge(self, style: Tensor) -> Tensor:
        """Judge features (B, C, *spatial) whose gradient is wanted: its own weights get none."""
        constant = {name: weight.detach() for name, weight in self.named_parameters()}
        return cast(Tensor, functional_call(self, constant, (style,)))
