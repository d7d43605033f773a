"""`missmod report`."""

from __future__ import annotations

import argparse
from pathlib import Path

MEANING = "one HTML page, and tables, of what missmod evaluate wrote"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod report`."""
    verb.add_argument("folders", type=Path, nargs="+", help="one folder of scores for each model")
    verb.add_argument("--reference", metavar="MODEL", help="test the others against this one (default: every two)")
    verb.add_argument("-o", type=Path, required=True, help="folder for the report")


def run(parsed: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    from nnunetv2_missmod.report.page import write_report  # noqa: PLC0415

    print(write_report(parsed.folders, parsed.o, parsed.reference))
    return 0
