"""The command line: `missmod` and its verbs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_missmod.doors import door_folder, find_command, with_doors

if TYPE_CHECKING:
    from nnunetv2_missmod.evaluation.model import ModelChoice, PredictionSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Mistakes of the user are said in a line; the exit code is then 2."""
    parsed = build_parser().parse_args(arguments)
    try:
        code: int = parsed.verb(parsed)
    except (ValueError, NotImplementedError) as error:
        print(f"missmod: {error}", file=sys.stderr)
        return 2
    return code


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their flags; the flags are nnU-Net's where nnU-Net has them."""
    parser = argparse.ArgumentParser("missmod", description="nnU-Net v2 when modalities are missing.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("doors", help="print the folder to set nnUNet_extTrainer to")
    verb.set_defaults(verb=doors)

    verb = verbs.add_parser("run", help="run any nnU-Net command with nnUNet_extTrainer set")
    verb.add_argument("command", nargs=argparse.REMAINDER, help="such as nnUNetv2_train, with its arguments")
    verb.set_defaults(verb=run)

    verb = verbs.add_parser("doctor", help="say what is wrong with this installation, and how to mend it")
    verb.set_defaults(verb=doctor)

    add_phantom(verbs.add_parser("phantom", help="write a synthetic cohort as an nnU-Net raw dataset"))
    add_predict(verbs.add_parser("predict", help="masks from what each case has, or from subsets of its modalities"))
    add_evaluate(verbs.add_parser("evaluate", help="masks and scores of every subset of the modalities"))

    verb = verbs.add_parser("report", help="one HTML page, and tables, of what missmod evaluate wrote")
    verb.add_argument("folders", type=Path, nargs="+", help="one folder of scores for each model")
    verb.add_argument("-o", type=Path, required=True, help="folder for the report")
    verb.set_defaults(verb=report)

    verb = verbs.add_parser("demo", help="the whole job on the phantom: plan, train, score every subset, report")
    verb.add_argument(
        "--out", type=Path, default=Path("missmod_demo"), help="folder to write to (default: %(default)s)"
    )
    verb.add_argument("--trainer", "-tr", default="DCSegTrainer", help="trainer (default: %(default)s)")
    verb.add_argument("--device", "-device", default="cpu", help="cpu, cuda or mps (default: %(default)s)")
    verb.set_defaults(verb=demo)
    return parser


def add_phantom(verb: argparse.ArgumentParser) -> None:
    """Add the flags of a synthetic cohort."""
    verb.add_argument("-d", type=int, default=501, help="dataset id (default: %(default)s)")
    verb.add_argument("-o", type=Path, help="folder to write to (default: nnUNet_raw)")
    verb.add_argument("--training", type=int, default=20, help="training cases (default: %(default)s)")
    verb.add_argument("--test", type=int, default=4, help="test cases (default: %(default)s)")
    verb.add_argument("--modalities", type=int, default=4, help="channels per case (default: %(default)s)")
    verb.add_argument("--size", type=int, default=64, help="voxels along each axis (default: %(default)s)")
    verb.add_argument("--incomplete", type=float, default=0.0, help="share of training cases that lack channels")
    verb.add_argument("--seed", type=int, default=0)
    verb.set_defaults(verb=phantom)


def add_predict(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod predict`."""
    verb.add_argument("-i", type=Path, required=True, help="folder of the cases, with whichever channels they have")
    verb.add_argument(
        "-o", type=Path, required=True, help="folder for the masks, and masks.csv: what each was made from"
    )
    add_model(verb)
    add_subsets(verb, "available: what each case has (the default), all, singles, or a list such as FLAIR+T1c,T2")
    verb.add_argument("--continue_prediction", action="store_true", help="keep the cases that are finished")
    verb.set_defaults(verb=predict, subsets="available")


def add_evaluate(verb: argparse.ArgumentParser) -> None:
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
        help="scores of empty masks: nnunet, NaN where both are empty (the default), or brats, 1 and 0 / 0 and 374 mm",
    )
    verb.add_argument("--tolerance", type=float, default=1.0, help="of the normalised surface Dice in mm (default: 1)")
    verb.set_defaults(verb=evaluate, subsets="all")


def add_model(verb: argparse.ArgumentParser) -> None:
    """Add the flags by which nnUNetv2_predict names a model and says how to predict, with its defaults."""
    verb.add_argument("-d", required=True, help="dataset: id or name")
    verb.add_argument("-c", required=True, help="configuration")
    verb.add_argument("-tr", default="nnUNetTrainer", help="trainer; any (default: %(default)s)")
    verb.add_argument("-p", default="nnUNetPlans", help="plans (default: %(default)s)")
    verb.add_argument("-f", nargs="+", default=("0", "1", "2", "3", "4"), help="folds (default: 0 1 2 3 4)")
    verb.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")
    verb.add_argument("-device", default="cuda", help="cuda, cpu or mps (default: %(default)s)")
    verb.add_argument("-step_size", type=float, default=0.5, help="of the sliding window (default: %(default)s)")
    verb.add_argument("--disable_tta", action="store_true", help="no mirroring: faster, less accurate")
    verb.add_argument("-nps", type=int, default=3, help="processes that export and score (default: %(default)s)")
    verb.add_argument("-num_parts", type=int, default=1, help="how many such commands share the cases and -o")
    verb.add_argument("-part_id", type=int, default=0, help="which of them this is, from 0")


def add_subsets(verb: argparse.ArgumentParser, meaning: str) -> None:
    """Add what is segmented, and what is removed from the masks."""
    verb.add_argument("--subsets", help=meaning)
    verb.add_argument(
        "--min_voxels", nargs="+", default=(), metavar="REGION=N", help="remove a predicted region of fewer voxels"
    )


# The verbs import what they need when they run: nnU-Net and torch take seconds to load.


def doors(_: argparse.Namespace) -> int:
    """Print the door folder."""
    print(door_folder())
    return 0


def run(parsed: argparse.Namespace) -> int:
    """Become the given command, with the variable set."""
    if not parsed.command:
        raise ValueError("Expected a command such as nnUNetv2_train, got none.")
    name, *arguments = parsed.command
    command = find_command(name)
    os.execve(command, [command, *arguments], with_doors(os.environ))


def doctor(_: argparse.Namespace) -> int:
    """Look at the installation."""
    from nnunetv2_missmod.doctor import run_doctor  # noqa: PLC0415

    return run_doctor()


def phantom(parsed: argparse.Namespace) -> int:
    """Write the synthetic cohort."""
    from nnunetv2_missmod.datasets.phantom import write_phantom_dataset  # noqa: PLC0415

    raw = parsed.o or os.environ.get("nnUNet_raw")  # noqa: SIM112, nnU-Net's spelling
    if not raw:
        raise ValueError("Expected a folder to write to, got neither -o nor the variable nnUNet_raw. Give one of them.")
    folder = write_phantom_dataset(
        Path(raw),
        parsed.d,
        num_training=parsed.training,
        num_test=parsed.test,
        num_modalities=parsed.modalities,
        shape=(parsed.size,) * 3,
        incomplete=parsed.incomplete,
        seed=parsed.seed,
    )
    print(folder)
    return 0


def predict(parsed: argparse.Namespace) -> int:
    """Segment a folder of cases; 1 if a case failed."""
    os.environ.update(with_doors(os.environ))
    from nnunetv2_missmod.evaluation.masks import predict_masks  # noqa: PLC0415

    choice, settings = model_of(parsed)
    failed = predict_masks(
        choice, settings, parsed.i, parsed.o, parsed.subsets, min_voxels_of(parsed), parsed.continue_prediction
    )
    return report_failures(failed)


def evaluate(parsed: argparse.Namespace) -> int:
    """Score every subset; 1 if a case failed."""
    os.environ.update(with_doors(os.environ))
    from nnunetv2_missmod.evaluation.evaluate import EvaluationSettings, evaluate_model  # noqa: PLC0415
    from nnunetv2_missmod.evaluation.metrics import ScoringRules  # noqa: PLC0415

    choice, settings = model_of(parsed)
    rules = ScoringRules(parsed.empty, parsed.tolerance)
    evaluation = EvaluationSettings(parsed.subsets, rules, min_voxels_of(parsed), not parsed.no_save)
    return report_failures(evaluate_model(choice, settings, evaluation, parsed.o, parsed.i, parsed.gt))


def model_of(parsed: argparse.Namespace) -> tuple[ModelChoice, PredictionSettings]:
    """Read the flags of ``add_model``."""
    from nnunetv2_missmod.evaluation.model import ModelChoice, PredictionSettings  # noqa: PLC0415

    choice = ModelChoice(parsed.d, parsed.c, parsed.tr, parsed.p, tuple(parsed.f), parsed.chk)
    mirroring = not parsed.disable_tta
    return choice, PredictionSettings(
        parsed.device, parsed.step_size, mirroring, parsed.nps, parsed.num_parts, parsed.part_id
    )


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


def report_failures(failed: int) -> int:
    """Say how many cases failed; give the exit code."""
    if failed:
        print(
            f"missmod: {failed} {'case' if failed == 1 else 'cases'} failed, see above; the others are done.",
            file=sys.stderr,
        )
    return int(failed > 0)


def report(parsed: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    from nnunetv2_missmod.evaluation.report.page import write_report  # noqa: PLC0415

    print(write_report(parsed.folders, parsed.o))
    return 0


def demo(parsed: argparse.Namespace) -> int:
    """Run the whole job on the phantom; 1 if one of nnU-Net's commands failed."""
    from nnunetv2_missmod.demo import CommandFailedError, run_demo  # noqa: PLC0415

    try:
        run_demo(parsed.out, parsed.trainer, parsed.device)
    except CommandFailedError as error:
        print(f"missmod: {error}", file=sys.stderr)
        return 1
    return 0
