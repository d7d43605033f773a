"""The files that an nnU-Net raw dataset lacks, added where it is."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nnunetv2_missmod.datasets.checks import check_case
from nnunetv2_missmod.datasets.conversion_report import TABLE_FILE, CaseReport, report_case, write_table
from nnunetv2_missmod.datasets.convert import check_cohort
from nnunetv2_missmod.datasets.parallel import in_processes
from nnunetv2_missmod.datasets.source import Source, SourceCase
from nnunetv2_missmod.datasets.writing import Target, write_absent_channels


def fill(source: Source, folder: Path, file_ending: str, processes: int = 8) -> tuple[list[Path], list[CaseReport]]:
    """Give every training case of a raw dataset the channel files it lacks, as volumes of zeros; change no file.

    Args:
        source: read from `folder`.
        folder: DatasetXXX_Name; gets conversion.csv as well.
        file_ending: of the dataset.
        processes: that check cases.

    Returns:
        The files that were added, and what was found in every case; those with something wrong get no file.

    Raises:
        ValueError: no case is sound, or a modality is in no training case; nothing is written then.
    """
    with tempfile.TemporaryDirectory(prefix=".filling_", dir=folder) as hidden:
        target = Target(Path(hidden), source.modalities, source.scheme, file_ending, orientation="")
        (target.folder / "imagesTr").mkdir()
        reports = in_processes(partial(fill_case, target=target), source.cases, processes, folder.name)
        check_cohort(reports, source.modalities)
        added = _move(sorted((target.folder / "imagesTr").iterdir()), folder / "imagesTr")
    if added or not (folder / TABLE_FILE).exists():
        write_table(reports, folder)
    return added, reports


def fill_case(case: SourceCase, target: Target) -> CaseReport:
    """Check one case and write what it lacks, on its own grid."""
    checked = check_case(case, target.scheme)
    if checked.geometry and case.is_training:
        here = replace(target, orientation=checked.geometry.orientation)
        for _ in write_absent_channels(checked, set(target.modalities) - case.images.keys(), here):
            pass
    return report_case(checked, target.modalities)


def _move(files: Sequence[Path], folder: Path) -> list[Path]:
    return [file.rename(folder / file.name) for file in files]
