"""`missmod doors`."""

from __future__ import annotations

import argparse

from nnunetv2_missmod.host.doors import door_folder

MEANING = "print the folder to set nnUNet_extTrainer to"
SENTENCE = "Prints the folder in which nnU-Net finds this package's trainers, for the variable nnUNet_extTrainer."
EXAMPLE = 'export nnUNet_extTrainer="$(missmod doors)"'


def add_flags(_: argparse.ArgumentParser) -> None:
    """It has none."""


def run(_: argparse.Namespace) -> int:
    """Print the door folder."""
    print(door_folder())
    return 0
