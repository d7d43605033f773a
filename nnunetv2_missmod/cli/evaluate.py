"""`missmod evaluate`."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

from nnunetv2_missmod.cli.json_output import add_json
from nnunetv2_missmod.cli.model_flags import add_mixups, add_model, add_subsets, min_voxels_of, model_of
from nnunetv2_missmod.cli.over_cases import run_over_cases
from nnunetv2_missmod.host.doors import with_doors

MEANING = "masks and scores of every subset of the modalities"
SENTENCE = "Segments each case from every subset of the modalities, scores the masks and prints the mean Dice."
EXAMPLE = "missmod evaluate -o scores/dcseg -d 501 -c 3d_fullres -tr DCSegTrainer -f 0"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod evaluate`."""
    verb.add_argument("-i", type=Path, help="folder of the cases (default: the folds' validation cases)")
    verb.add_argument("-gt", type=Path, help="folder of their labels")
    verb.add_argument("-o", type=Path, required=True, help="folder for scores and masks; a run that was ended goes on")
    add_model(verb)
    add_subsets(verb, "all (the default; 31 of them beyond 5 modalities), singles, or a list such as FLAIR+T1c,T2")
    add_mixups(verb)
    verb.add_argument("--no-save", action="store_true", help="keep no masks")
    verb.add_argument(
        "--empty",
        choices=("nnunet", "brats", "zero", "one"),
        default="nnunet",
        help="scores of empty masks: nnunet, NaN where both are empty (the default); brats, 1 and 0 / 0 and 374 mm; "
        "zero or one, 1 and 0 / 0 and that many mm",
    )
    verb.add_argument(
        "--hd95",
        choices=("surface", "medpy", "monai"),
        default="surface",
        help="95 %% of what: surface, of its area (the default); medpy, of all edge voxels; monai, of each mask's",
    )
    verb.add_argument("--tolerance", type=float, default=1.0, help="of the normalised surface Dice in mm (default: 1)")
    add_json(verb, "the mean Dice by subset and region")
    verb.set_defaults(subsets="all")


def run(parsed: argparse.Namespace) -> int:
    """Score every subset; 1 if a case failed."""
    os.environ.update(with_doors(os.environ))
    return run_over_cases(parsed, evaluate, summary_of)


def evaluate(parsed: argparse.Namespace) -> int:
    """Score; count the cases that failed."""
    from nnunetv2_missmod.evaluation.evaluate import EvaluationSettings, evaluate_model  # noqa: PLC0415
    from nnunetv2_missmod.evaluation.metrics import ScoringRules  # noqa: PLC0415

    choice, settings = model_of(parsed)
    rules = ScoringRules(parsed.empty, parsed.tolerance, parsed.hd95)
    keeping = not parsed.no_save, parsed.refuse_mixups
    evaluation = EvaluationSettings(parsed.subsets, rules, min_voxels_of(parsed), *keeping)
    return evaluate_model(choice, settings, evaluation, parsed.o, parsed.i, parsed.gt)


def summary_of(out: Path, failed: int) -> dict[str, Any]:
    """Say what the folder's scores are on average, as the console does; null where a region has none."""
    from nnunetv2_missmod.evaluation.complete_cases import on_complete_cases  # noqa: PLC0415
    from nnunetv2_missmod.evaluation.scores import read_scores  # noqa: PLC0415
    from nnunetv2_missmod.evaluation.summary import mean_over_subsets, subset_means  # noqa: PLC0415

    table, provenance = read_scores(out)
    comparable = on_complete_cases(table)
    means, complete = (None if t.empty else subset_means(t, "dice") for t in (table, comparable.table))
    return {
        "folder": str(out.resolve()),
        "dataset": provenance.dataset,
        "model": provenance.model,
        "failed": failed,
        "cases": int(table["case"].nunique()),
        "mean_dice": {} if means is None else {str(subset): numbers_of(dice) for subset, dice in means.iterrows()},
        "mean_dice_over_subsets": {} if complete is None else numbers_of(mean_over_subsets(complete)),
        "cases_of_mean_over_subsets": int(comparable.table["case"].nunique()),
        "same_cases": comparable.same_cases,
    }


def numbers_of(dice: Any) -> dict[str, float | None]:
    """Give a row of means by region as JSON has numbers."""
    return {str(region): None if math.isnan(value) else float(value) for region, value in dice.items()}
