"""`missmod convert`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_missmod.cli.exit_codes import report_failures
from nnunetv2_missmod.datasets.layouts.recognition import LAYOUTS

if TYPE_CHECKING:
    from nnunetv2_missmod.datasets.conversion.availability import PublishedTable
    from nnunetv2_missmod.datasets.layouts.pattern import PatternLayout


MEANING = "a public dataset, or any folder, as an nnU-Net raw dataset"
SENTENCE = "Writes the archive of a public dataset, or any folder of images, as an nnU-Net raw dataset."
EXAMPLE = "missmod convert /data/BraTS2021 -d 42"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod convert`."""
    verb.add_argument("folder", type=Path, metavar="SRC", help="folder of the archive; or nnUNet_raw/DatasetXXX_Name")
    verb.add_argument("-d", type=int, required=True, help="dataset id; that of SRC itself adds its missing files to it")
    verb.add_argument("--name", help="name of the dataset (default: the layout's)")
    verb.add_argument("--layout", default="auto", help=f"one of {', '.join(LAYOUTS)} (default: %(default)s)")
    verb.add_argument("--pattern", help="of the images of --layout pattern: {case}/{case}_{modality}.nii.gz")
    verb.add_argument("--label_pattern", help="of their labels: {case}/{case}_seg.nii.gz")
    verb.add_argument(
        "--modalities", nargs="+", default=(), metavar="NAME=TEXT", help="in channel order, as in FLAIR=flair T1c=t1ce"
    )
    verb.add_argument(
        "--labels", nargs="+", default=(), metavar="NAME=VALUES", help="of the label files, as in edema=2 core=1,4"
    )
    verb.add_argument(
        "--splits",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="published splits: nnU-Net's .json, a .csv of folds, or lists train.txt and val.txt (default: by subject)",
    )
    verb.add_argument(
        "--availability",
        type=Path,
        metavar="FILE",
        help="a .csv of which modalities each case keeps; the other files of the cases in it are left behind",
    )
    verb.add_argument(
        "--mask_order", nargs="+", default=(), metavar="NAME", help="modalities in the order of its masks"
    )
    verb.add_argument("--copy", action="store_true", help="copy files instead of linking to them")
    verb.add_argument("--complete-only", action="store_true", help="leave out cases that lack modalities")
    verb.add_argument("-np", type=int, default=8, help="processes (default: %(default)s)")


def run(parsed: argparse.Namespace) -> int:
    """Convert a folder; 1 if a case was refused."""
    from nnunetv2_missmod.datasets.conversion.convert import ConversionSettings  # noqa: PLC0415
    from nnunetv2_missmod.datasets.conversion.convert_folder import convert_folder  # noqa: PLC0415

    settings = ConversionSettings(parsed.name, parsed.copy, parsed.complete_only, parsed.np)
    refused = convert_folder(
        parsed.folder, parsed.d, parsed.layout, pattern_of(parsed), settings, parsed.splits, table_of(parsed)
    )
    return report_failures(refused)


def pattern_of(parsed: argparse.Namespace) -> PatternLayout | None:
    """Read the flags of `--layout pattern`; None for the other layouts.

    Raises:
        ValueError: they are incomplete, or given with another layout.
    """
    from nnunetv2_missmod.datasets.layouts.label_names import parse_labels  # noqa: PLC0415
    from nnunetv2_missmod.datasets.layouts.pattern import PatternLayout, parse_modalities  # noqa: PLC0415

    if not (parsed.pattern or parsed.label_pattern or parsed.modalities or parsed.labels):
        return None
    if not parsed.pattern:
        raise ValueError("Expected --pattern with --label_pattern, --modalities and --labels, got none. Give it.")
    return PatternLayout(
        parsed.pattern, parse_modalities(parsed.modalities), parsed.label_pattern, parse_labels(parsed.labels)
    )


def table_of(parsed: argparse.Namespace) -> PublishedTable | None:
    """Read the flags of a table of missing modalities.

    Raises:
        ValueError: an order without a table.
    """
    from nnunetv2_missmod.datasets.conversion.availability import PublishedTable  # noqa: PLC0415

    if parsed.availability is None:
        if parsed.mask_order:
            raise ValueError("Expected --availability with --mask_order, got none. Give it, or leave both out.")
        return None
    return PublishedTable(parsed.availability, parsed.mask_order)
