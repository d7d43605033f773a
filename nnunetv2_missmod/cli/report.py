"""`missmod report`."""

from __future__ import annotations

import argparse
from pathlib import Path

MEANING = "one HTML page, and tables, of what missmod evaluate wrote"
SENTENCE = "Writes tables, figures and tests of the scores of one or more models into one HTML page."
EXAMPLE = "missmod report scores/dcseg scores/m3ae -o report"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod report`."""
    verb.add_argument("folders", type=Path, nargs="+", help="one folder of scores for each model")
    verb.add_argument("-o", type=Path, required=True, help="folder for the report")


def run(parsed: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    from nnunetv2_missmod.report.page import write_report  # noqa: PLC0415

    print(write_report(parsed.folders, parsed.o))
    return 0
