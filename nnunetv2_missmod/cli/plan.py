"""`missmod plan`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nnunetv2_missmod.host.doors import with_doors

MEANING = "a plan for a trainer: fitted to its memory, or with its paper's settings"


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
        default="nnunet",
        help="nnunet: fitted to the GPU by nnU-Net's planner (the default), or paper: the paper's settings",
    )
    verb.add_argument("--merge", type=Path, metavar="FILE", help="JSON: a fragment of a configuration, merged last")
    verb.add_argument(
        "-overwrite_plans_name", help="name of the new plan (default: PLANS_TRAINER or PLANS_TRAINER_paper)"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace a plan of this name")
    verb.add_argument(
        "-device", default="auto", help="cuda measures the memory, cpu estimates it, auto takes cuda if it is there"
    )
    verb.add_argument("--show", action="store_true", help="write nothing: print what the trainer will do on plan -p")


def run(parsed: argparse.Namespace) -> int:
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
