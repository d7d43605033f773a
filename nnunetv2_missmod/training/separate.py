"""Training in which modalities segment alone, each from its own features, beside what is segmented from a subset."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_missmod.building_blocks.per_modality import Logits, separate_loss
from nnunetv2_missmod.modalities import sample_source
from nnunetv2_missmod.training.trainer import MissingModalityTrainer


class Alone(NamedTuple):
    """Which modalities of each sample segment alone in a step."""

    decoded: Tensor | None  # (B, k), for ``decode_each``
    source: Tensor  # (B, slots), for ``separate_loss``
    num_modalities: int


class SeparateTrainer(MissingModalityTrainer):
    """Base of trainers whose encoders, each a modality's, must all be good enough to segment by themselves."""

    separate_weight: float  # of the sum over modalities
    separate_modalities = 0  # that segment alone in a step, drawn; 0: all

    def draw_alone(self, available: Tensor) -> Alone:
        """Draw the modalities that segment alone, of what each sample has (B, M).

        Fewer than M cost as much less; scaled up, their sum is in expectation that of all. They are the same for the
        whole batch (of each GPU): where the pipeline's Dice is one of a batch, mixed ones would be another loss.
        """
        source = sample_source(available, self.generator)
        few, every = self.separate_modalities, source.shape[1]
        if not 0 < few < every:
            return Alone(None, source, every)
        drawn = torch.rand(every, generator=self.generator, device=source.device).argsort()[:few]
        slots = torch.arange(few, device=source.device).expand(len(source), -1)
        return Alone(source[:, drawn], slots, every)

    def separate_term(self, logits: Logits, alone: Alone, target: Tensor | list[Tensor]) -> Tensor:
        """Weigh the segmentation loss of those modalities, see ``separate_loss``."""
        scale = alone.num_modalities / alone.source.shape[1]
        return self.separate_weight * scale * separate_loss(self.loss, logits, alone.source, target)
