"""Which subsets of a model's modalities to look at, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from nnunetv2_missmod.modalities import JOIN, MAX_ENUMERATED_MODALITIES, all_subsets, name_of_channels, subset_name

AVAILABLE, ALL, SINGLES = "available", "all", "singles"


class ChosenSubsets(NamedTuple):
    """Subsets of a model's modalities."""

    modalities: list[str]
    present: np.ndarray  # (S, M) bool
    sampled: bool  # some of very many
    needed: tuple[int, ...] = ()  # channels of the modalities that a dedicated model looks at; empty: at any

    @property
    def names(self) -> list[str]:
        """Name of each subset, such as ``FLAIR+T1c``."""
        return [subset_name(present, self.modalities) for present in torch.from_numpy(self.present)]

    def members(self, position: int) -> list[str]:
        """Modalities of one subset, in channel order."""
        return [name for name, is_present in zip(self.modalities, self.present[position], strict=True) if is_present]


def choose_subsets(chosen: str, modalities: Sequence[str], needed: tuple[int, ...] = ()) -> ChosenSubsets:
    """Read what ``--subsets`` asks for.

    Args:
        chosen: "all" (beyond 5 modalities a sample of them), "singles", or names such as ``FLAIR+T1c,T2``.
        modalities: their names, as ``distinct_names`` gives them.
        needed: channels of those that a dedicated model looks at: "all" are the subsets that have them.

    Raises:
        ValueError: a name is no modality, a subset is asked for twice, or one lacks what is needed.
    """
    if chosen == ALL:
        sampled = len(modalities) > MAX_ENUMERATED_MODALITIES
        subsets = with_needed(all_subsets(len(modalities)).numpy(), needed)
        return ChosenSubsets(list(modalities), subsets, sampled, needed)
    found = _read_subsets(chosen, modalities)._replace(needed=needed)
    needs = as_mask(needed, len(modalities))
    for name, present in zip(found.names, found.present, strict=True):
        if (needs & ~present).any():
            wanted = name_of_channels(needed, modalities)
            raise ValueError(
                f"Expected subsets with {wanted}, which this model was trained for alone, got {name} in --subsets. "
                f"Name subsets with {wanted}, or take a model of {name}."
            )
    return found


def with_needed(subsets: np.ndarray, needed: Sequence[int]) -> np.ndarray:
    """Leave of subsets (S, M) those with the channels that are needed, just these first."""
    if not needed:
        return subsets
    needs = as_mask(needed, subsets.shape[1])
    larger = (needs <= subsets).all(1) & (subsets != needs).any(1)
    return np.concatenate([needs[None], subsets[larger]])


def as_mask(channels: Sequence[int], num_modalities: int) -> np.ndarray:
    """(M,) bool: which modalities' channels are listed."""
    return np.isin(np.arange(num_modalities), list(channels))


def _read_subsets(chosen: str, modalities: Sequence[str]) -> ChosenSubsets:
    if chosen == SINGLES:
        return ChosenSubsets(list(modalities), np.eye(len(modalities), dtype=bool), False)
    asked = [[member.strip() for member in subset.split(JOIN)] for subset in chosen.split(",")]
    for member in (member for subset in asked for member in subset):
        if member not in modalities:
            raise ValueError(
                f"Expected --subsets {ALL}, {SINGLES}, or subsets such as {JOIN.join(modalities[:2])},{modalities[-1]} "
                f"of the modalities {', '.join(modalities)}, got {member!r} in {chosen!r}."
            )
    present = np.array([[name in subset for name in modalities] for subset in asked])
    if len(np.unique(present, axis=0)) < len(present):
        raise ValueError(
            f"Expected every subset once, got {chosen!r}. Name each once; the order of modalities is free."
        )
    return ChosenSubsets(list(modalities), present, False)
