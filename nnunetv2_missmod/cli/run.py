"""`missmod run`."""

from __future__ import annotations

import argparse
import os

from nnunetv2_missmod.host.doors import find_command, with_doors

MEANING = "run any nnU-Net command with nnUNet_extTrainer set"
SENTENCE = "Becomes any command of nnU-Net, with nnUNet_extTrainer set for it alone."
EXAMPLE = "missmod run nnUNetv2_train 501 3d_fullres 0 -tr DCSegTrainer"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the command that `missmod run` becomes."""
    verb.add_argument("command", nargs=argparse.REMAINDER, help="such as nnUNetv2_train, with its arguments")


def run(parsed: argparse.Namespace) -> int:
    """Become the given command, with the variable set."""
    if not parsed.command:
        raise ValueError("Expected a command such as nnUNetv2_train, got none.")
    name, *arguments = parsed.command
    command = find_command(name)
    os.execve(command, [command, *arguments], with_doors(os.environ))
