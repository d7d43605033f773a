"""A checked case as files of an nnU-Net raw dataset: linked or copied where they can be, written again where not."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_missmod.datasets.conversion.affine_volumes import REORIENTS, read_any_geometry, rewrite
from nnunetv2_missmod.datasets.conversion.checks import CheckedCase, check_case
from nnunetv2_missmod.datasets.conversion.outcomes import CaseOutcome, outcome_of
from nnunetv2_missmod.datasets.layouts.source import LabelScheme, SourceCase
from nnunetv2_missmod.datasets.volumes import read_volume, volume_number, with_values, write_volume
from nnunetv2_missmod.files.whole_files import write_whole


@dataclass(frozen=True)
class Target:
    """The dataset that cases are written to.

    Args:
        folder: holds imagesTr, labelsTr, imagesTs and labelsTs.
        modalities: in channel order.
        scheme: of the source's labels.
        file_ending: of every file.
        orientation: of every file, such as LPS.
        copy: copy files instead of linking to them.
        complete_only: leave out the cases that lack modalities.
        reader: nnU-Net's, if the dataset chooses one.
        unread: as in ``Source``.
    """

    folder: Path
    modalities: tuple[str, ...]
    scheme: LabelScheme
    file_ending: str
    orientation: str
    copy: bool = False
    complete_only: bool = False
    reader: str = ""
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def convert_case(case: SourceCase, target: Target) -> CaseOutcome:
    """Check one case and write it, unless something is wrong with it.

    Raises:
        OSError: it could not be written.
    """
    checked = check_case(case, target.scheme, target.reader)
    outcome = outcome_of(checked, target.modalities, target.unread.get(case.name, ()), target.complete_only)
    if not outcome.is_written:
        return outcome
    written: list[Path] = []
    rewritten: list[str] = []
    try:
        for file, reasons in _write(checked, target):
            written.append(file)
            rewritten += reasons
    except (ValueError, MemoryError) as error:
        for file in written:
            file.unlink()
        return outcome.as_refused(str(error) or "it needs more memory than there is: ask for fewer processes with -np")
    return outcome.with_rewritten(rewritten)


def write_absent_channels(checked: CheckedCase, absent: Collection[str], target: Target) -> Iterator[Path]:
    """Write volumes of zeros for modalities that a training case lacks."""
    assert checked.geometry
    for channel, modality in enumerate(target.modalities):
        if modality in absent:
            file = target.folder / "imagesTr" / f"{checked.case.name}_{channel:04d}{target.file_ending}"
            checked.geometry.write_empty(file, target.orientation)
            yield file


def _write(checked: CheckedCase, target: Target) -> Iterator[tuple[Path, list[str]]]:
    """Write the files of a case one by one; each comes with why it was written again."""
    case = checked.case
    part = "Tr" if case.is_training else "Ts"
    for channel, modality in enumerate(target.modalities):
        if image := case.images.get(modality):
            file = target.folder / f"images{part}" / f"{case.name}_{channel:04d}{target.file_ending}"
            reasons = _write_file(image.file, image.volume, file, target, None)
            yield file, [f"{modality}: {reason}" for reason in reasons]
    if case.is_training:
        absent = set(target.modalities) - case.images.keys()
        yield from ((file, []) for file in write_absent_channels(checked, absent, target))
    if case.label:
        file = target.folder / f"labels{part}" / f"{case.name}{target.file_ending}"
        yield file, [f"labels: {reason}" for reason in _write_file(case.label, None, file, target, checked)]


def _write_file(source: Path, volume: int | None, file: Path, target: Target, labels: CheckedCase | None) -> list[str]:
    """Bring a source to its place; returns why it had to be written again, nothing if it was linked or copied."""
    place, volumes = read_any_geometry(source, target.reader)
    number = volume_number(volume, volumes, source)
    reasons = _reasons(source, place.orientation, number, target)
    new_label = dict(labels.new_label) if labels and labels.new_label else None
    if labels and new_label:
        reasons += ["stored as float"] * labels.label_is_float
        reasons += ["values mapped"] * any(value != label for value, label in new_label.items())
    if not reasons:
        (_copy if target.copy else _link)(source, file)
    elif target.reader in REORIENTS:
        rewrite(source, number, new_label, file)
    else:
        image = read_volume(source, number, target.orientation)
        write_volume(with_values(image, new_label) if new_label else image, file)
    return reasons


def _copy(source: Path, file: Path) -> None:
    def write(partial: Path) -> None:
        shutil.copyfile(source, partial)
        if (copied := partial.stat().st_size) != (size := source.stat().st_size):
            raise OSError(f"cannot copy {source} to {file}: {copied:,} of {size:,} bytes arrived")

    write_whole(file, write)


def _link(source: Path, file: Path) -> None:
    try:
        file.symlink_to(source.absolute())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise ValueError(f"cannot link to {source} ({error}): convert with --copy") from error


def _reasons(source: Path, orientation: str, volume: int | None, target: Target) -> list[str]:
    found = []
    if volume is not None:
        found.append("one volume of a 4D file")
    if orientation != target.orientation:
        found.append(f"orientation {orientation} to {target.orientation}")
    if not source.name.lower().endswith(target.file_ending):
        found.append(f"ending to {target.file_ending}")
    return found
