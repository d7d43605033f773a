"""`missmod demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunetv2_missmod.cli.exit_codes import SOME_FAILED
from nnunetv2_missmod.machine.chatter import chatter_kept_beside

TRAINER = "DCSegTrainer"
MEANING = "the whole job on the phantom: plan, train, score every subset, report"
SENTENCE = (
    "Makes a synthetic cohort, trains briefly on it, scores every subset of the modalities, and writes the report."
)
EXAMPLE = "missmod demo --quick"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod demo`."""
    verb.add_argument(
        "-o", "--out", type=Path, default=Path("missmod_demo"), help="folder to write to (default: %(default)s)"
    )
    verb.add_argument(
        "--quick", action="store_true", help="train nothing: take the model that comes with the package (a minute)"
    )
    verb.add_argument(
        "--overwrite", action="store_true", help="begin anew where a demo was; else a stopped one goes on"
    )
    verb.add_argument("--trainer", "-tr", help=f"trainer (default: {TRAINER})")
    verb.add_argument(
        "--subset", help="for a trainer of one subset of FLAIR, T1, T1c and T2: which, such as FLAIR+T2 (default: T1c)"
    )
    verb.add_argument(
        "--device", "-device", choices=("cpu", "cuda", "mps"), default="cpu", help="to work on (default: %(default)s)"
    )


def run(parsed: argparse.Namespace) -> int:
    """Run the whole job on the phantom; 1 if one of nnU-Net's commands failed.

    Raises:
        ValueError: a trainer is named for a demo that trains nothing.
    """
    with chatter_kept_beside(None):
        return demo(parsed)


def demo(parsed: argparse.Namespace) -> int:
    """Run it."""
    from nnunetv2_missmod.cli.demo_job import CommandFailedError, run_demo, run_quick_demo  # noqa: PLC0415

    named = f"-tr {parsed.trainer}" if parsed.trainer else f"--subset {parsed.subset}" if parsed.subset else ""
    if parsed.quick and named:
        raise ValueError(f"Expected --quick, which trains nothing, or {named}, got both. Leave out one.")
    try:
        if parsed.quick:
            run_quick_demo(parsed.out, parsed.device, parsed.overwrite)
        else:
            run_demo(parsed.out, parsed.trainer or TRAINER, parsed.device, parsed.overwrite, parsed.subset)
    except CommandFailedError as error:
        print(f"missmod: {error}", file=sys.stderr)
        return SOME_FAILED
    return 0
