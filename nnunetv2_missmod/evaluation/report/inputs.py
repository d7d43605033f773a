"""What the report is made of: the folders of one or several models, checked against each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SCORES_CSV, SCORES_PARQUET, PROVENANCE = "scores.csv", "scores.parquet", "provenance.json"
KEYS = ["case", "subset", "region"]
COLUMNS = [*KEYS, "num_present", "dice", "hd95", "nsd", "sensitivity", "volume_error", "lesion_dice"]
SHARED = {  # what the numbers of two models must have in common to stand in one table
    "dataset": "the dataset",
    "modalities": "the modalities, in channel order",
    "regions": "the regions",
    "region_labels": "the labels of the regions",
    "empty_policy": "the policy for empty masks",
    "nsd_tolerance_mm": "the tolerance of the surface Dice in mm",
}
NEEDED = [*SHARED, "model", "trainer", "subsets"]
AGAIN = "Write the folder anew with `missmod evaluate`"


@dataclass(frozen=True)
class Model:
    """One model's folder: its long table and where that came from."""

    folder: Path
    provenance: dict[str, Any]
    scores: pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """The models of a report on what all of them share.

    ``scores`` is the long table of all models, with a column ``model`` of the names; ``subsets`` gives the modalities
    of each common subset in the order of evaluation; ``notes`` say what was left out.
    """

    models: dict[str, Model]
    modalities: list[str]
    regions: list[str]
    subsets: dict[str, list[str]]
    scores: pd.DataFrame
    notes: list[str]

    @property
    def first(self) -> Model:
        """The model whose provenance stands for what all share."""
        return next(iter(self.models.values()))


def load_comparison(folders: Sequence[Path]) -> Comparison:
    """Read the models' folders and keep the subsets and cases that all of them have.

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
    for other in models[1:]:
        _check_alike(models[0], other)
    named = dict(zip(model_names(models), models, strict=True))
    subsets, notes = _common_subsets(models)
    scores, left_out = _common_cases(named, list(subsets))
    first = models[0].provenance
    return Comparison(named, first["modalities"], first["regions"], subsets, scores, [*notes, *left_out])


def load_model(folder: Path) -> Model:
    """Read one folder that `missmod evaluate` wrote; ValueError names the file that is missing or damaged."""
    if not folder.is_dir():
        raise ValueError(f"Expected a folder that `missmod evaluate` wrote, got {folder}, which is no folder.")
    provenance, scores = _read_provenance(folder / PROVENANCE), _read_scores(folder)
    for column, known in (("subset", provenance["subsets"]), ("region", provenance["regions"])):
        unknown = sorted(set(scores[column]) - set(known))
        if unknown:
            raise ValueError(
                f"{folder}: expected the {column}s of {PROVENANCE} in the scores, got {unknown[:5]}. {AGAIN}."
            )
    twice = scores[scores.duplicated(KEYS)]
    if len(twice):
        row = dict(twice.iloc[0][KEYS])
        raise ValueError(f"{folder}: expected one row per case, subset and region, got several of {row}. {AGAIN}.")
    return Model(folder, provenance, scores)


def model_names(models: Sequence[Model]) -> list[str]:
    """Short names that tell the models apart: the trainer's, else nnU-Net's name of the model, else the folder's."""
    kinds: list[Callable[[Model], str]] = [
        lambda model: str(model.provenance["trainer"]).removesuffix("Trainer"),
        lambda model: str(model.provenance["model"]),
        lambda model: model.folder.resolve().name,
    ]
    for kind in kinds:
        names = [kind(model) for model in models]
        if all(names) and len(set(names)) == len(names):
            return names
    return [str(model.folder.resolve()) for model in models]


def _read_provenance(file: Path) -> dict[str, Any]:
    try:
        provenance = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected {file} beside the scores, but it cannot be read ({error}). {AGAIN}.") from error
    missing = [key for key in NEEDED if not isinstance(provenance, dict) or key not in provenance]
    if missing:
        raise ValueError(f"Expected {', '.join(missing)} in {file}, got none. {AGAIN}.")
    return dict(provenance)


def _read_scores(folder: Path) -> pd.DataFrame:
    """The long table: text as it stands (a case may be called 001 or NA), numbers finite or NaN."""
    csv, parquet = folder / SCORES_CSV, folder / SCORES_PARQUET
    file = csv if csv.is_file() or not parquet.is_file() else parquet
    if not file.is_file():
        raise ValueError(f"Expected {SCORES_CSV} or {SCORES_PARQUET} in {folder}, found neither. {AGAIN}.")
    try:
        text = dict.fromkeys(KEYS, str)
        scores = pd.read_csv(file, dtype=str, keep_default_na=False) if file == csv else pd.read_parquet(file)
        missing = [column for column in COLUMNS if column not in scores]
        if missing:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
        numbers = [column for column in COLUMNS if column not in KEYS]
        scores = scores[COLUMNS].astype(text)
        scores[numbers] = scores[numbers].replace({"": "nan"}).astype(float).replace([np.inf, -np.inf], np.nan)
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected the long table of scores in {file}, but {error}. {AGAIN}.") from error
    if scores.empty:
        raise ValueError(f"Expected scores in {file}, got a table without rows. {AGAIN}.")
    return scores


def _check_alike(one: Model, other: Model) -> None:
    for key, meaning in SHARED.items():
        if one.provenance[key] != other.provenance[key]:
            raise ValueError(
                f"Expected models that share {meaning}, got {one.provenance[key]} in {one.folder / PROVENANCE} but "
                f"{other.provenance[key]} in {other.folder / PROVENANCE}. Evaluate both alike or report them apart."
            )


def _common_subsets(models: Sequence[Model]) -> tuple[dict[str, list[str]], list[str]]:
    of_model = [set(model.scores["subset"]) for model in models]
    common = set.intersection(*of_model)
    if not common:
        folders = ", ".join(str(model.folder) for model in models)
        raise ValueError(
            f"Expected models with subsets of modalities in common, got none in {folders}. Evaluate the same subsets."
        )
    left_out = len(set.union(*of_model) - common)
    notes = [f"{left_out} subsets that not every model was evaluated on are left out."] if left_out else []
    subsets: dict[str, list[str]] = models[0].provenance["subsets"]
    return {name: subsets[name] for name in subsets if name in common}, notes


def _common_cases(models: dict[str, Model], subsets: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The rows (case, subset) that every model has, so that all means are over the same cases."""
    scores = pd.concat([model.scores.assign(model=name) for name, model in models.items()], ignore_index=True)
    scores = scores[scores["subset"].isin(subsets)]
    common = scores.groupby(["case", "subset"])["model"].transform("nunique") == len(models)
    if not common.any():
        folders = ", ".join(str(model.folder) for model in models.values())
        raise ValueError(f"Expected models evaluated on cases in common, got none in {folders}. Use the same cases.")
    left_out = sorted(set(scores["case"]) - set(scores[common]["case"]))
    notes = [f"{len(left_out)} cases that not every model was evaluated on are left out."] if left_out else []
    return scores[common].reset_index(drop=True), notes
