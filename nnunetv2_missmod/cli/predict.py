"""`missmod predict`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nnunetv2_missmod.cli.exit_codes import report_failures
from nnunetv2_missmod.cli.model_flags import add_model, add_subsets, min_voxels_of, model_of
from nnunetv2_missmod.host.doors import with_doors

MEANING = "masks from what each case has, or from subsets of its modalities"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod predict`."""
    verb.add_argument("-i", type=Path, required=True, help="folder of the cases, with whichever channels they have")
    verb.add_argument(
        "-o", type=Path, required=True, help="folder for the masks, and masks.csv: what each was made from"
    )
    add_model(verb)
    add_subsets(verb, "available: what each case has (the default), all, singles, or a list such as FLAIR+T1c,T2")
    verb.add_argument("--continue_prediction", action="store_true", help="keep the cases that are finished")
    verb.add_argument(
        "--resample",
        action="store_true",
        help="bring images that lie elsewhere onto the grid of the case's first one",
    )
    verb.set_defaults(subsets="available")


def run(parsed: argparse.Namespace) -> int:
    """Segment a folder of cases; 1 if a case failed."""
    os.environ.update(with_doors(os.environ))
    from nnunetv2_missmod.prediction.masks import predict_masks  # noqa: PLC0415

    choice, settings = model_of(parsed)
    failed = predict_masks(
        choice,
        settings,
        parsed.i,
        parsed.o,
        parsed.subsets,
        min_voxels_of(parsed),
        parsed.continue_prediction,
        parsed.resample,
    )
    return report_failures(failed)
