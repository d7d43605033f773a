"""One model of a report: the folder that `missmod evaluate` wrote of it, read and checked, and its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nnunetv2_missmod.evaluation.calibration_table import read_calibration
from nnunetv2_missmod.evaluation.provenance import Provenance
from nnunetv2_missmod.evaluation.scores import SCORES_CSV, read_scores
from nnunetv2_missmod.evaluation.summary import BETTER, checked
from nnunetv2_missmod.report.trusted import check_places


@dataclass(frozen=True)
class Model:
    """One model's folder: its long table and where that came from; ``others`` are further trainings of it.

    ``calibration`` is what was foreseen of its masks, None where that is not known. ``of_subset`` has the models of
    which this one is made, by the subset that each was trained for; folder and provenance are then the first one's.
    """

    folder: Path
    provenance: Provenance
    scores: pd.DataFrame
    others: tuple[Model, ...] = ()
    calibration: pd.DataFrame | None = None
    of_subset: Mapping[str, Model] = field(default_factory=dict)

    @property
    def trainings(self) -> tuple[Model, ...]:
        """All of them; the first one's masks are shown."""
        return (self, *self.others)

    @property
    def is_dedicated(self) -> bool:
        """Whether it was trained for one subset, or is made of such models."""
        return self.provenance.needs is not None

    def predicting(self, subset: str) -> Model:
        """The model whose masks of a subset these are."""
        return self.of_subset.get(subset, self)


def load_model(folder: Path) -> Model:
    """Read one folder that `missmod evaluate` wrote; ValueError names the file that is missing, damaged or untrue."""
    table, provenance = read_scores(folder)
    check_places(folder, provenance, table)
    try:
        for metric in BETTER:
            checked(table, metric)
    except ValueError as error:
        raise ValueError(f"{folder / SCORES_CSV}: {error}") from error
    return Model(folder, provenance, table, calibration=read_calibration(folder, provenance))


def model_names(models: Sequence[Model]) -> list[str]:
    """Short names that tell the models apart: the trainer's, else nnU-Net's name of the model, else the folder's."""
    kinds: list[Callable[[Model], str]] = [
        lambda model: model.provenance.trainer.removesuffix("Trainer") + " (dedicated)" * model.is_dedicated,
        lambda model: model.provenance.model,
        lambda model: model.folder.resolve().name,
    ]
    for kind in kinds:
        names = [kind(model) for model in models]
        if all(names) and len(set(names)) == len(names):
            return names
    return [str(model.folder.resolve()) for model in models]
