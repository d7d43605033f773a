"""Networks that encode each modality by itself, once for all subsets, their parts, and each modality's own loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import MissingModalityNetwork, finest
from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.modalities import expand_to

Logits = Tensor | list[Tensor]  # (B, K, *patch); under deep supervision a list of them, finest first


class PerModalityNet(MissingModalityNetwork):
    """Base of networks whose encoders work per modality; a subclass fills ``encode`` and ``segment``."""

    def encode(self, images: Tensor) -> Any:
        """Compute from images (B, M, *patch) what does not depend on a subset."""
        raise NotImplementedError

    def segment(self, encoded: Any, present: Tensor) -> Logits:
        """Segment from a subset (B, M) of what was encoded; nothing of an absent modality reaches the logits."""
        raise NotImplementedError

    def forward_subsets(self, images: Tensor, presents: Tensor) -> Tensor:
        """Predict from subsets (S, M), see ``MissingModalityNetwork``: each modality is encoded once."""
        encoded = self.encode(images)
        return torch.stack([finest(self.segment(encoded, present.expand(len(images), -1))) for present in presents])


def encode_each(encoders: Iterable[nn.Module], images: Tensor) -> list[Tensor]:
    """Encode each modality by its own encoder: images (B, M, *patch) to levels (B, M, C_l, *spatial), finest first."""
    encoded = [encoder(images[:, m : m + 1]) for m, encoder in enumerate(encoders)]
    return [torch.stack(level, 1) for level in zip(*encoded, strict=True)]


def select_present(levels: list[Tensor], present: Tensor) -> list[Tensor]:
    """Keep the present modalities of every level (B, M, C_l, *spatial); the absent ones become zero."""
    return [torch.where(expand_to(present, level), level, 0) for level in levels]  # absent means absent


def joining(architecture: Architecture, inputs: int, widths: Sequence[int], kernel: Any) -> nn.Sequential:
    """Convolutions that join stacked maps: of kernel 1, of a level's own and again of 1, with these output channels."""
    steps = zip((inputs, *widths), widths, (1, kernel, 1), strict=False)
    return nn.Sequential(*(architecture.conv(i, o, k) for i, o, k in steps))


def decode_each(decoder: nn.Module, levels: list[Tensor], alone: Tensor | None = None) -> Logits:
    """Decode modalities alone, by one decoder, as one batch; activations are computed again in the backward pass.

    Called before what fuses the modalities, its backward pass comes after: the activations of the two are never held
    together.

    Args:
        decoder: D_sep.
        levels: (B, M, C_l, *spatial), finest first.
        alone: (B, k), the modalities of each sample that are decoded; None: each of the M.

    Returns:
        Logits of B * M samples, or B * k, sample-major.
    """
    if alone is not None:
        samples = torch.arange(len(alone), device=alone.device)[:, None]
        levels = [level[samples, alone] for level in levels]
    logits: Logits = recompute(decoder, [level.flatten(0, 1) for level in levels])
    return logits


def separate_loss(
    loss: Callable[..., Tensor], separate_logits: Logits, source: Tensor, target: Tensor | list[Tensor]
) -> Tensor:
    """The segmentation loss of each available modality alone, summed over M slots, or those that were decoded.

    The slot of an unavailable modality repeats one of the sample's available ones, drawn at random: shapes stay
    fixed, as compiled losses and gathers over ranks want them, and a sample's sum is, in expectation, M times the
    mean over what it has.

    Args:
        loss: the pipeline's.
        separate_logits: of ``decode_each``.
        source: (B, slots), which of a sample's logits stands in each slot: of M the modality's, see ``sample_source``.
        target: as the pipeline's loss takes it.
    """
    rows = source + source.shape[1] * torch.arange(len(source), device=source.device)[:, None]
    # One slot after the other: where the pipeline's Dice is one of a whole batch, modalities do not share it.
    losses = [loss(_samples(separate_logits, slot), target) for slot in rows.T]
    return torch.stack(losses).sum()


def _samples(levels: Logits, rows: Tensor) -> Logits:
    """Take some samples out of the outputs of every level, or of the one output without deep supervision."""
    return [level[rows] for level in levels] if isinstance(levels, list) else levels[rows]
