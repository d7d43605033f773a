"""What a dataset has in nnUNet_preprocessed before nnU-Net plans: splits, and an incomplete cohort's fingerprint."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_missmod.datasets.conversion.availability import AVAILABILITY_FILE, Availability, write_availability
from nnunetv2_missmod.datasets.conversion.outcomes import INCOMPLETE, CaseOutcome
from nnunetv2_missmod.datasets.conversion.splits import Splits, read_splits, subject_splits
from nnunetv2_missmod.datasets.layouts.source import Source
from nnunetv2_missmod.datasets.raw_folder import write_json

SPLITS_FILE, FINGERPRINT_FILE = "splits_final.json", "dataset_fingerprint.json"


@dataclass
class DatasetCompanions:
    """Writes them to the hidden folder of a conversion, before they and the dataset get their places.

    Args:
        source: whose cases become the dataset.
        dataset: its folder in nnUNet_raw; there already if it is filled in place.
        preprocessed: nnUNet_preprocessed, if it is set.
        split_files: published splits; by subject without them.
        processes: that read cases.
        notes: what to say when all is done.
        warnings: likewise, to stderr.
        kept: the modalities that a table leaves the cases that it lists; it goes into the dataset's folder.
    """

    source: Source
    dataset: Path
    preprocessed: Path | None
    split_files: Sequence[Path] = ()
    processes: int = 8
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    kept: Availability = field(default_factory=dict)

    def __call__(self, written: Path, outcomes: Sequence[CaseOutcome]) -> Mapping[Path, Path]:
        """Write the files of a dataset that was written to a hidden folder.

        Returns:
            Where each goes.

        Raises:
            ValueError: published splits do not fit the cases, or a case cannot be read.
            OSError: a file could not be written.
        """
        if self.kept:
            write_availability(written / AVAILABILITY_FILE, self.kept, self.source.modalities)
        # A dataset that is filled lies where it was, and only its new files in the hidden folder.
        hidden = written if self.is_in_place else written.parent
        return {**self._splits(hidden, outcomes), **self._fingerprint(written, hidden, outcomes)}

    @property
    def is_in_place(self) -> bool:
        """Whether the dataset was there before."""
        return self.dataset.exists()

    def place_of(self, name: str) -> Path | None:
        """Where a file goes; None without nnUNet_preprocessed."""
        return self.preprocessed / self.dataset.name / name if self.preprocessed else None

    def check_unwritten(self) -> None:
        """Check that no file of another origin is where the dataset's would go.

        Raises:
            ValueError: there is one.
        """
        names = [SPLITS_FILE] * bool(self.split_files) if self.is_in_place else [SPLITS_FILE, FINGERPRINT_FILE]
        for place in filter(None, map(self.place_of, names)):
            if place.exists():
                raise ValueError(
                    f"Expected no {place.name} of the dataset yet, found {place}: remove it, or choose another -d."
                )

    def _splits(self, hidden: Path, outcomes: Sequence[CaseOutcome]) -> dict[Path, Path]:
        place = self.place_of(SPLITS_FILE)
        if not place:
            self.notes.append("nnUNet_preprocessed is not set: nnU-Net will draw splits of its own.")
        if not place or place.exists():
            return {}
        splits = self._folds(outcomes)
        if not splits:
            has_training = any(outcome.is_training for outcome in outcomes)
            too_few = "Too few subjects to split: train with fold all."
            self.notes.append(too_few if has_training else "There is no training case: nothing can be trained on it.")
            return {}
        write_json(hidden / SPLITS_FILE, splits)
        self.notes.append(f"{len(splits)} folds in {place}")
        return {hidden / SPLITS_FILE: place}

    def _folds(self, outcomes: Sequence[CaseOutcome]) -> Splits:
        kept = {outcome.case: outcome.subject for outcome in outcomes if outcome.is_training}
        left_out: Collection[str] = {case.name for case in self.source.cases} - kept.keys()
        return read_splits(self.split_files, kept, left_out) if self.split_files else subject_splits(kept)

    def _fingerprint(self, written: Path, hidden: Path, outcomes: Sequence[CaseOutcome]) -> dict[Path, Path]:
        """Write the fingerprint of an incomplete cohort before nnU-Net takes the zeros for intensities."""
        added = sorted((written / "imagesTr").iterdir()) if self.is_in_place else []
        is_incomplete = any(outcome.is_training and outcome.status == INCOMPLETE for outcome in outcomes)
        if not is_incomplete or (self.is_in_place and not added):
            return {}
        place, later = self.place_of(FINGERPRINT_FILE), f"missmod fingerprint -d {self.dataset.name[7:10].lstrip('0')}"
        if not place:
            self.notes.append(
                f"nnUNet_preprocessed is not set: run {later} before planning, lest zeros count as intensities."
            )
            return {}
        if place.exists():
            self.warnings.append(
                f"{place} is older than the files that were added: run {later} --clean, and plan again."
            )
            return {}
        from nnunetv2_missmod.datasets.fingerprint import cohort_fingerprint  # noqa: PLC0415, takes seconds to load

        folder = self.dataset if self.is_in_place else written
        write_json(hidden / FINGERPRINT_FILE, cohort_fingerprint(folder, self.processes, added))
        self.notes.append(str(place))
        return {hidden / FINGERPRINT_FILE: place}
