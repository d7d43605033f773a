"""The order in which DMCD removes modalities over an epoch, and whether the scores behind it tell them apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

SURE = 2.0  # standard errors: of scores that differ by chance alone, about one epoch in a hundred spreads further


class Spread(NamedTuple):
    """How far the modalities' mean scores lie apart, and how far they would by chance."""

    between: float  # standard deviation between the modalities' mean scores
    noise: float  # what it would be if they differed by the standard error of those means alone

    def __str__(self) -> str:
        return f"the modalities' mean criticality spreads by {self.between:.2g}, by chance by up to {self.chance:.2g}"

    @property
    def chance(self) -> float:
        """What the spread would seldom exceed by chance."""
        return SURE * self.noise

    @property
    def is_noise(self) -> bool:
        """Whether the scores give no order; two modalities' scores are always equal."""
        return self.between <= self.chance


class RemovalOrder:
    """What an epoch's steps say of the order; kept on the device, so that no step waits for it.

    Args:
        modalities: M.
        device: of the training.
    """

    def __init__(self, modalities: int, device: torch.device):
        self.first = torch.zeros(modalities, device=device)  # how often each was the first to be removed
        self.scores = torch.zeros(3, modalities, device=device)  # number, sum and sum of squares of the centred scores

    def clear(self) -> None:
        """Forget all."""
        self.first.zero_()
        self.scores.zero_()

    def add_path(self, states: Tensor) -> None:
        """Count what a path (B, T, M) bool removes first."""
        self.first += (states[:, :1] ^ states[:, 1:2]).sum((0, 1))

    def add_scores(self, scores: Tensor, available: Tensor) -> None:
        """Add the scores (B, M) of each sample within all that is available (B, M) bool.

        They count by their distance from the sample's mean, which alone decides the order. A sample of one modality has
        none, and one whose scores overflowed in mixed precision is left out.
        """
        scores = scores.float()
        is_finite = (scores.isfinite() | ~available).all(1, keepdim=True)
        counts = available & is_finite & (available.sum(1, keepdim=True) > 1)
        seen = torch.where(counts, scores, 0)
        centred = torch.where(counts, seen - seen.sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp(min=1), 0)
        self.scores += torch.stack((counts.float(), centred, centred.square())).sum(1)

    def over_ranks(self) -> None:
        """Add up what all ranks have seen."""
        for counter in (self.first, self.scores):
            dist.all_reduce(counter)

    def shares(self) -> list[float]:
        """Give the share of each modality in the first removals; empty where there was none."""
        counts = self.first.tolist()
        return [count / sum(counts) for count in counts] if sum(counts) else []

    def spread(self) -> Spread | None:
        """Compare the modalities' mean scores with their standard errors; None where two have no two scores each."""
        count, total, squares = (row.double() for row in self.scores.cpu())
        seen = count > 1
        if seen.sum() < 2:
            return None
        count, total, squares = count[seen], total[seen], squares[seen]
        mean = total / count
        error = (squares / count - mean.square()).clamp(min=0) / (count - 1)  # squared standard error of the mean
        return Spread(mean.std().item(), (error.sum() / (len(error) - 1)).sqrt().item())


def shares_of_mean(scores: Tensor, available: Tensor) -> Tensor:
    """Scale positive scores (B, M) to a mean of one over each sample's available modalities (B, M) bool.

    Gradients carry the factor of the gradient scaler, which changes during an epoch.
    """
    kept = torch.where(available, scores, 0)
    return kept * available.sum(1, keepdim=True) / kept.sum(1, keepdim=True)
