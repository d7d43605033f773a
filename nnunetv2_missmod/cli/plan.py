"""`missmod plan`."""

from __future__ import annotations

import argparse
import glob
import os
from pathlib import Path

from nnunetv2_missmod.host.doors import with_doors
from nnunetv2_missmod.machine.chatter import chatter_kept_beside

MEANING = "a plan for a trainer: fitted to its memory, or with its paper's settings"
SENTENCE = "Writes a plan beside nnU-Net's own on the same preprocessed data, or shows what a trainer will do on one."
EXAMPLE = "missmod plan -d 501 -tr DCSegTrainer -c 3d_fullres -gpu_memory_target 8"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod plan`."""
    verb.add_argument("-d", required=True, help="dataset: id or name")
    verb.add_argument("-tr", required=True, help="trainer")
    verb.add_argument("-c", nargs="+", default=(), help="configurations (default: all that the trainer can take)")
    verb.add_argument("-p", default="nnUNetPlans", help="plan to start from, or to show (default: %(default)s)")
    verb.add_argument(
        "-gpu_memory_target", type=float, help="GB of the GPU to fit to (default: that of the plan's planner)"
    )
    verb.add_argument(
        "--setting",
        choices=("nnunet", "paper", "quick"),
        default="nnunet",
        help="nnunet: fitted to the GPU by nnU-Net's planner (the default), paper: the paper's settings, "
        "or quick: a small network and a short schedule, to see all of it at work",
    )
    verb.add_argument(
        "--subset",
        nargs="+",
        default=(),
        help="for a trainer of one subset of the modalities: which, such as FLAIR+T1c; a plan for each, or all",
    )
    verb.add_argument("--merge", type=Path, metavar="FILE", help="JSON: a fragment of a configuration, merged last")
    verb.add_argument(
        "-overwrite_plans_name",
        help="name of the new plan (default: PLANS_TRAINER, PLANS_TRAINER_paper or PLANS_SUBSET)",
    )
    verb.add_argument("--overwrite", action="store_true", help="replace a plan of this name")
    verb.add_argument(
        "-device",
        choices=("auto", "cuda", "cpu"),
        default="auto",
        help="cuda measures the memory, cpu estimates it, auto takes cuda if it is there",
    )
    verb.add_argument("--verbose", action="store_true", help="show what nnU-Net prints instead of logging it")
    verb.add_argument("--show", action="store_true", help="write nothing: print what the trainer will do on plan -p")


def run(parsed: argparse.Namespace) -> int:
    """Write a plan for a trainer, or show what it will do on one."""
    os.environ.update(with_doors(os.environ))
    with chatter_kept_beside(None if parsed.show else folder_of(parsed.d), parsed.verbose):
        plan(parsed)
    return 0


def plan(parsed: argparse.Namespace) -> None:
    """Write a plan, or show one."""
    from nnunetv2_missmod.planning.make import PlanRequest, make_plan, show_plan  # noqa: PLC0415

    choice = parsed.d, parsed.tr, parsed.p, tuple(parsed.c), parsed.gpu_memory_target, parsed.setting
    written = parsed.merge, parsed.overwrite_plans_name, parsed.overwrite
    request = PlanRequest(*choice, *written, parsed.device, tuple(parsed.subset))
    if parsed.show:
        show_plan(request)
    else:
        make_plan(request)


def folder_of(dataset: str) -> Path | None:
    """Find the dataset's preprocessed folder, where its plans are; None if there is no such one."""
    preprocessed = os.environ.get("nnUNet_preprocessed")  # noqa: SIM112, nnU-Net's spelling
    name = f"Dataset{int(dataset):03d}_*" if dataset.isascii() and dataset.isdecimal() else glob.escape(dataset)
    return next(Path(preprocessed).glob(name), None) if preprocessed and name else None
