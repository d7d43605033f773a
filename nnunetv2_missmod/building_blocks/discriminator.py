"""Discriminators: networks that tell what one network gives from what another does, and that are to be fooled."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.func import functional_call

from nnunetv2_missmod.building_blocks.architecture import Architecture

CHANNELS = (64, 128, 256)
SLOPE = 0.2  # of LeakyReLU


class Discriminator(nn.Module):
    """Three convolutions of stride 2, ``convs``; a subclass adds what makes verdicts of their maps.

    Kernel 3 serves maps of any size.

    Args:
        architecture: of the plan; its dimensions alone count.
        channels: of the maps to judge.
    """

    def __init__(self, architecture: Architecture, channels: int):
        super().__init__()
        conv_op = architecture.resolved["conv_op"]
        inputs = (channels, *CHANNELS[:-1])
        layers = [(conv_op(i, o, 3, 2, 1), nn.LeakyReLU(SLOPE)) for i, o in zip(inputs, CHANNELS, strict=True)]
        self.convs = nn.Sequential(*(module for layer in layers for module in layer))

    def judge(self, maps: Tensor) -> Tensor:
        """Judge maps (B, C, *spatial) whose gradient is wanted: its own weights get none."""
        constant = {name: weight.detach() for name, weight in self.named_parameters()}
        return cast(Tensor, functional_call(self, constant, (maps,)))
