"""The command line: `missmod` and its verbs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_missmod.doors import door_folder, find_command, with_doors
from nnunetv2_missmod.flags import (
    add_convert,
    add_demo,
    add_evaluate,
    add_fingerprint,
    add_phantom,
    add_plan,
    add_predict,
    add_report,
    add_restore_labels,
    add_run,
)
from nnunetv2_missmod.workers import INTERRUPTED, ending_cleanly

if TYPE_CHECKING:
    from nnunetv2_missmod.datasets.pattern import PatternLayout
    from nnunetv2_missmod.evaluation.model import ModelChoice, PredictionSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Mistakes of the user, and of the disk, are said in a line; the exit code is then 2."""
    parsed = build_parser().parse_args(arguments)
    try:
        with ending_cleanly():
            code: int = parsed.verb(parsed)
    except (ValueError, NotImplementedError, OSError) as error:
        print(f"missmod: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("missmod: ended. What is finished is kept.", file=sys.stderr)
        return INTERRUPTED
    return code


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their flags; the flags are nnU-Net's where nnU-Net has them."""
    parser = argparse.ArgumentParser("missmod", description="nnU-Net v2 when modalities are missing.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add(name: str, run_verb: Callable[[argparse.Namespace], int], meaning: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=meaning)
        verb.set_defaults(verb=run_verb)
        return verb

    add("doors", doors, "print the folder to set nnUNet_extTrainer to")
    add_run(add("run", run, "run any nnU-Net command with nnUNet_extTrainer set"))
    add("doctor", doctor, "say what is wrong with this installation, and how to mend it")
    add_phantom(add("phantom", phantom, "write a synthetic cohort as an nnU-Net raw dataset"))
    add_convert(add("convert", convert, "a public dataset, or any folder, as an nnU-Net raw dataset"))
    add_fingerprint(add("fingerprint", fingerprint, "nnU-Net's fingerprint, absent modalities left out"))
    add_restore_labels(add("restore-labels", restore_labels, "masks with the label values of the dataset's source"))
    add_plan(add("plan", plan, "a plan for a trainer: fitted to its memory, or with its paper's settings"))
    add_predict(add("predict", predict, "masks from what each case has, or from subsets of its modalities"))
    add_evaluate(add("evaluate", evaluate, "masks and scores of every subset of the modalities"))
    add_report(add("report", report, "one HTML page, and tables, of what missmod evaluate wrote"))
    add_demo(add("demo", demo, "the whole job on the phantom: plan, train, score every subset, report"))
    return parser


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
        hard=parsed.hard,
        seed=parsed.seed,
    )
    print(folder)
    return 0


def convert(parsed: argparse.Namespace) -> int:
    """Convert a folder; 1 if a case was refused."""
    from nnunetv2_missmod.datasets.convert import ConversionSettings  # noqa: PLC0415
    from nnunetv2_missmod.datasets.convert_folder import convert_folder  # noqa: PLC0415

    settings = ConversionSettings(parsed.name, parsed.copy, parsed.complete_only, parsed.np)
    refused = convert_folder(parsed.folder, parsed.d, parsed.layout, pattern_of(parsed), settings, parsed.splits)
    return report_failures(refused)


def pattern_of(parsed: argparse.Namespace) -> PatternLayout | None:
    """Read the flags of `--layout pattern`; None for the other layouts.

    Raises:
        ValueError: they are incomplete, or given with another layout.
    """
    from nnunetv2_missmod.datasets.label_names import parse_labels  # noqa: PLC0415
    from nnunetv2_missmod.datasets.pattern import PatternLayout, parse_modalities  # noqa: PLC0415

    if not (parsed.pattern or parsed.label_pattern or parsed.modalities or parsed.labels):
        return None
    if not parsed.pattern:
        raise ValueError("Expected --pattern with --label_pattern, --modalities and --labels, got none. Give it.")
    return PatternLayout(
        parsed.pattern, parse_modalities(parsed.modalities), parsed.label_pattern, parse_labels(parsed.labels)
    )


def fingerprint(parsed: argparse.Namespace) -> int:
    """Write the fingerprint of a raw dataset."""
    from nnunetv2_missmod.datasets.fingerprint import write_fingerprint  # noqa: PLC0415

    print(write_fingerprint(parsed.d, parsed.np, parsed.clean))
    return 0


def restore_labels(parsed: argparse.Namespace) -> int:
    """Map masks back to the source's values; 1 if one could not be."""
    from nnunetv2_missmod.datasets.restore import description_of_dataset, restore_labels  # noqa: PLC0415

    description = parsed.dataset_json or description_of_dataset(parsed.d)
    return report_failures(restore_labels(parsed.i, parsed.o, description), "mask")


def plan(parsed: argparse.Namespace) -> int:
    """Write a plan for a trainer, or show what it will do on one."""
    os.environ.update(with_doors(os.environ))
    from nnunetv2_missmod.planning.make import PlanRequest, make_plan, show_plan  # noqa: PLC0415

    choice = parsed.d, parsed.tr, parsed.p, tuple(parsed.c), parsed.gpu_memory_target, parsed.setting
    request = PlanRequest(*choice, parsed.merge, parsed.overwrite_plans_name, parsed.overwrite, parsed.device)
    if parsed.show:
        show_plan(request)
    else:
        make_plan(request)
    return 0


def predict(parsed: argparse.Namespace) -> int:
    """Segment a folder of cases; 1 if a case failed."""
    os.environ.update(with_doors(os.environ))
    from nnunetv2_missmod.evaluation.masks import predict_masks  # noqa: PLC0415

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


def report_failures(failed: int, what: str = "case") -> int:
    """Say how many cases failed; give the exit code."""
    if failed:
        print(
            f"missmod: {failed} {what if failed == 1 else f'{what}s'} failed, see above; the others are done.",
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
