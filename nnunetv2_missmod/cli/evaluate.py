"""`missmod evaluate`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nnunetv2_missmod.cli.exit_codes import report_failures
from nnunetv2_missmod.cli.model_flags import add_model, add_subsets, min_voxels_of, model_of
from nnunetv2_missmod.host.doors import with_doors

MEANING = "masks and scores of every subset of the modalities"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod evaluate`."""
    verb.add_argument("-i", type=Path, help="folder of the cases (default: the folds' validation cases)")
    verb.add_argument("-gt", type=Path, help="folder of their labels")
    verb.add_argument("-o", type=Path, required=True, help="folder for scores and masks; a run that was ended goes on")
    add_model(verb)
    add_subsets(verb, "all (the default; 31 of them beyond 5 modalities), singles, or a list such as FLAIR+T1c,T2")
    verb.add_argument("--no-save", action="store_true", help="keep no masks")
    verb.add_argument(
        "--empty",
        default="nnunet",
        help="scores of empty masks: nnunet, NaN where both are empty (the default); brats, 1 and 0 / 0 and 374 mm; "
        "zero or one, 1 and 0 / 0 and that many mm",
    )
    verb.add_argument(
        "--hd95",
        default="surface",
        help="95 %% of what: surface, of its area (the default); medpy, of all edge voxels; monai, of each mask's",
    )
    verb.add_argument("--tolerance", type=float, default=1.0, help="of the normalised surface Dice in mm (default: 1)")
    verb.set_defaults(subsets="all")


def run(parsed: argparse.Namespace) -> int:
    """Score every subset; 1 if a case failed."""
    os.environ.update(with_doors(os.environ))
    from nnunetv2_missmod.evaluation.evaluate import EvaluationSettings, evaluate_model  # noqa: PLC0415
    from nnunetv2_missmod.evaluation.metrics import ScoringRules  # noqa: PLC0415

    choice, settings = model_of(parsed)
    rules = ScoringRules(parsed.empty, parsed.tolerance, parsed.hd95)
    evaluation = EvaluationSettings(parsed.subsets, rules, min_voxels_of(parsed), not parsed.no_save)
    return report_failures(evaluate_model(choice, settings, evaluation, parsed.o, parsed.i, parsed.gt))
