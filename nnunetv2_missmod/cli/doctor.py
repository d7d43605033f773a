"""`missmod doctor`."""

from __future__ import annotations

import argparse

MEANING = "say what is wrong with this installation, and how to mend it"


def add_flags(_: argparse.ArgumentParser) -> None:
    """It has none."""


def run(_: argparse.Namespace) -> int:
    """Look at the installation."""
    from nnunetv2_missmod.cli.installation import run_doctor  # noqa: PLC0415

    return run_doctor()
