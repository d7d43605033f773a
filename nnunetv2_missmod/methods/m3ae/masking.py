"""What M3AE hides: whole modalities, and blocks of those that are left."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 16  # voxels of a block's side (paper), for patches of 128 voxels and more
BLOCKS_OF_A_SMALL_PATCH = 8  # along each axis: as many as 16 voxels make of 128


def block_grid(patch: Sequence[int]) -> tuple[int, ...]:
    """Count the blocks along each axis of a patch; where they do not divide it, their sides differ by one voxel."""
    smallest = BLOCK * BLOCKS_OF_A_SMALL_PATCH
    return tuple(round(side / BLOCK) if side >= smallest else min(side, BLOCKS_OF_A_SMALL_PATCH) for side in patch)


def drop_modalities(available: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Drop d of each sample's A available modalities, d uniform on 0..A-1.

    Args:
        available: (B, M) bool, at least one modality in every row.
        generator: on the device of ``available``.

    Returns:
        (B, M) bool, what is left; on the same device and without waiting for it.
    """
    kept = 1 + _below(available.sum(1, keepdim=True), generator)
    return available & (_random_ranks(available, generator) < kept)


def drop_in_two_ways(available: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw two different subsets of each sample's A available modalities; equal ones where A is 1.

    Each alone is distributed as ``drop_modalities`` has it. Their sizes follow the joint law whose marginals are
    uniform on 1..A and which never keeps all of them twice: where the first keeps fewer than A, the second keeps A with
    a chance of 1 / (A - 1); else, and where the first keeps A, its size is uniform on 1..A-1. Members are drawn
    independently, but where both subsets would be the same, the second gives one member, drawn uniformly, for one of
    those left out.

    Args:
        available: (B, M) bool, at least one modality in every row.
        generator: on the device of ``available``.

    Returns:
        Two of (B, M) bool, on the same device and without waiting for it.
    """
    count = available.sum(1, keepdim=True)
    fewer = (count - 1).clamp(min=1)
    first_kept = 1 + _below(count, generator)
    second_keeps_all = (first_kept < count) & (_below(fewer, generator) == 0)
    second_kept = torch.where(second_keeps_all, count, 1 + _below(fewer, generator))
    first = available & (_random_ranks(available, generator) < first_kept)
    rank = _random_ranks(available, generator)
    second = available & (rank < second_kept)
    swaps = (first == second).all(1, keepdim=True) & (second_kept < count)
    last_in_or_first_out = (rank == second_kept - 1) | (rank == second_kept)
    return first, second ^ (swaps & last_in_or_first_out)


def _below(limit: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw whole numbers, uniform on 0..limit-1."""
    uniform = torch.rand(limit.shape, generator=generator, device=limit.device)
    return (uniform * limit).long().clamp(max=limit - 1)


def _random_ranks(available: Tensor, generator: torch.Generator | None) -> Tensor:
    """Put the available modalities (B, M) of each sample in random order, before the others."""
    score = torch.rand(available.shape, generator=generator, device=available.device)
    return torch.where(available, score, 2).argsort(1).argsort(1)


def draw_visible_blocks(
    present: Tensor, grid: Sequence[int], visible_fraction: float, generator: torch.Generator | None = None
) -> Tensor:
    """Keep a fraction of ALL blocks of all modalities, drawn from the modalities present.

    Where these have fewer blocks than that, all of them are kept.

    Args:
        present: (B, M) bool, at least one modality in every row.
        grid: blocks along each axis.
        visible_fraction: of the M * prod(grid) blocks.
        generator: on the device of ``present``.

    Returns:
        (B, M, *grid) bool, on the same device and without waiting for it.
    """
    blocks = present[:, :, None].expand(-1, -1, math.prod(grid)).flatten(1)
    score = torch.rand(blocks.shape, generator=generator, device=present.device)
    kept = max(1, round(visible_fraction * blocks.shape[1]))
    chosen = torch.where(blocks, score, 2).topk(kept, largest=False).indices
    visible = blocks & torch.zeros_like(blocks).scatter(1, chosen, True)
    return visible.reshape(*present.shape, *grid)
