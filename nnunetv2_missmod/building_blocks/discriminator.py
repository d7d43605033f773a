"""Discriminators: networks that tell what one network gives from what another does, and that are to be fooled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.matching import mean_over
from nnunetv2_missmod.building_blocks.network import unwrapped

CHANNELS = (64, 128, 256)
STRIDES = (2, 2, 2)
SLOPE = 0.2  # of LeakyReLU


class Discriminator(nn.Module):
    """Three convolutions, ``convs``; a subclass adds what makes verdicts of their maps.

    Kernel 3 serves maps of any size.

    Args:
        architecture: of the plan; its dimensions alone count.
        channels: of the maps to judge.
        strides: of the convolutions.
    """

    def __init__(self, architecture: Architecture, channels: int, strides: Sequence[Any] = STRIDES):
        super().__init__()
        conv_op = architecture.resolved["conv_op"]
        sizes = zip((channels, *CHANNELS[:-1]), CHANNELS, strides, strict=True)
        layers = [(conv_op(i, o, 3, stride, 1), nn.LeakyReLU(SLOPE)) for i, o, stride in sizes]
        self.convs = nn.Sequential(*(module for layer in layers for module in layer))

    def judge(self, maps: Tensor) -> Tensor:
        """Judge maps (B, C, *spatial) whose gradient is wanted: its own weights get none."""
        constant = {name: weight.detach() for name, weight in self.named_parameters()}
        return cast(Tensor, functional_call(self, constant, (maps,)))


class PooledDiscriminator(Discriminator):
    """Maps (B, C, *spatial) to one logit each (B, 1), high for the student's: a linear head on the mean over space."""

    def __init__(self, architecture: Architecture, channels: int, strides: Sequence[Any] = STRIDES):
        super().__init__(architecture, channels, strides)
        self.head = nn.Linear(CHANNELS[-1], 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Judge maps (B, C, *spatial): one logit each, (B, 1)."""
        verdict: Tensor = self.head(self.convs(maps).flatten(2).mean(2))
        return verdict


def play(
    discriminator: nn.Module, full: Tensor, missing: Tensor, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Play student against discriminator: each of the two losses has gradients for one of them alone.

    Args:
        discriminator: as it learns, under DDP too.
        full, missing: maps of teacher and student, (B, C, *spatial).
        counts: (B,) bool, the samples that do; all of them if not given.

    Returns:
        The student's loss, see ``adversarial_loss``, and the discriminator's.
    """
    of_full, of_missing = discriminator(torch.cat((full, missing)).detach()).chunk(2)
    as_judged = unwrapped(discriminator).judge(missing)
    return adversarial_loss(as_judged, counts), discriminator_loss(of_full, of_missing, counts)


def adversarial_loss(missing: Tensor, counts: Tensor | None = None) -> Tensor:
    """BCE(D(missing), 0): what the student pays for being told from the teacher.

    Args:
        missing: the discriminator's logits (B, 1).
        counts: (B,) bool, the samples that do; all of them if not given.
    """
    return mean_over(F.softplus(missing), counts)


def discriminator_loss(full: Tensor, missing: Tensor, counts: Tensor | None = None) -> Tensor:
    """BCE(D(full), 0) + BCE(D(missing), 1), of logits (B, 1); ``counts`` as in ``adversarial_loss``."""
    return mean_over(F.softplus(full), counts) + mean_over(F.softplus(-missing), counts)
