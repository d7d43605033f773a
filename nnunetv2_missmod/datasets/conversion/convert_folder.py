"""What `missmod convert` does: a folder becomes a dataset with its splits and, if cases are incomplete, fingerprint."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nnunetv2_missmod.datasets.conversion.availability import (
    PublishedTable,
    read_availability,
    said_of,
    without_absent,
)
from nnunetv2_missmod.datasets.conversion.companions import DatasetCompanions
from nnunetv2_missmod.datasets.conversion.convert import CONVERTING, ConversionSettings, convert
from nnunetv2_missmod.datasets.conversion.fill import FILLING, fill
from nnunetv2_missmod.datasets.conversion.outcomes import REFUSED, TABLE_FILE, CaseOutcome, print_summary
from nnunetv2_missmod.datasets.conversion.placing import take_back
from nnunetv2_missmod.datasets.conversion.splits import read_splits
from nnunetv2_missmod.datasets.layouts.archive import examples
from nnunetv2_missmod.datasets.layouts.described import description_of
from nnunetv2_missmod.datasets.layouts.pattern import PatternLayout
from nnunetv2_missmod.datasets.layouts.recognition import read_source
from nnunetv2_missmod.datasets.layouts.source import Source
from nnunetv2_missmod.datasets.raw_folder import free_folder
from nnunetv2_missmod.files.whole_files import clear_hidden_folders


class NnunetFolders(NamedTuple):
    """nnU-Net's three folders; the last two may be unset."""

    raw: Path
    preprocessed: Path | None
    results: Path | None

    @property
    def others(self) -> list[Path]:
        """Those beside the raw data that are set."""
        return [folder for folder in (self.preprocessed, self.results) if folder]

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
    table: PublishedTable | None = None,
) -> int:
    """Convert a folder, or add the missing files where it is that very dataset; print what became of its cases.

    Args:
        folder, layout, pattern: as in ``read_source``.
        dataset_id: 1 to 999.
        settings: how.
        split_files: published splits; by subject without them.
        table: of the modalities that cases keep; all without it.

    Returns:
        How many cases were refused.

    Raises:
        ValueError: something cannot be used; nothing is written then.
        OSError: a file could not be written; nothing is then.
    """
    folders, folder = NnunetFolders.from_environment(), folder.absolute()
    is_dataset = _is_dataset(folder, folders.raw, dataset_id)
    _clear_dead(folders.raw, folder if is_dataset else None)
    source = read_source(folder, layout, pattern)
    if split_files:
        _check_splits(split_files, source, folders)
    if is_dataset and source.layout == "nnunet":
        companions = DatasetCompanions(source, folder, folders.preprocessed, split_files, settings.processes)
        outcomes = _fill(folder, settings, companions, table)
    else:
        dataset = free_folder(folders.raw, dataset_id, settings.name or source.name, folders.others)
        companions = DatasetCompanions(source, dataset, folders.preprocessed, split_files, settings.processes)
        outcomes = _convert(folders, dataset_id, settings, companions, table)
    _print_notes(companions)
    return sum(outcome.status == REFUSED for outcome in outcomes)


def _clear_dead(raw: Path, dataset: Path | None) -> None:
    """Clear away what dead conversions left."""
    clear_hidden_folders(raw, CONVERTING, take_back)
    if dataset:
        clear_hidden_folders(dataset, FILLING, take_back)


def _convert(
    folders: NnunetFolders,
    dataset_id: int,
    settings: ConversionSettings,
    companions: DatasetCompanions,
    table: PublishedTable | None,
) -> list[CaseOutcome]:
    if table:
        _take_away(table, companions, settings)
    source = companions.source
    companions.check_unwritten()
    dataset, outcomes = convert(source, folders.raw, dataset_id, settings, folders.others, companions)
    print_summary(outcomes, source.modalities, source.unread.get("", ()))
    print(dataset)
    return outcomes


def _fill(
    folder: Path, settings: ConversionSettings, companions: DatasetCompanions, table: PublishedTable | None
) -> list[CaseOutcome]:
    _check_in_place(settings, folder, table)
    source = companions.source
    companions.check_unwritten()
    added, outcomes = fill(source, folder, description_of(folder)["file_ending"], settings.processes, companions)
    print_summary(outcomes, source.modalities, source.unread.get("", ()))
    print(f"Files added to {folder}: {len(added)}")
    return outcomes


def _print_notes(companions: DatasetCompanions) -> None:
    for note in companions.notes:
        print(note)
    for warning in companions.warnings:
        print(warning, file=sys.stderr)
    if unread := [name for names in companions.source.unread.values() for name in names]:
        number = f"{len(unread)} image {'file' if len(unread) == 1 else 'files'}"
        print(
            f"missmod: {number} fitted no rule and did not count: {examples(unread)}. Those that stand with a case are "
            f"in the column unread of {companions.dataset / TABLE_FILE}, the others above.",
            file=sys.stderr,
        )


def _is_dataset(folder: Path, raw: Path, dataset_id: int) -> bool:
    is_named = folder.name.startswith(f"Dataset{dataset_id:03d}_")
    return is_named and folder.parent.resolve() == raw.resolve()


def _check_splits(split_files: Sequence[Path], source: Source, folders: NnunetFolders) -> None:
    if not folders.preprocessed:
        raise ValueError("Expected the variable nnUNet_preprocessed, where --splits go. Set it, or leave --splits out.")
    read_splits(split_files, {case.name: case.subject for case in source.cases if case.is_training})


def _take_away(table: PublishedTable, companions: DatasetCompanions, settings: ConversionSettings) -> None:
    """Leave the cases of a table what it leaves them."""
    if settings.complete_only:
        raise ValueError("Expected one of --availability and --complete-only, which undoes it, got both. Drop one.")
    source = companions.source
    companions.kept = read_availability(table, source)
    companions.source = without_absent(source, companions.kept)
    companions.notes += said_of(source, companions.kept)


def _check_in_place(settings: ConversionSettings, folder: Path, table: PublishedTable | None) -> None:
    if settings.name or settings.copy or settings.complete_only or table:
        raise ValueError(
            f"Expected another -d with --name, --copy, --complete-only or --availability, got that of {folder}, to "
            "which missing files are only added."
        )
