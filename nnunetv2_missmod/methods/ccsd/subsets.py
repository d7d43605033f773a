"""Which subsets a step of CCSD decodes. Drawn on the CPU: how many there are shapes the step."""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Subsets(NamedTuple):
    """The subsets that a step decodes with gradient, R for each sample."""

    presents: Tensor  # (R, B, M) bool; the first is the one that is segmented
    shares: Tensor  # (R, B) float32, the weight of each in HMSD's mean over a sample's subsets
    full: int | None = None  # which of the R is all that is available, for every sample; None: none is


def draw_students(available: Tensor, segmented: Tensor, limit: int, generator: torch.Generator) -> Subsets:
    """Draw HMSD's students: for each sample all subsets of one size k < n, or ``limit`` of them drawn uniformly.

    k is the size of the segmented subset, which thereby is one of the students and decoded once for both terms; where
    that one is all the sample has, k is drawn uniformly, for the whole batch at once. (Sizes of 1..n being equally
    likely, so are those of 1..n - 1.) A sample of one modality has no student. One with fewer students than the others
    is filled up with its segmented subset, at no weight.

    Args:
        available: (B, M) bool on the CPU.
        segmented: (B, M) bool, the subset that is segmented.
        limit: of subsets in a sample's mean; 0 for the segmented subset alone.
    """
    uniform = float(torch.rand((), generator=generator, dtype=torch.float64))
    of_samples = [
        torch.cat((s[None], _other_students(a, s, uniform, limit, generator)))
        for a, s in zip(available, segmented, strict=True)
    ]
    presents = pad_sequence(of_samples)  # with empty sets
    is_student = presents.any(2)
    is_student[0] = (segmented != available).any(1)
    shares = is_student / is_student.sum(0).clamp(min=1)
    presents = torch.where(presents.any(2, keepdim=True), presents, segmented)
    return Subsets(presents, shares, full=0 if torch.equal(segmented, available) else None)


def with_full_set(subsets: Subsets, available: Tensor) -> Subsets:
    """Add all that is available (B, M) to the subsets, unless it is what is segmented already."""
    if torch.equal(subsets.presents[0], available):
        return subsets._replace(full=0)
    (first, others), (share, shares) = (part.tensor_split((1,)) for part in (subsets.presents, subsets.shares))
    return Subsets(
        torch.cat((first, available[None], others)), torch.cat((share, torch.zeros_like(share), shares)), full=1
    )


def _other_students(
    available: Tensor, segmented: Tensor, uniform: float, limit: int, generator: torch.Generator
) -> Tensor:
    """Draw the students (R, M) of one sample, of (M,) available modalities, besides its segmented subset."""
    modalities, first = (tuple(subset.nonzero().flatten().tolist()) for subset in (available, segmented))
    count, size = len(modalities), len(first)
    chosen = {first} if size < count else set()
    size = size if size < count else 1 + int(uniform * (count - 1))
    wanted = min(comb(count, size), limit) if count > 1 else 0
    while len(chosen) < wanted:
        drawn = torch.randperm(count, generator=generator)[:size].tolist()
        chosen.add(tuple(sorted(modalities[i] for i in drawn)))
    members = sorted(chosen - {first})
    rows = [[m in subset for m in range(len(available))] for subset in members]
    return torch.tensor(rows, dtype=torch.bool).view(-1, len(available))
