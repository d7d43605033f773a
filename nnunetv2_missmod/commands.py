"""The command line: `missmod` and its verbs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Mistakes of the user are said in a line; the exit code is then 2."""
    parsed = build_parser().parse_args(arguments)
    try:
        code: int = parsed.verb(parsed)
    except ValueError as error:
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

    verb = verbs.add_parser("phantom", help="write a synthetic cohort as an nnU-Net raw dataset")
    verb.add_argument("-d", type=int, default=501, help="dataset id (default: %(default)s)")
    verb.add_argument("-o", type=Path, help="folder to write to (default: nnUNet_raw)")
    verb.add_argument("--training", type=int, default=20, help="training cases (default: %(default)s)")
    verb.add_argument("--test", type=int, default=4, help="test cases (default: %(default)s)")
    verb.add_argument("--modalities", type=int, default=4, help="channels per case (default: %(default)s)")
    verb.add_argument("--size", type=int, default=64, help="voxels along each axis (default: %(default)s)")
    verb.add_argument("--incomplete", type=float, default=0.0, help="share of training cases that lack channels")
    verb.add_argument("--seed", type=int, default=0)
    verb.set_defaults(verb=phantom)

    verb = verbs.add_parser("demo", help="the whole job on the phantom: plan, train, predict every subset, score")
    verb.add_argument(
        "--out", type=Path, default=Path("missmod_demo"), help="folder to write to (default: %(default)s)"
    )
    verb.add_argument("--trainer", "-tr", default="DCSegTrainer", help="trainer (default: %(default)s)")
    verb.add_argument("--device", "-device", default="cpu", help="cpu, cuda or mps (default: %(default)s)")
    verb.set_defaults(verb=demo)
    return parser


# The verbs import what they need when they run: nnU-Net and torch take seconds to load.


def doors(_: argparse.Namespace) -> int:
    """Print the door folder."""
    from nnunetv2_missmod.doors import door_folder  # noqa: PLC0415

    print(door_folder())
    return 0


def run(parsed: argparse.Namespace) -> int:
    """Become the given command, with the variable set."""
    from nnunetv2_missmod.doors import find_command, with_doors  # noqa: PLC0415

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


def demo(parsed: argparse.Namespace) -> int:
    """Run the whole job on the phantom; 1 if one of nnU-Net's commands failed."""
    from nnunetv2_missmod.demo import CommandFailedError, run_demo  # noqa: PLC0415

    try:
        run_demo(parsed.out, parsed.trainer, parsed.device)
    except CommandFailedError as error:
        print(f"missmod: {error}", file=sys.stderr)
        return 1
    return 0
