"""What the report is made of: the folders of one or several models, and what all of them have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from nnunetv2_missmod.evaluation.paired_tests import check_comparable, check_measured_alike, compared_models
from nnunetv2_missmod.evaluation.provenance import PROVENANCE, Provenance
from nnunetv2_missmod.evaluation.scores import SCORES_CSV, read_scores
from nnunetv2_missmod.evaluation.summary import BETTER, checked
from nnunetv2_missmod.report.trusted import check_places


@dataclass(frozen=True)
class Model:
    """One model's folder: its long table and where that came from."""

    folder: Path
    provenance: Provenance
    scores: pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """The models of a report on what all of them share.

    ``scores`` is the long table of all models, with a column ``model`` of the names; ``subsets`` gives the modalities
    of each common subset in the order of evaluation; ``notes`` say what was left out; the others are tested against
    the ``reference``, or every two models where it is None.
    """

    models: dict[str, Model]
    modalities: list[str]
    regions: list[str]
    subsets: dict[str, list[str]]
    scores: pd.DataFrame
    notes: list[str]
    reference: str | None = None

    @property
    def first(self) -> Model:
        """The model whose provenance stands for what all share."""
        return next(iter(self.models.values()))

    @property
    def sampled(self) -> bool:
        """Whether the subsets are a sample of all that there are."""
        return any(model.provenance.sampled for model in self.models.values())

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(region, model) of every column of a table, region by region."""
        return [(region, model) for region in self.regions for model in self.models]

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The long table of each model."""
        return {name: self.scores[self.scores["model"] == name] for name in self.models}

    def side_by_side(self, summarise: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
        """Summarise each model's long table (one column per region) and set the results beside each other.

        Returns:
            The rows of the summaries; columns (region, model).
        """
        found = pd.concat({name: summarise(table) for name, table in self.tables.items()}, axis=1)
        columns = pd.MultiIndex.from_tuples(self.columns, names=["region", "model"])
        beside: pd.DataFrame = found.swaplevel(axis=1).reindex(columns=columns)
        return beside


def load_comparison(folders: Sequence[Path], reference: str | None = None) -> Comparison:
    """Read the models' folders and keep the subsets and cases that all of them have.

    Args:
        folders: what `missmod evaluate` wrote, one folder per model.
        reference: name of the model that the others are tested against, as in the report; None: every two models.

    Raises:
        ValueError: names folder and file when one is missing or damaged, or when the models do not belong together.
    """
    if not folders:
        raise ValueError("Expected at least one folder that `missmod evaluate` wrote, got none: name one.")
    counted = Counter(Path(folder).resolve() for folder in folders)
    for folder, count in counted.items():
        if count > 1:
            raise ValueError(f"Expected folders of different models, got {folder} {count} times: name it once.")
    models = [load_model(Path(folder)) for folder in folders]
    check_measured_alike({str(model.folder / PROVENANCE): model.provenance for model in models})
    check_comparable({str(model.folder / SCORES_CSV): model.scores for model in models}, "dice")
    named = dict(zip(model_names(models), models, strict=True))
    compared_models(list(named), reference)
    subsets, notes = _common_subsets(models)
    scores, left_out = _common_cases(named, list(subsets))
    first = models[0].provenance
    return Comparison(named, first.modalities, first.regions, subsets, scores, [*notes, *left_out], reference)


def load_model(folder: Path) -> Model:
    """Read one folder that `missmod evaluate` wrote; ValueError names the file that is missing, damaged or untrue."""
    table, provenance = read_scores(folder)
    check_places(folder, provenance, table)
    try:
        for metric in BETTER:
            checked(table, metric)
    except ValueError as error:
        raise ValueError(f"{folder / SCORES_CSV}: {error}") from error
    return Model(folder, provenance, table)


def model_names(models: Sequence[Model]) -> list[str]:
    """Short names that tell the models apart: the trainer's, else nnU-Net's name of the model, else the folder's."""
    kinds: list[Callable[[Model], str]] = [
        lambda model: model.provenance.trainer.removesuffix("Trainer"),
        lambda model: model.provenance.model,
        lambda model: model.folder.resolve().name,
    ]
    for kind in kinds:
        names = [kind(model) for model in models]
        if all(names) and len(set(names)) == len(names):
            return names
    return [str(model.folder.resolve()) for model in models]


def _common_subsets(models: Sequence[Model]) -> tuple[dict[str, list[str]], list[str]]:
    of_model = [set(model.scores["subset"]) for model in models]
    common = set.intersection(*of_model)
    subsets = {name: members for name, members in models[0].provenance.subsets.items() if name in common}
    return subsets, _note(set.union(*of_model) - common, "subset")


def _common_cases(models: dict[str, Model], subsets: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The rows (case, subset) that every model has, so that all means are over the same cases."""
    scores = pd.concat([model.scores.assign(model=name) for name, model in models.items()], ignore_index=True)
    scores = scores[scores["subset"].isin(subsets)]
    common = scores.groupby(["case", "subset"])["model"].transform("nunique") == len(models)
    kept = scores[common].reset_index(drop=True)
    return kept, _note(set(scores["case"]) - set(kept["case"]), "case")


def _note(left_out: set[str], what: str) -> list[str]:
    if not left_out:
        return []
    count = (
        f"1 {what} that not every model was evaluated on is"
        if len(left_out) == 1
        else (f"{len(left_out)} {what}s that not every model was evaluated on are")
    )
    return [f"{count} left out."]
