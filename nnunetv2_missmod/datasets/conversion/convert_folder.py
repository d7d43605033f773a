"""What `missmod convert` does: a folder becomes a dataset with its splits and, if cases are incomplete, fingerprint."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nnunetv2_missmod.datasets.conversion.companions import DatasetCompanions
from nnunetv2_missmod.datasets.conversion.convert import CONVERTING, ConversionSettings, convert
from nnunetv2_missmod.datasets.conversion.fill import FILLING, fill
from nnunetv2_missmod.datasets.conversion.outcomes import REFUSED, TABLE_FILE, print_summary
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
        ValueError: something cannot be used; nothing is written then.
        OSError: a file could not be written; nothing is then.
    """
    folders, folder = NnunetFolders.from_environment(), folder.absolute()
    is_dataset = _is_dataset(folder, folders.raw, dataset_id)
    clear_hidden_folders(folders.raw, CONVERTING, take_back)
    if is_dataset:
        clear_hidden_folders(folder, FILLING, take_back)
    source = read_source(folder, layout, pattern)
    if split_files:
        _check_splits(split_files, source, folders)
    in_place = is_dataset and source.layout == "nnunet"
    others = [other for other in folders[1:] if other]
    name = settings.name or source.name
    dataset = folder if in_place else free_folder(folders.raw, dataset_id, name, others)
    companions = DatasetCompanions(source, dataset, folders.preprocessed, split_files, settings.processes)
    if in_place:
        _check_in_place(settings, folder)
    companions.check_unwritten()
    if in_place:
        ending = description_of(folder)["file_ending"]
        added, outcomes = fill(source, folder, ending, settings.processes, companions)
    else:
        dataset, outcomes = convert(source, folders.raw, dataset_id, settings, others, companions)
    print_summary(outcomes, source.modalities, source.unread.get("", ()))
    print(f"Files added to {dataset}: {len(added)}" if in_place else dataset)
    _print_notes(companions, source)
    return sum(outcome.status == REFUSED for outcome in outcomes)


def _print_notes(companions: DatasetCompanions, source: Source) -> None:
    for note in companions.notes:
        print(note)
    for warning in companions.warnings:
        print(warning, file=sys.stderr)
    if unread := [name for names in source.unread.values() for name in names]:
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


def _check_in_place(settings: ConversionSettings, folder: Path) -> None:
    if settings.name or settings.copy or settings.complete_only:
        raise ValueError(
            f"Expected another -d with --name, --copy or --complete-only, got that of {folder}, to which missing files "
            "are only added."
        )
