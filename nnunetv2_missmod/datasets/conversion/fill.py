"""The files that an nnU-Net raw dataset lacks, added where it is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from nnunetv2_missmod.datasets.conversion.checks import CheckedCase, check_case
from nnunetv2_missmod.datasets.conversion.convert import Companions, check_cohort, no_companions
from nnunetv2_missmod.datasets.conversion.outcomes import TABLE_FILE, CaseOutcome, outcome_of, write_table
from nnunetv2_missmod.datasets.conversion.placing import place_files
from nnunetv2_missmod.datasets.conversion.writing import Target, write_absent_channels
from nnunetv2_missmod.datasets.layouts.source import Source, SourceCase
from nnunetv2_missmod.files.whole_files import hidden_folder
from nnunetv2_missmod.machine.parallel import in_processes

FILLING = "filling"  # purpose of the hidden folder in the dataset's


def fill(
    source: Source, folder: Path, file_ending: str, processes: int = 8, companions: Companions = no_companions
) -> tuple[list[Path], list[CaseOutcome]]:
    """Give every training case of a raw dataset the channel files it lacks, as volumes of zeros; change no file.

    Args:
        source: read from `folder`.
        folder: DatasetXXX_Name; gets conversion.csv as well.
        file_ending: of the dataset.
        processes: that check cases.
        companions: its other files; called with a folder whose imagesTr holds the files to add.

    Returns:
        The files that were added, and what was found in every case; those with something wrong get no file.

    Raises:
        ValueError: the labels are not numbered as nnU-Net demands, no case is sound, or a modality is in no training
            case; nothing is written then.
        OSError: a file could not be written; nothing is then.
    """
    _check_labels(source, folder)
    with hidden_folder(folder, FILLING) as hidden:
        target = Target(
            hidden,
            source.modalities,
            source.scheme,
            file_ending,
            orientation="",
            reader=source.reader,
            unread=source.unread,
        )
        (hidden / "imagesTr").mkdir()
        outcomes = in_processes(partial(fill_case, target=target), source.cases, processes, folder.name)
        check_cohort(outcomes, source.modalities)
        added = {file: folder / "imagesTr" / file.name for file in sorted((hidden / "imagesTr").iterdir())}
        if added or not (folder / TABLE_FILE).exists():
            write_table(outcomes, hidden)
        place_files({**added, **companions(hidden, outcomes)}, hidden, partial(_move_table, hidden, folder))
    return list(added.values()), outcomes


def fill_case(case: SourceCase, target: Target) -> CaseOutcome:
    """Check one case and write what it lacks, on its own grid.

    Raises:
        OSError: it could not be written.
    """
    checked = _readable_by_nnunet(check_case(case, target.scheme, target.reader), target.file_ending)
    if checked.geometry and case.is_training and not checked.refused:
        here = replace(target, orientation=checked.geometry.orientation)
        for _ in write_absent_channels(checked, set(target.modalities) - case.images.keys(), here):
            pass
    return outcome_of(checked, target.modalities, target.unread.get(case.name, ()))


def _readable_by_nnunet(checked: CheckedCase, file_ending: str) -> CheckedCase:
    """Refuse a case of which nnU-Net would not read a file, or its labels wrongly: here no file is changed."""
    case = checked.case
    files = [*(image.file for image in case.images.values()), *(checked.constant or {}).values()]
    for file in [*files, *([case.label] if case.label else [])]:
        if not checked.refused and not file.name.endswith(file_ending):
            why = (
                f"expected files that end in {file_ending}, got {file}, which nnU-Net passes over: rename or convert it"
            )
            checked = replace(checked, refused=f"{why}; with another -d it is converted")
    if checked.label_is_rounded and not checked.refused:
        why = f"expected whole numbers in {case.label}, got values that a rounding error keeps from being whole"
        checked = replace(checked, refused=f"{why}: write it again; with another -d it is")
    return checked


def _check_labels(source: Source, folder: Path) -> None:
    if any(value != label for value, label in source.scheme.from_source.items()):
        raise ValueError(
            f"Expected labels 0, 1, 2, ... in {folder / 'dataset.json'}, as nnU-Net demands, got "
            f"{', '.join(map(str, sorted(source.scheme.from_source)))}. Here no file is changed; with another -d they "
            "are numbered anew, and missmod restore-labels brings them back."
        )


def _move_table(hidden: Path, folder: Path) -> None:
    if (hidden / TABLE_FILE).exists():
        (hidden / TABLE_FILE).replace(folder / TABLE_FILE)
