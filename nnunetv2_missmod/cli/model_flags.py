"""The flags that `missmod predict` and `missmod evaluate` share: which model, how to predict, which subsets."""

from __future__ import annotations

import argparse
import atexit
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings


DEVICES = ("cuda", "cpu", "mps")


def add_model(verb: argparse.ArgumentParser) -> None:
    """Add the flags by which nnUNetv2_predict names a model and says how to predict, with its defaults."""
    model = verb.add_mutually_exclusive_group(required=True)
    model.add_argument("-d", help="dataset: id or name")
    model.add_argument("-m", type=Path, help="folder of a model, or a zip of one, in place of -d, -c, -tr and -p")
    only_one = "may be left out where one trained model fits"
    verb.add_argument("-c", help=f"configuration; {only_one} (missmod models lists them)")
    verb.add_argument("-tr", help=f"trainer, any; {only_one} (otherwise nnUNetTrainer)")
    verb.add_argument("-p", help=f"plans; {only_one} (otherwise nnUNetPlans)")
    verb.add_argument("-f", nargs="+", help="folds (default: 0 1 2 3 4; with -m all that are there)")
    verb.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")
    verb.add_argument("-device", choices=DEVICES, default="cuda", help="to predict on (default: %(default)s)")
    verb.add_argument("-step_size", type=float, default=0.5, help="of the sliding window (default: %(default)s)")
    verb.add_argument("--disable_tta", action="store_true", help="no mirroring: faster, less accurate")
    verb.add_argument("-nps", type=int, default=3, help="processes that export and score (default: %(default)s)")
    verb.add_argument(
        "--memory",
        type=float,
        default=2.0,
        metavar="GB",
        help="of logits at a time: more subsets than fit are predicted in several runs (default: 2)",
    )
    verb.add_argument("-num_parts", type=int, default=1, help="how many such commands share the cases and -o")
    verb.add_argument("-part_id", type=int, default=0, help="which of them this is, from 0")
    verb.add_argument("--verbose", action="store_true", help="show what nnU-Net prints instead of logging it beside -o")


def add_subsets(verb: argparse.ArgumentParser, meaning: str) -> None:
    """Add what is segmented, and what is removed from the masks."""
    verb.add_argument("--subsets", help=meaning)
    verb.add_argument(
        "--min_voxels", nargs="+", default=(), metavar="REGION=N", help="remove a predicted region of fewer voxels"
    )


def add_mixups(verb: argparse.ArgumentParser) -> None:
    """Add what becomes of a file that looks like another modality."""
    verb.add_argument(
        "--refuse_mixups",
        action="store_true",
        help="a file that looks like another modality (a calibrated model sees it) is an error, not a warning",
    )


def model_of(parsed: argparse.Namespace) -> tuple[ModelChoice, PredictionSettings]:
    """Read the flags of ``add_model``.

    Raises:
        ValueError: they name no model or several, or no way to predict.
    """
    from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings  # noqa: PLC0415
    from nnunetv2_missmod.prediction.trained import USUAL_PLANS, USUAL_TRAINER, complete_choice  # noqa: PLC0415

    settings = PredictionSettings(
        parsed.device,
        parsed.step_size,
        not parsed.disable_tta,
        parsed.nps,
        parsed.num_parts,
        parsed.part_id,
        parsed.memory,
    )
    if parsed.m is not None:
        return _model_in(parsed), settings
    names = parsed.c or "", parsed.tr or USUAL_TRAINER, parsed.p or USUAL_PLANS
    choice = ModelChoice(parsed.d, *names, tuple(parsed.f or ModelChoice.folds), parsed.chk)
    given = {"configuration": parsed.c, "trainer": parsed.tr, "plans": parsed.p}
    return complete_choice(choice, given), settings


def _model_in(parsed: argparse.Namespace) -> ModelChoice:
    """Choose the model of -m; one from a zip lies in a folder that goes when the process ends."""
    from nnunetv2_missmod.prediction.trained import model_in, unpack  # noqa: PLC0415

    if given := [flag for flag in ("c", "tr", "p") if getattr(parsed, flag) is not None]:
        raise ValueError(f"Expected -m without {', '.join(f'-{flag}' for flag in given)}: the model's folder says it.")
    folder = parsed.m
    if folder.is_file():
        unpacked = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, unpacked, ignore_errors=True)
        folder = unpack(folder, unpacked)
    return model_in(folder, parsed.f or (), parsed.chk)


def min_voxels_of(parsed: argparse.Namespace) -> dict[str, int]:
    """Read REGION=N.

    Raises:
        ValueError: it is something else.
    """
    pairs = [text.rpartition("=") for text in parsed.min_voxels]
    for text, (region, _, count) in zip(parsed.min_voxels, pairs, strict=True):
        if not (region and count.isdecimal()):
            raise ValueError(f"Expected --min_voxels REGION=N, such as enhancing=200, got {text!r}.")
    return {region: int(count) for region, _, count in pairs}
