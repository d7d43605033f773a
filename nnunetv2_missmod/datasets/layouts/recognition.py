"""Read a dataset in any layout that is known, or find out which one it is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from nnunetv2_missmod.datasets.layouts.archive import examples, volume_files
from nnunetv2_missmod.datasets.layouts.brats import YEARS, read_brats, recognised_years
from nnunetv2_missmod.datasets.layouts.described import (
    described_folders,
    description_of,
    is_decathlon,
    is_nnunet,
    the_described_folder,
)
from nnunetv2_missmod.datasets.layouts.msd import read_msd
from nnunetv2_missmod.datasets.layouts.nnunet_raw import read_nnunet
from nnunetv2_missmod.datasets.layouts.pattern import PatternLayout, read_pattern
from nnunetv2_missmod.datasets.layouts.source import Source, check_names
from nnunetv2_missmod.datasets.layouts.unread import unread_images
from nnunetv2_missmod.datasets.layouts.wmh import is_wmh, read_wmh

AUTO, PATTERN = "auto", "pattern"
LAYOUTS = (AUTO, *YEARS, "msd-task01", "wmh", "nnunet", PATTERN)


def read_source(folder: Path, layout: str = AUTO, pattern: PatternLayout | None = None) -> Source:
    """Read which cases a folder has, what its labels mean, and which images belong to none; no image is opened.

    Args:
        folder: what the archive was unpacked to, or a folder above or below it.
        layout: one of ``LAYOUTS``; ``auto`` looks for each of them but ``pattern``.
        pattern: for ``pattern`` alone.

    Raises:
        NotImplementedError: an nnU-Net dataset of a kind that is not supported.
        ValueError: there is no such folder, no or not one layout is recognised, a case is there twice, or a name can
            be no file's.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"Expected a layout among {', '.join(LAYOUTS)}, got {layout!r}.")
    if (pattern is not None) != (layout == PATTERN):
        raise ValueError("Expected a pattern with --layout pattern, and with no other: give both, or neither.")
    folder = Path(os.path.abspath(folder))  # names of folders above the files matter, also for "."
    layout = _recognise(folder) if layout == AUTO else layout
    source = _read(folder, layout, pattern)
    check_names(source)
    root = the_described_folder(folder) if layout in ("msd-task01", "nnunet") else folder
    return replace(source, unread=unread_images(root, source.cases))


def _read(folder: Path, layout: str, pattern: PatternLayout | None) -> Source:
    if pattern is not None:
        return read_pattern(folder, pattern)
    if layout in YEARS:
        return read_brats(folder, volume_files(folder), layout)
    if layout == "wmh":
        return read_wmh(folder, volume_files(folder))
    return read_msd(folder) if layout == "msd-task01" else read_nnunet(folder)


def _recognise(folder: Path) -> str:
    layouts = _described_layouts(folder)
    if "nnunet" not in layouts:  # its files may have any ending
        files = volume_files(folder)
        layouts += recognised_years(folder, files) + ["wmh"] * is_wmh(files)
    if len(layouts) > 1:
        raise ValueError(
            f"Expected one layout below {folder}, found {' and '.join(layouts)}: give the folder of one of them, "
            f"or --layout {layouts[0]} to convert that one alone."
        )
    if not layouts:
        raise ValueError(
            f"Expected a known layout below {folder}, found only files such as "
            f"{examples(file.relative_to(folder) for file in files)}. Looked for the file names of "
            f"{', '.join(name for name in LAYOUTS if name not in (AUTO, PATTERN))}. For any other folder say how its "
            "files are named: --layout pattern with a pattern such as {case}/{case}_{modality}.nii.gz."
        )
    return layouts[0]


def _described_layouts(folder: Path) -> list[str]:
    descriptions = [description_of(described) for described in described_folders(folder)]
    return ["nnunet"] * any(map(is_nnunet, descriptions)) + ["msd-task01"] * any(map(is_decathlon, descriptions))
