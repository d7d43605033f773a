"""`missmod models`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_missmod.cli.json_output import add_json, print_json

if TYPE_CHECKING:
    from nnunetv2_missmod.prediction.trained import TrainedFold, TrainedModel

MEANING = "the trained models, and the flags that name each"
SENTENCE = "Lists the trained models of nnUNet_results: how far each fold is, and the flags that name the model."
EXAMPLE = "missmod models -d 501"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod models`."""
    verb.add_argument("-d", help="dataset: id or name (default: all)")
    add_json(verb, "the models")


def run(parsed: argparse.Namespace) -> int:
    """List the trained models."""
    results = os.environ.get("nnUNet_results")  # noqa: SIM112, nnU-Net's spelling
    if not results or not Path(results).is_dir():
        raise ValueError(
            f"Expected the variable nnUNet_results to name the folder of the models, got {results!r}. Set it."
        )
    from nnunetv2_missmod.prediction.model import ModelChoice  # noqa: PLC0415
    from nnunetv2_missmod.prediction.trained import trained_models  # noqa: PLC0415

    of_dataset = (ModelChoice(parsed.d, "").dataset_name,) if parsed.d else ()
    models = trained_models(Path(results), *of_dataset)
    if parsed.json:
        print_json({"results": results, "models": [as_object(model) for model in models]})
        return 0
    for model in models:
        print(*lines_of(model), sep="\n")
    print(f"{len(models)} {'model' if len(models) == 1 else 'models'} in {results}.")
    return 0


def lines_of(model: TrainedModel) -> list[str]:
    """Describe a model in three lines."""
    folds = model.folds()
    calibrated = ", calibrated" if model.is_calibrated else ""
    return [
        f"{model.dataset}: {model.trainer}, {model.configuration}, {model.plans}{calibrated}",
        f"  {'; '.join(words_of(fold) for fold in folds)}",
        f"  {flags_of(model, folds)}" if model.segments else "  a pretraining, which segments nothing",
    ]


def words_of(fold: TrainedFold) -> str:
    """Say how far a fold is."""
    state = "complete" if fold.is_complete else "not complete"
    if not fold.is_readable:
        return f"fold {fold.fold}: {state}, {fold.checkpoint} cannot be read"
    epochs = "" if fold.epochs is None else f" after {fold.epochs} epochs"
    dice = "" if fold.pseudo_dice is None else f", pseudo Dice {fold.pseudo_dice:.3f}"
    return f"fold {fold.fold}: {state}{epochs}{dice}"


def flags_of(model: TrainedModel, folds: list[TrainedFold]) -> str:
    """Give the flags that name a model's complete folds, or else what there is of them."""
    complete = [fold for fold in folds if fold.is_complete]
    named = complete or [fold for fold in folds if fold.checkpoint == folds[0].checkpoint]
    checkpoint = "" if complete else f" -chk {named[0].checkpoint}"
    number = model.dataset.removeprefix("Dataset").partition("_")[0]
    dataset = str(int(number)) if number.isdecimal() else model.dataset
    return f"-d {dataset} {model.flags} -f {' '.join(fold.fold for fold in named)}{checkpoint}"


def as_object(model: TrainedModel) -> dict[str, object]:
    """Describe a model for JSON."""
    folds = model.folds()
    return {
        "dataset": model.dataset,
        "configuration": model.configuration,
        "trainer": model.trainer,
        "plans": model.plans,
        "is_calibrated": model.is_calibrated,
        "folds": [{**fold._asdict(), "is_complete": fold.is_complete} for fold in folds],
        "flags": flags_of(model, folds),
    }
