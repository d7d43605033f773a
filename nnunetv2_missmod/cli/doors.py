"""`missmod doors`."""

from __future__ import annotations

import argparse

from nnunetv2_missmod.host.doors import door_folder

MEANING = "print the folder to set nnUNet_extTrainer to"


def add_flags(_: argparse.ArgumentParser) -> None:
    """It has none."""


def run(_: argparse.Namespace) -> int:
    """Print the door folder."""
    print(door_folder())
    return 0
