"""`missmod fingerprint`."""

from __future__ import annotations

import argparse

MEANING = "nnU-Net's fingerprint, absent modalities left out"
SENTENCE = "Writes the fingerprint from which nnU-Net plans, with absent modalities left out of its statistics."
EXAMPLE = "missmod fingerprint -d 42"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod fingerprint`, those of nnUNetv2_extract_fingerprint."""
    verb.add_argument("-d", required=True, help="dataset: id or name")
    verb.add_argument("--clean", action="store_true", help="replace a fingerprint that is there")
    verb.add_argument("-np", type=int, default=8, help="processes (default: %(default)s)")


def run(parsed: argparse.Namespace) -> int:
    """Write the fingerprint of a raw dataset."""
    from nnunetv2_missmod.datasets.fingerprint import write_fingerprint  # noqa: PLC0415

    print(write_fingerprint(parsed.d, parsed.np, parsed.clean))
    return 0
