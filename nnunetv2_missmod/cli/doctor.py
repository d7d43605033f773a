"""`missmod doctor`."""

from __future__ import annotations

import argparse

from nnunetv2_missmod.cli.json_output import add_json

MEANING = "say what is wrong with this installation, and how to mend it"
SENTENCE = "Looks at what training and prediction need, and says of each thing that is wrong how to mend it."
EXAMPLE = "missmod doctor"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod doctor`."""
    add_json(verb, "the findings")


def run(parsed: argparse.Namespace) -> int:
    """Look at the installation."""
    from nnunetv2_missmod.cli.installation import run_doctor  # noqa: PLC0415

    return run_doctor(parsed.json)
