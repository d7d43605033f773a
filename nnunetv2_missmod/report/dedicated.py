"""Dedicated models, each trained for one subset of the modalities, as one model that serves all of these subsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from nnunetv2_missmod.report.models import Model


def join_dedicated(models: Sequence[Model]) -> list[Model]:
    """Make one model of those that one dedicated trainer made for different subsets, in the place of the first."""
    by_trainer: dict[object, list[Model]] = {}
    for model in models:
        key = model.provenance.trainer if model.is_dedicated else model.folder
        by_trainer.setdefault(key, []).append(model)
    return [join(parts) if len(parts) > 1 else parts[0] for parts in by_trainer.values()]


def join(parts: Sequence[Model]) -> Model:
    """Make one model of dedicated ones: of each the scores of the subset that it was trained for.

    Raises:
        ValueError: two were trained for one subset, or one was not scored on its own.
    """
    of_subset: dict[str, Model] = {}
    for part in parts:
        own = own_subset(part)
        if own in of_subset:
            raise ValueError(
                f"Expected models for different subsets, got two for {own}: {of_subset[own].folder} and {part.folder}. "
                "Trainings of one model make a group: --group NAME=GLOB."
            )
        of_subset[own] = part
    tables = [part.scores[part.scores["subset"] == own] for own, part in of_subset.items()]
    scores = pd.concat(tables, ignore_index=True)
    modalities = parts[0].provenance.modalities
    every = {own: part.provenance.subsets[own] for own, part in of_subset.items()}
    in_order = sorted(every, key=lambda own: (len(every[own]), [modalities.index(member) for member in every[own]]))
    provenance = replace(
        parts[0].provenance,
        model=f"{len(parts)} models of {parts[0].provenance.trainer}, one for each subset",
        plans=", ".join(of_subset[own].provenance.plans for own in in_order),
        weights=[digest for own in in_order for digest in of_subset[own].provenance.weights],
        subsets={own: every[own] for own in in_order},
    )
    return Model(parts[0].folder, provenance, scores, of_subset=of_subset)


def own_subset(model: Model) -> str:
    """Name the subset that a dedicated model was trained for; ValueError where it was not scored on it."""
    needs = model.provenance.needs
    for name, members in model.provenance.subsets.items():
        if members == needs:
            return name
    raise ValueError(
        f"Expected scores of {' and '.join(needs or ())}, which the model in {model.folder} was trained for, got none. "
        "Evaluate it on this subset."
    )


def join_trainings(models: Sequence[Model]) -> Model:
    """Make one model, with its trainings, of dedicated ones: the first of each subset, then the second of each.

    Raises:
        ValueError: the subsets were not trained equally often.
    """
    by_subset: dict[str, list[Model]] = {}
    for model in models:
        by_subset.setdefault(own_subset(model), []).append(model)
    counts = {own: len(of_subset) for own, of_subset in by_subset.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"Expected as many trainings for each subset, got {counts}. Leave some out, or train more.")
    if len(by_subset) == 1:
        return replace(models[0], others=tuple(models[1:]))
    first, *others = (join(parts) for parts in zip(*by_subset.values(), strict=True))
    return replace(first, others=tuple(others))
