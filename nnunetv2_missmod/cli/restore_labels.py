"""`missmod restore-labels`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_missmod.cli.exit_codes import report_failures

MEANING = "masks with the label values of the dataset's source"
SENTENCE = (
    "Writes masks with the label values that the dataset had before missmod convert, as its challenge wants them."
)
EXAMPLE = "missmod restore-labels -i masks -o submission -d 42"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod restore-labels`."""
    verb.add_argument("-i", type=Path, required=True, help="folder of masks")
    verb.add_argument("-o", type=Path, required=True, help="folder for the masks with the source's label values")
    verb.add_argument("-d", help="dataset: id or name")
    verb.add_argument("-dataset_json", type=Path, help="of the dataset (default: that in nnUNet_raw)")


def run(parsed: argparse.Namespace) -> int:
    """Map masks back to the source's values; 1 if one could not be."""
    from nnunetv2_missmod.datasets.conversion.restore import description_of_dataset, restore_labels  # noqa: PLC0415

    description = parsed.dataset_json or description_of_dataset(parsed.d)
    return report_failures(restore_labels(parsed.i, parsed.o, description), "mask")
