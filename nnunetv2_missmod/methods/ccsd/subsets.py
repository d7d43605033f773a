"""Which subsets a step of CCSD decodes. Drawn on the CPU: how many there are shapes the step."""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import torch
from torch import Tensor

Members = tuple[int, ...]


class Subsets(NamedTuple):
    """The subsets that a step decodes with gradient, R for each sample."""

    presents: Tensor  # (B, R, M) bool; the first is the one that is segmented
    shares: Tensor  # (R, B) float32, the weight of each in HMSD's mean over a sample's subsets
    full: int | None = None  # which of the R is all that is available, for every sample; None: none is


def sample_by_size(available: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a size, uniformly and for the whole batch at once, then for each sample a subset of it uniformly.

    A sample of n modalities gets the size 1 + floor(u * n), u being drawn for the batch: what a step has to decode
    depends on the size, and no sample waits for another.

    Args:
        available: (B, M) bool on the CPU.

    Returns:
        (B, M) bool.
    """
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    size = 1 + (uniform * available.sum(1)).long()
    order = torch.rand(available.shape, generator=generator).masked_fill(~available, torch.inf).argsort(1).argsort(1)
    return order < size[:, None]


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
    others = [
        _other_students(_members(a), _members(s), uniform, limit, generator)
        for a, s in zip(available, segmented, strict=True)
    ]
    count = 1 + max(len(row) for row in others)
    presents = segmented[:, None].repeat(1, count, 1)
    shares = torch.zeros(count, len(others))
    segmented_is_student = (segmented != available).any(1).tolist()
    for sample, row in enumerate(others):
        students = max(len(row) + segmented_is_student[sample], 1)
        shares[0, sample] = segmented_is_student[sample] / students
        for number, members in enumerate(row, start=1):
            shares[number, sample] = 1 / students
            presents[sample, number] = torch.zeros_like(available[sample]).index_fill(0, torch.tensor(members), True)
    return Subsets(presents, shares, full=None if any(segmented_is_student) else 0)


def with_full_set(subsets: Subsets, available: Tensor) -> Subsets:
    """Add all that is available (B, M) to the subsets, unless it is what is segmented already."""
    if torch.equal(subsets.presents[:, 0], available):
        return subsets._replace(full=0)
    (first, others), (share, shares) = subsets.presents.tensor_split((1,), 1), subsets.shares.tensor_split((1,))
    presents = torch.cat((first, available[:, None], others), 1)
    return Subsets(presents, torch.cat((share, torch.zeros_like(share), shares)), full=1)


def _other_students(
    available: Members, segmented: Members, uniform: float, limit: int, generator: torch.Generator
) -> list[Members]:
    """List the students of one sample besides its segmented subset."""
    count, size = len(available), len(segmented)
    if count == 1:
        return []
    chosen = {segmented} if size < count else set()
    size = size if size < count else 1 + int(uniform * (count - 1))
    while len(chosen) < min(comb(count, size), limit):
        drawn = torch.randperm(count, generator=generator)[:size].tolist()
        chosen.add(tuple(sorted(available[i] for i in drawn)))
    return sorted(chosen - {segmented})


def _members(subset: Tensor) -> Members:
    return tuple(subset.nonzero().flatten().tolist())
