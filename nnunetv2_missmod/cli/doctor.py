"""`missmod doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_missmod.cli.json_output import add_json

MEANING = "say what is wrong with this installation, or with a folder of cases, and how to mend it"
SENTENCE = "Looks at what training and prediction need, and says of each thing that is wrong how to mend it."
EXAMPLE = "missmod doctor"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod doctor`."""
    verb.add_argument("-i", type=Path, help="folder of cases to look at instead, by a calibrated model of -d")
    verb.add_argument("-d", help="their dataset: id or name")
    add_json(verb, "the findings")


def run(parsed: argparse.Namespace) -> int:
    """Look at the installation, or at the cases of a folder."""
    from nnunetv2_missmod.cli.installation import findings, run_doctor  # noqa: PLC0415
    from nnunetv2_missmod.cli.suspected_cases import findings_of_cases  # noqa: PLC0415

    if (parsed.i is None) != (parsed.d is None):
        raise ValueError("Expected -i, a folder of cases, with -d, their dataset, got one of them. Give both or none.")
    looked_at = findings() if parsed.i is None else findings_of_cases(parsed.i, parsed.d)
    return run_doctor(looked_at, parsed.json)
