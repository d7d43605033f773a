"""Subsets whose channels nnU-Net crops and normalises by the same mask: they share a preprocessed volume."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nnunetv2_missmod.host.cropping import nonzero_mask


class Group(NamedTuple):
    """Subsets whose channels have the same non-zero mask."""

    positions: list[int]  # among all subsets
    channels: np.ndarray  # (M,) bool: all channels of these subsets


def groups_by_mask(voxels: np.ndarray, subsets: np.ndarray) -> list[Group]:
    """Group subsets (S, M) for whose channels of voxels (M, x, y, z) nnU-Net finds equal non-zero masks."""
    # nnU-Net fills the holes of a mask, which is slow. The fill of a union is that of the union of the channels' fills,
    # and most of these unions are equal: each is filled once.
    channel_masks = {channel: nonzero_mask(voxels[channel][None]) for channel in np.flatnonzero(subsets.any(0))}
    masks = DistinctMasks()
    filled = {number: number for number in map(masks.number_of, channel_masks.values())}  # union -> its fill
    groups: dict[int, Group] = {}
    for position, subset in enumerate(subsets):
        union = np.logical_or.reduce([channel_masks[channel] for channel in np.flatnonzero(subset)])
        number = masks.number_of(union)
        if number not in filled:
            filled[number] = masks.number_of(nonzero_mask(union[None]))
        group = groups.setdefault(filled[number], Group([], np.zeros_like(subset)))
        group.positions.append(position)
        group.channels[:] |= subset
    return list(groups.values())


class DistinctMasks:
    """Gives masks numbers: equal ones the same."""

    def __init__(self) -> None:
        self.known: list[np.ndarray] = []  # eight voxels in a byte

    def number_of(self, mask: np.ndarray) -> int:
        """Number a mask (x, y, z) bool."""
        packed = np.packbits(mask)
        for number, other in enumerate(self.known):
            if np.array_equal(packed, other):
                return number
        self.known.append(packed)
        return len(self.known) - 1
