"""`missmod report`."""

from __future__ import annotations

import argparse
import glob
from pathlib import Path

MEANING = "one HTML page, and tables, of what missmod evaluate wrote"
SENTENCE = "Writes tables, figures and tests of the scores of one or more models into one HTML page."
EXAMPLE = "missmod report scores/dcseg scores/m3ae -o report"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod report`."""
    verb.add_argument("folders", type=Path, nargs="*", help="one folder of scores for each model")
    verb.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=GLOB",
        help="a model by the folders of its trainings, such as 'dcseg=scores/dcseg_s*': mean and standard deviation",
    )
    verb.add_argument("--reference", metavar="MODEL", help="test the others against this one (default: every two)")
    verb.add_argument(
        "--cases",
        nargs="+",
        default=(),
        metavar="N|NAME",
        help="cases of overlays and viewer, by names or how many: median, worst, best, and on from the worst (default: "
        "3). The viewer's volumes share 12 MB: the more cases, the coarser",
    )
    verb.add_argument("-o", type=Path, required=True, help="folder for the report")


def run(parsed: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    from nnunetv2_missmod.report.page import write_report  # noqa: PLC0415

    print(write_report(parsed.folders, parsed.o, parsed.reference, groups_of(parsed.group), parsed.cases))
    return 0


def groups_of(given: list[str]) -> dict[str, list[Path]]:
    """Find the folders of each group of trainings.

    Args:
        given: NAME=GLOB for each.

    Raises:
        ValueError: one is none, names a group again, or its pattern fits no folder.
    """
    groups: dict[str, list[Path]] = {}
    for text in given:
        name, sign, pattern = text.partition("=")
        if not (name and sign and pattern) or name in groups:
            raise ValueError(
                f"Expected --group NAME=GLOB with a name for each, such as 'dcseg=scores/dcseg_s*', got {text!r}."
            )
        groups[name] = sorted(Path(folder) for folder in glob.glob(pattern) if Path(folder).is_dir())
        if not groups[name]:
            raise ValueError(f"Expected folders of scores that fit {pattern}, got none: correct --group {text}.")
    return groups
