"""A published dataset as an nnU-Net raw dataset, with the cases that lack modalities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2_missmod.datasets.conversion.checks import orientation_of
from nnunetv2_missmod.datasets.conversion.outcomes import REFUSED, CaseOutcome, write_table
from nnunetv2_missmod.datasets.conversion.placing import place_files
from nnunetv2_missmod.datasets.conversion.writing import Target, convert_case
from nnunetv2_missmod.datasets.layouts.source import Source
from nnunetv2_missmod.datasets.raw_folder import free_folder, write_json
from nnunetv2_missmod.files.whole_files import hidden_folder
from nnunetv2_missmod.machine.parallel import in_processes

CONVERTING = "converting"  # purpose of the hidden folder in nnUNet_raw
PARTS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


# What belongs to a dataset beside its folder: from where it is written, and what became of its cases, to finished files
# in the hidden folder above it and where each goes.
Companions = Callable[[Path, Sequence[CaseOutcome]], Mapping[Path, Path]]


def no_companions(_: Path, __: Sequence[CaseOutcome]) -> Mapping[Path, Path]:
    """Write the dataset alone."""
    return {}


@dataclass(frozen=True)
class ConversionSettings:
    """How to convert.

    Args:
        name: of the dataset; the source's own if None.
        copy: copy files instead of linking to them.
        complete_only: leave out the cases that lack modalities.
        processes: that check and write cases.
    """

    name: str | None = None
    copy: bool = False
    complete_only: bool = False
    processes: int = 8


def convert(
    source: Source,
    raw: Path,
    dataset_id: int,
    settings: ConversionSettings | None = None,
    other_folders: Sequence[Path] = (),
    companions: Companions = no_companions,
) -> tuple[Path, list[CaseOutcome]]:
    """Write a source as ``raw``/DatasetXXX_Name: whole, or not at all.

    Args:
        source: its files are linked to or copied, never altered.
        raw: nnUNet_raw.
        dataset_id: 1 to 999.
        settings: how.
        other_folders: nnUNet_preprocessed and nnUNet_results; there the id must not belong to another name.
        companions: its other files, which are in their places when the dataset gets its name.

    Returns:
        The dataset's folder, and what became of every case; those with something wrong are not in the dataset.

    Raises:
        ValueError: id or name cannot be used, no case is left, or a modality is in no training case; nothing is
            written then.
        OSError: a file could not be written; nothing is then.
    """
    settings = settings or ConversionSettings()
    folder = free_folder(raw, dataset_id, settings.name or source.name, other_folders)
    raw.mkdir(parents=True, exist_ok=True)
    # In a hidden folder nnU-Net takes nothing for a dataset, and a conversion that is ended leaves none behind.
    with hidden_folder(raw, CONVERTING) as hidden:
        target = _target(source, hidden / folder.name, settings)
        outcomes = _write_dataset(source, target, settings.processes)
        place_files(companions(target.folder, outcomes), hidden, partial(target.folder.rename, folder), done=folder)
    return folder, outcomes


def _write_dataset(source: Source, target: Target, processes: int) -> list[CaseOutcome]:
    for part in PARTS:
        (target.folder / part).mkdir(parents=True)
    outcomes = in_processes(partial(convert_case, target=target), source.cases, processes, target.folder.name)
    check_cohort(outcomes, source.modalities)
    _remove_empty(target.folder)
    num_training = sum(outcome.is_training for outcome in outcomes)
    write_json(target.folder / "dataset.json", dataset_json(source, num_training, target.file_ending))
    write_table(outcomes, target.folder)
    return outcomes


def check_cohort(outcomes: Sequence[CaseOutcome], modalities: Sequence[str]) -> None:
    """Check that there are cases, and every modality is in one of them.

    Raises:
        ValueError: otherwise.
    """
    written = [outcome for outcome in outcomes if outcome.is_written]
    if not written:
        reasons = "; ".join(f"{outcome.case}: {outcome.why}" for outcome in outcomes[:5])
        raise ValueError(f"Expected cases that can be converted, got none of {len(outcomes)}. {reasons}")
    cohort = [outcome for outcome in written if outcome.is_training] or written
    found = {name for outcome in cohort for name in outcome.subset.split("+")}
    if nowhere := [name for name in modalities if name not in found]:
        raise ValueError(
            f"Expected every modality in at least one training case, got none with {', '.join(nowhere)}: add its "
            f"files, or convert with --layout pattern and only the --modalities that are there.{_refused_too(outcomes)}"
        )


def _refused_too(outcomes: Sequence[CaseOutcome]) -> str:
    """The reasons of refused cases, which may be those that had a modality."""
    refused = [f"{outcome.case}: {outcome.why}" for outcome in outcomes if outcome.status == REFUSED]
    more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
    return f" These cases were refused: {'; '.join(refused[:5])}{more}." if refused else ""


def dataset_json(source: Source, num_training: int, file_ending: str) -> dict[str, Any]:
    """Describe the dataset as nnU-Net wants it, with what restores the source's label values."""
    order = {"regions_class_order": list(source.scheme.regions_class_order)}
    return {
        "channel_names": {str(channel): name for channel, name in enumerate(source.modalities)},
        "labels": dict(source.scheme.labels),
        **(order if source.scheme.regions_class_order else {}),
        "numTraining": num_training,
        "file_ending": file_ending,
        **({"overwrite_image_reader_writer": source.reader} if source.reader else {}),
        "missmod": {
            "layout": source.layout,
            "source_values": {str(label): value for label, value in sorted(source.scheme.to_source().items())},
        },
    }


def _target(source: Source, folder: Path, settings: ConversionSettings) -> Target:
    files = [image.file for case in source.cases for image in case.images.values()]
    files += [case.label for case in source.cases if case.label]
    uncompressed = all(file.name.lower().endswith(".nii") for file in files)
    orientations = Counter(filter(None, (orientation_of(case, source.reader) for case in source.cases)))
    most_common = orientations.most_common(1)[0][0] if orientations else "LPS"
    return Target(
        folder,
        source.modalities,
        source.scheme,
        ".nii" if uncompressed else ".nii.gz",
        most_common,
        settings.copy,
        settings.complete_only,
        source.reader,
        source.unread,
    )


def _remove_empty(folder: Path) -> None:
    for part in ("imagesTs", "labelsTs"):
        if not any((folder / part).iterdir()):
            (folder / part).rmdir()
