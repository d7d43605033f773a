"""A dataset as it was published, whatever its layout: cases with their files by modality, and what its labels mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_missmod.files.names import check_name


@dataclass(frozen=True)
class ImageFile:
    """One modality of one case.

    Args:
        file: an image that SimpleITK reads.
        volume: which volume of a 4D file; None for a file of one volume.
    """

    file: Path
    volume: int | None = None


@dataclass(frozen=True)
class SourceCase:
    """One scan.

    Args:
        name: of the case in the converted dataset; unique, and valid as a file name.
        subject: the patient; scans of one subject never straddle a split.
        images: the files that are there, by modality.
        label: the file of its labels, if there is one.
        is_training: whether it belongs to imagesTr; cases without labels never do.
    """

    name: str
    subject: str
    images: Mapping[str, ImageFile]
    label: Path | None
    is_training: bool = True


@dataclass(frozen=True)
class LabelScheme:
    """What the values of the label files mean.

    Args:
        from_source: the converted label of each value that may occur in the source's files.
        labels: of dataset.json, in its form: names to a label or, for regions, to several; background first.
        regions_class_order: of dataset.json; empty without regions.
        of_others: values that the labels of another release would have, and which release: one of them in one case
            means that the values of every case mean something else.
    """

    from_source: Mapping[int, int]
    labels: Mapping[str, int | list[int]]
    regions_class_order: tuple[int, ...] = ()
    of_others: Mapping[int, str] = field(default_factory=dict)

    def to_source(self) -> dict[int, int]:
        """The value of each label in the source's files; of several that are one label, the first."""
        return {label: value for value, label in reversed(list(self.from_source.items()))}


@dataclass(frozen=True)
class Source:
    """A dataset as it was published.

    Args:
        layout: name of the layout, such as brats2021.
        name: of the converted dataset unless the user gives another, such as BraTS2021.
        modalities: in channel order.
        scheme: of its labels.
        cases: sorted by name.
        reader: nnU-Net's, if a dataset.json chooses one.
        unread: image files that belong to none of these, by the case that they stand with; "" for those of none.
    """

    layout: str
    name: str
    modalities: tuple[str, ...]
    scheme: LabelScheme
    cases: tuple[SourceCase, ...]
    reader: str = ""
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def check_names(source: Source) -> None:
    """Check that the names of cases, subjects, modalities and labels may become files and cells of tables.

    Raises:
        ValueError: one may not.
    """
    for case in source.cases:
        check_name(case.name, "a case")
        check_name(case.subject, f"the subject of {case.name}")
    for label in source.scheme.labels:
        check_name(label, "a label")
    for modality in source.modalities:
        check_name(modality, "a modality")
        if "+" in modality:
            raise ValueError(
                f"Expected a name for a modality without +, which joins the names of a subset, got {modality!r}. "
                "Rename it."
            )
