"""What the report is made of: the folders of one or several models, and what all of them have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from nnunetv2_missmod.evaluation.paired_tests import check_comparable, check_measured_alike, compared_models
from nnunetv2_missmod.evaluation.provenance import PROVENANCE
from nnunetv2_missmod.evaluation.scores import SCORES_CSV
from nnunetv2_missmod.evaluation.trainings import mean_over_trainings
from nnunetv2_missmod.report.dedicated import join_dedicated, join_trainings
from nnunetv2_missmod.report.models import Model, load_model, model_names


@dataclass(frozen=True)
class Comparison:
    """The models of a report on what all of them share.

    ``scores`` is the long table of all models, with a column ``model`` of the names; for a group it is the mean over
    its trainings, whose own tables are in ``trainings``. ``subsets`` gives the modalities of each common subset in the
    order of evaluation; ``notes`` say what was left out; the others are tested against the ``reference``, or every two
    models where it is None.
    """

    models: dict[str, Model]
    modalities: list[str]
    regions: list[str]
    subsets: dict[str, list[str]]
    scores: pd.DataFrame
    notes: list[str]
    reference: str | None = None
    trainings: dict[str, list[pd.DataFrame]] = field(default_factory=dict)

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

    def trainings_of(self, name: str) -> list[pd.DataFrame]:
        """The long tables of a model's trainings; its table alone where it is no group."""
        return self.trainings.get(name) or [self.tables[name]]

    def side_by_side(self, summarise: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
        """Summarise each model's long table (one column per region) and set the results beside each other.

        Returns:
            The rows of the summaries; columns (region, model).
        """
        return self.beside({name: summarise(table) for name, table in self.tables.items()})

    def beside(self, of_model: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """Set a frame of each model (one column per region) beside each other, as ``side_by_side`` does."""
        found = pd.concat(of_model, axis=1)
        columns = pd.MultiIndex.from_tuples(self.columns, names=["region", "model"])
        beside: pd.DataFrame = found.swaplevel(axis=1).reindex(columns=columns)
        return beside


def load_comparison(
    folders: Sequence[Path], reference: str | None = None, groups: Mapping[str, Sequence[Path]] | None = None
) -> Comparison:
    """Read the models' folders and keep the subsets and cases that all of them have.

    Args:
        folders: what `missmod evaluate` wrote, one folder per model; several of one dedicated trainer make one model.
        reference: name of the model that the others are tested against, as in the report; None: every two models.
        groups: further models of which there are several trainings: name -> a folder for each training.

    Raises:
        ValueError: names folder and file when one is missing or damaged, or when the models do not belong together.
    """
    groups = groups or {}
    named = _named_models([*folders], groups)
    trainings = [training for model in named.values() for training in model.trainings]
    check_measured_alike({str(model.folder / PROVENANCE): model.provenance for model in trainings})
    check_comparable({str(model.folder / SCORES_CSV): table for model, table in _to_compare(trainings)}, "dice")
    compared_models(list(named), reference)
    subsets, notes = _common_subsets(trainings)
    of_model, left_out = _common_cases(named, list(subsets))
    means = [mean_over_trainings(tables).assign(model=name) for name, tables in of_model.items()]
    scores = pd.concat(means, ignore_index=True)
    first = trainings[0].provenance
    grouped = {name: tables for name, tables in of_model.items() if name in groups}
    notes += left_out
    return Comparison(named, first.modalities, first.regions, subsets, scores, notes, reference, grouped)


def _named_models(folders: list[Path], groups: Mapping[str, Sequence[Path]]) -> dict[str, Model]:
    every = [*folders, *(folder for of_group in groups.values() for folder in of_group)]
    if not every:
        raise ValueError("Expected at least one folder that `missmod evaluate` wrote, got none: name one.")
    for folder, count in Counter(Path(folder).resolve() for folder in every).items():
        if count > 1:
            raise ValueError(f"Expected folders of different models, got {folder} {count} times: name it once.")
    models = join_dedicated([load_model(Path(folder)) for folder in folders])
    named = dict(zip(model_names(models), models, strict=True))
    for name, of_group in groups.items():
        if name in named:
            raise ValueError(f"Expected groups with names of their own, got {name}, as a model is called.")
        named[name] = load_group(name, of_group)
    return named


def load_group(name: str, folders: Sequence[Path]) -> Model:
    """Read the folders of one model's trainings; ValueError where they are of different trainers."""
    if not folders:
        raise ValueError(f"Expected folders of scores in the group {name}, got none: correct its pattern.")
    first, *others = models = [load_model(Path(folder)) for folder in folders]
    for other in others:
        if other.provenance.trainer != first.provenance.trainer:
            raise ValueError(
                f"Expected the trainings of one trainer in the group {name}, got {first.provenance.trainer} in "
                f"{first.folder} and {other.provenance.trainer} in {other.folder}. Give each its own group."
            )
    return join_trainings(models) if first.is_dedicated else replace(first, others=tuple(others))


def _to_compare(models: Sequence[Model]) -> list[tuple[Model, pd.DataFrame]]:
    """Give each model's table; beside dedicated models, which have few subsets, only what all of them have."""
    common = set.intersection(*(set(model.scores["subset"]) for model in models))
    if not common or not any(model.is_dedicated for model in models):
        return [(model, model.scores) for model in models]
    return [(model, model.scores[model.scores["subset"].isin(common)]) for model in models]


def _common_subsets(models: Sequence[Model]) -> tuple[dict[str, list[str]], list[str]]:
    of_model = [set(model.scores["subset"]) for model in models]
    common = set.intersection(*of_model)
    subsets = {name: members for name, members in models[0].provenance.subsets.items() if name in common}
    return subsets, _note(set.union(*of_model) - common, "subset")


def _common_cases(models: dict[str, Model], subsets: list[str]) -> tuple[dict[str, list[pd.DataFrame]], list[str]]:
    """The rows (case, subset) that every training of every model has, so that all means are over the same cases."""
    runs = {(name, i): t.scores for name, model in models.items() for i, t in enumerate(model.trainings)}
    scores = pd.concat([table.assign(model=name, training=f"{i} {name}") for (name, i), table in runs.items()])
    scores = scores[scores["subset"].isin(subsets)]
    common = scores.groupby(["case", "subset"])["training"].transform("nunique") == len(runs)
    kept = scores[common]
    of_run = {run: kept[kept["training"] == f"{run[1]} {run[0]}"].drop(columns="training") for run in runs}
    tables = {name: [table for (model, _), table in of_run.items() if model == name] for name in models}
    return tables, _note(set(scores["case"]) - set(kept["case"]), "case")


def _note(left_out: set[str], what: str) -> list[str]:
    if not left_out:
        return []
    count = (
        f"1 {what} that not every model was evaluated on is"
        if len(left_out) == 1
        else (f"{len(left_out)} {what}s that not every model was evaluated on are")
    )
    return [f"{count} left out."]
