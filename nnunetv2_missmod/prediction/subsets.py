"""Which subsets of a model's modalities to look at, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from nnunetv2_missmod.modalities import JOIN, MAX_ENUMERATED_MODALITIES, all_subsets, subset_name

AVAILABLE, ALL, SINGLES = "available", "all", "singles"


class ChosenSubsets(NamedTuple):
    """Subsets of a model's modalities."""

    modalities: list[str]
    present: np.ndarray  # (S, M) bool
    sampled: bool  # some of very many

    @property
    def names(self) -> list[str]:
        """Name of each subset, such as ``FLAIR+T1c``."""
        return [subset_name(present, self.modalities) for present in torch.from_numpy(self.present)]

    def members(self, position: int) -> list[str]:
        """Modalities of one subset, in channel order."""
        return [name for name, is_present in zip(self.modalities, self.present[position], strict=True) if is_present]


def choose_subsets(chosen: str, modalities: Sequence[str]) -> ChosenSubsets:
    """Read what ``--subsets`` asks for.

    Args:
        chosen: "all" (beyond 5 modalities a sample of them), "singles", or names such as ``FLAIR+T1c,T2``.
        modalities: their names, as ``distinct_names`` gives them.

    Raises:
        ValueError: a name is no modality, or a subset is asked for twice.
    """
    if chosen == ALL:
        return ChosenSubsets(
            list(modalities), all_subsets(len(modalities)).numpy(), len(modalities) > MAX_ENUMERATED_MODALITIES
        )
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
