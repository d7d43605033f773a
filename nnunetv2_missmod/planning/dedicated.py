"""Plans of dedicated trainers: one for each subset of the modalities, alike in all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2_missmod.files.dataset_json import distinct_names
from nnunetv2_missmod.modalities import (
    MAX_ENUMERATED_MODALITIES,
    all_subsets,
    channels_of_subset,
    name_of_channels,
    subset_name,
)
from nnunetv2_missmod.planning.dataset import PlannedDataset, find_stages
from nnunetv2_missmod.planning.fragments import merge_fragment
from nnunetv2_missmod.training.dedicated import DedicatedTrainer

ALL = "all"


def read_subsets(asked: Sequence[str], trainer: type, dataset: PlannedDataset) -> list[str]:
    """Read what ``--subset`` asks for, the largest first: a plan for it has room for the others.

    Args:
        asked: names such as ``FLAIR+T1c``, or "all".
        trainer: that the plans are for.
        dataset: whose modalities they name.

    Returns:
        Each subset's name, its modalities in the order of the channels.

    Raises:
        ValueError: the trainer serves any subset, a name is no modality, a subset is asked for twice, or all of very
            many.
    """
    if not asked:
        return []
    if not issubclass(trainer, DedicatedTrainer):
        raise ValueError(
            f"Expected --subset for a trainer of one subset, got -tr {trainer.__name__}, which serves any. Leave "
            "--subset out."
        )
    modalities = distinct_names(dataset.json)
    if ALL in asked and len(modalities) > MAX_ENUMERATED_MODALITIES:
        raise ValueError(
            f"Expected --subset with names, got {ALL} of {len(modalities)} modalities: {2 ** len(modalities) - 1} "
            "trainings. Name those that you need."
        )
    every = [subset_name(present, modalities) for present in all_subsets(len(modalities))] if ALL in asked else asked
    chosen = [channels_of_subset(name, modalities) for name in every]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"Expected every subset once, got --subset {' '.join(asked)}. Name each once.")
    largest_first = sorted(chosen, key=len, reverse=True)
    return [name_of_channels(channels, modalities) for channels in largest_first]


def subset_to_train(trainer: str, asked: str | None, modalities: Sequence[str], default: str) -> str:
    """Name the subset that a trainer is to be for; empty for one of every subset.

    Args:
        trainer: by name.
        asked: the subset that was asked for, or None.
        modalities: their names.
        default: what a dedicated trainer is for if nothing was asked for.

    Raises:
        ValueError: there is no such trainer, the subset is none of the modalities, or one is asked for that is not
            needed.
    """
    if issubclass(find_stages(trainer)[-1], DedicatedTrainer):
        return name_of_channels(channels_of_subset(asked or default, modalities), modalities)
    if asked is not None:
        raise ValueError(f"Expected --subset for a trainer of one subset, got -tr {trainer}. Leave --subset out.")
    return ""


def for_subset(subset: str) -> dict[str, Any]:
    """Give the fragment of a plan that names a dedicated trainer's subset; of none if it is empty."""
    return {"missmod": {"trainer": {"subset": subset}}} if subset else {}


def plan_of_subset(
    plans: Mapping[str, Any], configurations: Sequence[str], subset: str, plans_name: str
) -> dict[str, Any]:
    """Copy a plan for another subset, the same but for its name and the subset's in these configurations."""
    for configuration in configurations:
        plans = merge_fragment(plans, configuration, for_subset(subset), plans_name)
    return dict(plans)
