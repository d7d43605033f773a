"""What `missmod convert` does: a folder becomes a dataset with its splits and, if cases are incomplete, fingerprint."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from nnunetv2_missmod.datasets.conversion_report import INCOMPLETE, REFUSED, CaseReport, print_summary
from nnunetv2_missmod.datasets.convert import ConversionSettings, convert, write_json
from nnunetv2_missmod.datasets.described import description_of
from nnunetv2_missmod.datasets.fill import fill
from nnunetv2_missmod.datasets.layouts import read_source
from nnunetv2_missmod.datasets.pattern import PatternLayout
from nnunetv2_missmod.datasets.raw_folder import free_folder
from nnunetv2_missmod.datasets.source import Source
from nnunetv2_missmod.datasets.splits import read_splits, subject_splits

SPLITS_FILE, FINGERPRINT_FILE = "splits_final.json", "dataset_fingerprint.json"


class NnunetFolders(NamedTuple):
    """nnU-Net's three folders; the last two may be unset."""

    raw: Path
    preprocessed: Path | None
    results: Path | None

    @classmethod
    def from_environment(cls) -> NnunetFolders:
        """Read the variables by which nnU-Net knows them.

        Raises:
            ValueError: nnUNet_raw is not set.
        """
        raw, *others = (os.environ.get(f"nnUNet_{name}") for name in ("raw", "preprocessed", "results"))
        if not raw:
            raise ValueError("Expected the variable nnUNet_raw, the folder to write datasets to. Set it.")
        return cls(Path(raw), *(Path(folder) if folder else None for folder in others))


def convert_folder(
    folder: Path,
    dataset_id: int,
    layout: str,
    pattern: PatternLayout | None,
    settings: ConversionSettings,
    split_files: Sequence[Path] = (),
) -> int:
    """Convert a folder, or add the missing files where it is that very dataset; print what became of its cases.

    Args:
        folder, layout, pattern: as in ``read_source``.
        dataset_id: 1 to 999.
        settings: how.
        split_files: published splits; by subject without them.

    Returns:
        How many cases were refused.

    Raises:
        ValueError: something cannot be used; nothing is written then, unless refused cases leave a fold empty.
    """
    folders, folder = NnunetFolders.from_environment(), folder.absolute()
    source = read_source(folder, layout, pattern)
    in_place = source.layout == "nnunet" and _is_dataset(folder, folders.raw, dataset_id)
    if split_files:
        _check_splits(split_files, source, folders)
    if in_place:
        _check_in_place(settings, split_files, folders, folder)
        dataset = folder
        added, reports = fill(source, folder, description_of(folder)["file_ending"], settings.processes)
    else:
        dataset, reports = _convert(source, dataset_id, settings, folders)
    print_summary(reports, source.modalities)
    print(f"Files added to {dataset}: {len(added)}" if in_place else dataset)
    if split_files or not in_place:
        _write_splits(split_files, reports, source, folders, dataset.name)
    if not in_place or added:
        _write_fingerprint(reports, folders, dataset, dataset_id, settings.processes)
    return sum(report.status == REFUSED for report in reports)


def _convert(
    source: Source, dataset_id: int, settings: ConversionSettings, folders: NnunetFolders
) -> tuple[Path, list[CaseReport]]:
    others = [other for other in folders[1:] if other]
    name = free_folder(folders.raw, dataset_id, settings.name or source.name, others).name
    if folders.preprocessed:
        _check_unwritten(folders.preprocessed / name / SPLITS_FILE)
        _check_unwritten(folders.preprocessed / name / FINGERPRINT_FILE)
    return convert(source, folders.raw, dataset_id, settings, others)


def _is_dataset(folder: Path, raw: Path, dataset_id: int) -> bool:
    is_named = folder.name.startswith(f"Dataset{dataset_id:03d}_")
    return is_named and folder.parent.resolve() == raw.resolve()


def _check_splits(split_files: Sequence[Path], source: Source, folders: NnunetFolders) -> None:
    if not folders.preprocessed:
        raise ValueError("Expected the variable nnUNet_preprocessed, where --splits go. Set it, or leave --splits out.")
    read_splits(split_files, {case.name: case.subject for case in source.cases if case.is_training})


def _check_in_place(
    settings: ConversionSettings, split_files: Sequence[Path], folders: NnunetFolders, folder: Path
) -> None:
    if settings.name or settings.copy or settings.complete_only:
        raise ValueError(
            f"Expected another -d with --name, --copy or --complete-only, got that of {folder}, to which missing files "
            "are only added."
        )
    if split_files and folders.preprocessed:
        _check_unwritten(folders.preprocessed / folder.name / SPLITS_FILE)


def _check_unwritten(file: Path) -> None:
    if file.exists():
        raise ValueError(f"Expected no {file.name} of the dataset yet, found {file}: remove it, or choose another -d.")


def _write_splits(
    split_files: Sequence[Path], reports: Sequence[CaseReport], source: Source, folders: NnunetFolders, name: str
) -> None:
    """Write splits_final.json of the cases that are in the dataset."""
    if not folders.preprocessed:
        print("nnUNet_preprocessed is not set: nnU-Net will draw splits of its own.")
        return
    kept = {report.case: report.subject for report in reports if report.is_training}
    left_out: Collection[str] = {case.name for case in source.cases} - kept.keys()
    try:
        splits = read_splits(split_files, kept, left_out) if split_files else subject_splits(kept)
    except ValueError as error:
        raise ValueError(f"The dataset is written, but without splits: {error}") from error
    if not splits:
        print("Too few subjects to split: train with fold all.")
        return
    file = folders.preprocessed / name / SPLITS_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, splits)
    print(f"{len(splits)} folds in {file}")


def _write_fingerprint(
    reports: Sequence[CaseReport], folders: NnunetFolders, dataset: Path, dataset_id: int, processes: int
) -> None:
    """Write the fingerprint of an incomplete cohort before nnU-Net takes the zeros for intensities."""
    if not any(report.is_training and report.status == INCOMPLETE for report in reports):
        return
    later = f"missmod fingerprint -d {dataset_id}"
    if not folders.preprocessed:
        print(f"nnUNet_preprocessed is not set: run {later} before planning, lest zeros count as intensities.")
    elif (file := folders.preprocessed / dataset.name / FINGERPRINT_FILE).exists():
        print(f"{file} is older than the files that were added: run {later} --clean, and plan again.", file=sys.stderr)
    else:
        from nnunetv2_missmod.datasets.fingerprint import write_fingerprint  # noqa: PLC0415, takes seconds to load

        print(f"If this is ended, run {later} before planning.")
        print(write_fingerprint(dataset_id, processes))
