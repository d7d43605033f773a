"""`missmod predict`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_missmod.cli.exit_codes import TO_BE_CHECKED
from nnunetv2_missmod.cli.json_output import add_json, print_json, words_on_stderr
from nnunetv2_missmod.cli.model_flags import add_mixups, add_model, add_subsets, min_voxels_of, model_of
from nnunetv2_missmod.cli.over_cases import run_over_cases
from nnunetv2_missmod.host.doors import with_doors
from nnunetv2_missmod.machine.chatter import chatter_kept_beside

if TYPE_CHECKING:
    from nnunetv2_missmod.prediction.segmenter import Segmentation
    from nnunetv2_missmod.prediction.trust import TrustSettings

MEANING = "masks from what each case has, or from subsets of its modalities"
SENTENCE = "Segments each case from whichever of the channels it has, and writes down what each mask was made from."
EXAMPLE = "missmod predict -i cases -o masks -d 501 -c 3d_fullres -tr DCSegTrainer -f 0"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod predict`."""
    cases = verb.add_mutually_exclusive_group(required=True)
    cases.add_argument("-i", type=Path, help="folder of the cases, with whichever channels they have")
    cases.add_argument(
        "--case", nargs="+", metavar="NAME=FILE", help="one case by its modalities' names, such as FLAIR=scan1.nii.gz"
    )
    verb.add_argument(
        "-o",
        type=Path,
        required=True,
        help="folder for the masks, and masks.csv: what each was made from; with --case the mask's file",
    )
    add_model(verb)
    add_subsets(verb, "available: what each case has (the default), all, singles, or a list such as FLAIR+T1c,T2")
    verb.add_argument("--continue_prediction", action="store_true", help="keep the cases that are finished")
    verb.add_argument(
        "--resample",
        action="store_true",
        help="bring images that lie elsewhere onto the grid of the case's first one",
    )
    add_trust(verb)
    add_json(verb, "which masks there are and what each was made from,")
    verb.set_defaults(subsets="available")


def add_trust(verb: argparse.ArgumentParser) -> None:
    """Add what is said of how far masks can be trusted, by the calibration of the model."""
    verb.add_argument(
        "--confidence", type=float, default=0.9, help="of the lower bounds of Dice, if calibrated (default: 0.9)"
    )
    verb.add_argument("--flag_below", type=float, metavar="DICE", help="list masks whose bound is lower, to be checked")
    verb.add_argument("--fail_flagged", action="store_true", help="exit with 3 if there are such masks")
    add_mixups(verb)
    verb.add_argument("--no-calibration", action="store_true", help="say nothing of what is expected, nor of mix-ups")


def run(parsed: argparse.Namespace) -> int:
    """Segment a folder of cases, 1 if a case failed, 3 if masks are to be checked and that was asked; or one case."""
    os.environ.update(with_doors(os.environ))
    if parsed.fail_flagged and parsed.flag_below is None:
        raise ValueError("Expected --flag_below DICE with --fail_flagged, got none. Say which masks are to be checked.")
    if parsed.case:
        return run_case(parsed)
    code = run_over_cases(parsed, predict, summary_of)
    flagged = print_flagged(parsed) if parsed.flag_below is not None else 0
    return TO_BE_CHECKED if flagged and parsed.fail_flagged and not code else code


def print_flagged(parsed: argparse.Namespace) -> int:
    """List the masks of the folder that are to be checked, on standard error; count them."""
    from nnunetv2_missmod.prediction.mask_table import to_be_checked  # noqa: PLC0415

    found = to_be_checked(parsed.o, parsed.flag_below)
    for line in found:
        print(f"missmod: to be checked: {line}", file=sys.stderr)
    return len(found)


def run_case(parsed: argparse.Namespace) -> int:
    """Segment one case that is given by its modalities' names."""
    with chatter_kept_beside(None, parsed.verbose), words_on_stderr(parsed.json):
        found = predict_case(parsed)
        print(f"{parsed.o}: from {found.subset}")
        if found.judgement:
            print(f"  {found.judgement.line}")
    if parsed.json:
        expected = {} if found.judgement is None else found.judgement.as_object()
        print_json({"mask": str(parsed.o.resolve()), "channels": found.subset, **expected})
    return 0


def predict_case(parsed: argparse.Namespace) -> Segmentation:
    """Segment one case, and write its mask.

    Raises:
        ValueError: a pair is none or given twice, a flag is of folders alone, or as ``Segmenter``.
    """
    from nnunetv2_missmod.prediction.segmenter import Segmenter  # noqa: PLC0415

    of_folders = {
        "--subsets": parsed.subsets != "available",
        "--min_voxels": bool(parsed.min_voxels),
        "--continue_prediction": parsed.continue_prediction,
        "-num_parts": parsed.num_parts > 1,
        "--flag_below": parsed.flag_below is not None,
    }
    if given := [flag for flag, is_given in of_folders.items() if is_given]:
        raise ValueError(f"Expected --case without {', '.join(given)}, which are for a folder of cases (-i).")
    images = _pairs(parsed.case)
    if parsed.o.is_dir():
        raise ValueError(f"Expected -o the file of the mask, such as mask.nii.gz, got the folder {parsed.o}.")
    segmenter = Segmenter(*model_of(parsed), trust_of(parsed))
    found = segmenter.segment(images, resample=parsed.resample)
    if found.suspicions and parsed.refuse_mixups:
        raise ValueError(f"{found.suspicions} Correct --case, or leave --refuse_mixups out.")
    if found.suspicions:
        print(f"missmod: {found.suspicions}", file=sys.stderr)
    parsed.o.parent.mkdir(parents=True, exist_ok=True)
    found.save(parsed.o)
    return found


def _pairs(texts: list[str]) -> dict[str, str]:
    images: dict[str, str] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file) or name in images:
            raise ValueError(f"Expected --case NAME=FILE of each modality once, such as T1c=scan.nii.gz, got {text!r}.")
        images[name] = file
    return images


def predict(parsed: argparse.Namespace) -> int:
    """Segment; count the cases that failed."""
    from nnunetv2_missmod.prediction.masks import predict_masks  # noqa: PLC0415

    choice, settings = model_of(parsed)
    return predict_masks(
        choice,
        settings,
        parsed.i,
        parsed.o,
        parsed.subsets,
        min_voxels_of(parsed),
        parsed.continue_prediction,
        parsed.resample,
        trust_of(parsed),
    )


def trust_of(parsed: argparse.Namespace) -> TrustSettings:
    """Read the flags of ``add_trust``."""
    from nnunetv2_missmod.prediction.trust import TrustSettings  # noqa: PLC0415

    return TrustSettings(not parsed.no_calibration, parsed.confidence, parsed.refuse_mixups)


def summary_of(out: Path, failed: int) -> dict[str, Any]:
    """Say what the folder holds: of this run, of its other parts and of those that it went on from."""
    from nnunetv2_missmod.prediction.mask_table import read_masks  # noqa: PLC0415

    return {"folder": str(out.resolve()), "failed": failed, "masks": read_masks(out).to_dict("records")}
