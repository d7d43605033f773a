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
    count = available.sum(1, keepdim=True)
    uniform = torch.rand(count.shape, generator=generator, device=available.device)
    kept = 1 + (uniform * count).long().clamp(max=count - 1)
    score = torch.rand(available.shape, generator=generator, device=available.device)
    rank = torch.where(available, score, 2).argsort(1).argsort(1)
    return available & (rank < kept)


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
