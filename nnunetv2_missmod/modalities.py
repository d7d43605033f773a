"""The vocabulary of missing modalities: which modalities a case has, which subset of them a network gets to see.

``available`` is what a case has; ``present`` is what the network may look at, a subset of it. Both are bool (B, M).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

JOIN = "+"  # between the modalities in a subset's name
MAX_ENUMERATED_MODALITIES = 5
MAX_SUBSETS = 2**MAX_ENUMERATED_MODALITIES - 1

# A channel that resampling has touched is constant only up to float32 rounding.
CONSTANT_TOLERANCE = 1e-5


def all_subsets(num_modalities: int, seed: int = 0) -> Tensor:
    """List the non-empty subsets of the modalities: smallest first, the full set last.

    Beyond 5 modalities, where the subsets are too many to try each, 31 of them: every single modality, the full
    set, and others drawn with ``seed``, the same on every call.

    Returns:
        (S, M) bool, S = min(2^M - 1, 31) or, when M alone is larger, M + 1.
    """
    if num_modalities < 1:
        raise ValueError(f"Expected at least one modality, got {num_modalities}.")
    if num_modalities <= MAX_ENUMERATED_MODALITIES:
        sizes = range(1, num_modalities + 1)
        members: Iterable[tuple[int, ...]] = (m for k in sizes for m in combinations(range(num_modalities), k))
    else:
        members = _sampled_subsets(num_modalities, seed)
    return torch.tensor([[m in subset for m in range(num_modalities)] for subset in members])


def _sampled_subsets(num_modalities: int, seed: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    chosen = {(m,) for m in range(num_modalities)} | {tuple(range(num_modalities))}
    everything = torch.ones(1, num_modalities, dtype=torch.bool)
    while len(chosen) < MAX_SUBSETS:
        drawn = sample_subset(everything, generator)[0]
        chosen.add(tuple(drawn.nonzero().flatten().tolist()))
    return sorted(chosen, key=lambda subset: (len(subset), subset))


def sample_subset(available: Tensor, generator: torch.Generator | None = None, one_for_all: bool = False) -> Tensor:
    """Draw one non-empty subset of the available modalities for each sample, uniformly over all of them.

    Args:
        available: (B, M) bool, at least one modality in every row.
        generator: on the device of ``available``.
        one_for_all: samples do not draw one by one; those that have the same modalities get the same subset of them.

    Returns:
        (B, M) bool, on the same device and without waiting for it.
    """
    count = available.sum(1, dtype=torch.float64)
    draws = 1 if one_for_all else len(available)
    uniform = torch.rand(draws, generator=generator, device=available.device, dtype=torch.float64)
    # A non-empty subset of n modalities is a number from 1 to 2^n - 1 whose bits say which of the n are in it.
    number = (uniform * (2**count - 1)).long() + 1
    bit = available.long().cumsum(1) - 1
    return available & (number[:, None] >> bit.clamp(min=0)).bitwise_and(1).bool()


def sample_by_size(available: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a size, uniformly and for the whole batch at once, then for each sample a subset of it uniformly.

    A sample of n modalities gets the size 1 + floor(u * n), u being drawn for the batch: where what a step has to
    decode depends on the size, no sample waits for another.

    Args:
        available: (B, M) bool, at least one modality in every row.
        generator: on the device of ``available``.

    Returns:
        (B, M) bool, on the same device and without waiting for it.
    """
    device = available.device
    uniform = torch.rand((), generator=generator, dtype=torch.float64, device=device)
    size = 1 + (uniform * available.sum(1)).long()
    score = torch.rand(available.shape, generator=generator, device=device).masked_fill(~available, torch.inf)
    return score.argsort(1).argsort(1) < size[:, None]


def sample_source(available: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Find for each modality's slot an available modality to fill it: itself, or else one drawn uniformly.

    Args:
        available: (B, M) bool, at least one modality in every row.
        generator: on the device of ``available``.

    Returns:
        (B, M) long, the index of the modality that stands in each slot.
    """
    batch, count = available.shape
    score = torch.rand((batch, count, count), generator=generator, device=available.device)
    score = score + 2 * torch.eye(count, device=available.device)  # itself, where it is available
    return torch.where(available[:, None, :], score, -1).argmax(2)


def drop_absent(images: Tensor, present: Tensor) -> Tensor:
    """Set every absent channel to zero.

    Args:
        images: (B, C, *patch) whose first M channels are the modalities; channels beyond them are kept.
        present: (B, M) bool.

    Returns:
        (B, C, *patch). Nothing of an absent channel is in it, not even NaN.
    """
    keep = F.pad(present, (0, images.shape[1] - present.shape[1]), value=True)
    return torch.where(expand_to(keep, images), images, images.new_zeros(()))


def varying_channels(images: Tensor) -> Tensor:
    """Tell which channels are not constant: a constant channel holds no image.

    Args:
        images: (B, M, *patch).

    Returns:
        (B, M) bool.
    """
    low, high = torch.aminmax(images.flatten(2), dim=2)
    # NaN and infinity make the difference NaN, which is not <= 0: such a channel is no constant.
    return ~(high - low - CONSTANT_TOLERANCE * torch.maximum(high.abs(), low.abs()) <= 0)


def available_modalities(images: Tensor) -> Tensor:
    """Find the modalities that each sample has: its channels that are not constant.

    A sample whose channels are all constant (a background patch) has every modality.

    Args:
        images: (B, M, *patch).

    Returns:
        (B, M) bool.
    """
    varies = varying_channels(images)
    return varies | ~varies.any(1, keepdim=True)


def subset_name(present: Tensor, modalities: Sequence[str]) -> str:
    """Name a subset as papers do, such as ``FLAIR+T1c``.

    Args:
        present: (M,) bool.
        modalities: the M names.
    """
    return JOIN.join(name for name, is_present in zip(modalities, present.tolist(), strict=True) if is_present)


def name_of_channels(channels: Iterable[int], modalities: Sequence[str]) -> str:
    """Name the subset of some channels as ``subset_name`` does."""
    return JOIN.join(modalities[channel] for channel in channels)


def channels_of_subset(subset: str, modalities: Sequence[str]) -> tuple[int, ...]:
    """Find the channels of a subset that is named as ``subset_name`` does, its modalities in any order.

    Args:
        subset: such as ``T1c+FLAIR``.
        modalities: the M names.

    Returns:
        The channels in ascending order.

    Raises:
        ValueError: a name is no modality, or stands there twice; the modalities are listed.
    """
    members = [member.strip() for member in subset.split(JOIN)]
    unknown = [member for member in members if member not in modalities]
    if unknown or len(set(members)) < len(members):
        raise ValueError(
            f"Expected a subset of the modalities {', '.join(modalities)}, each once and joined by {JOIN}, such as "
            f"{JOIN.join(modalities[:2])}, got {subset!r}."
        )
    return tuple(channel for channel, name in enumerate(modalities) if name in members)


def expand_to(per_modality: Tensor, maps: Tensor) -> Tensor:
    """Append axes of length one until ``per_modality`` (B, M) broadcasts against ``maps`` (B, M, ...)."""
    return per_modality.reshape(*per_modality.shape, *[1] * (maps.ndim - per_modality.ndim))
