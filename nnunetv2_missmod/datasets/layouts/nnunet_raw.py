"""An nnU-Net raw dataset whose cases may lack channel files; its labels stay what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_missmod.datasets.layouts.archive import Found, cases_of, examples
from nnunetv2_missmod.datasets.layouts.described import DESCRIPTION, check_nnunet, description_of, the_described_folder
from nnunetv2_missmod.datasets.layouts.source import LabelScheme, Source
from nnunetv2_missmod.files.channels import NIFTI, OTHER_VOLUMES, without_ending
from nnunetv2_missmod.files.dataset_json import channel_names

NOT_MEDICAL = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")


def read_nnunet(folder: Path) -> Source:
    """Read imagesTr, labelsTr and, where they are, imagesTs and labelsTs.

    Raises:
        NotImplementedError: the files are listed in dataset.json, or are natural images.
        ValueError: dataset.json is not nnU-Net's, or a file is none of the channels.
    """
    root = the_described_folder(folder)
    description = description_of(root)
    _check_supported(root, description)
    modalities = _modalities(root, description)
    cases = cases_of(_found(root, description["file_ending"], modalities), modalities)
    files = [image.file for case in cases for image in case.images.values()]
    if not any(file.name.lower().endswith(description["file_ending"].lower()) for file in files):
        raise ValueError(
            f"Expected images such as case_0000{description['file_ending']} in {root / 'imagesTr'}, found none. "
            f"The ending is the file_ending of {DESCRIPTION}."
        )
    name = re.sub(r"^Dataset[0-9]+_", "", root.name)
    reader = description.get("overwrite_image_reader_writer", "")
    return Source("nnunet", name, modalities, _scheme(root, description), cases, "" if reader == "None" else reader)


def _check_supported(root: Path, description: Mapping[str, Any]) -> None:
    file = root / DESCRIPTION
    check_nnunet(file, description)
    if "dataset" in description:
        raise NotImplementedError(
            f"{file} lists its files in the entry dataset. Link them into imagesTr and labelsTr as nnU-Net names them, "
            "and remove the entry; or use --layout pattern on the folder that it lists."
        )
    if description["file_ending"].lower() in NOT_MEDICAL:
        raise NotImplementedError(
            f"{file} describes {description['file_ending']} files, which may hold several channels each. Expected "
            "one volume in a file, such as .nii.gz, .nrrd or .mha: convert them first."
        )


def _modalities(root: Path, description: Mapping[str, Any]) -> tuple[str, ...]:
    names = tuple(channel_names(description, str(root / DESCRIPTION)))
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"Expected channels of different names in {root / DESCRIPTION}, got {repeated[0]} twice: modalities are "
            "told apart by name. Rename one."
        )
    return names


def _scheme(root: Path, description: Mapping[str, Any]) -> LabelScheme:
    """The labels as they are; where they leave out numbers, which nnU-Net does not accept, they are numbered anew."""
    labels = {
        name: [int(value) for value in label] if isinstance(label, list) else int(label)
        for name, label in description["labels"].items()
    }
    order = description.get("regions_class_order") or []
    _check_regions(root, labels, order)
    ignored = [label for name, label in labels.items() if name == "ignore" and isinstance(label, int)]
    values = {value for label in labels.values() for value in (label if isinstance(label, list) else [label])}
    ordinary = sorted({0, *values} - {*ignored})
    numbers = {value: number for number, value in enumerate([*ordinary, *ignored])}
    numbered = {
        name: [numbers[value] for value in label] if isinstance(label, list) else numbers[label]
        for name, label in labels.items()
    }
    return LabelScheme(dict(sorted(numbers.items())), numbered, tuple(numbers.get(value, value) for value in order))


def _check_regions(root: Path, labels: Mapping[str, int | list[int]], order: Sequence[int]) -> None:
    named = [name for name, label in labels.items() if name != "ignore" and label not in (0, [0])]
    if any(isinstance(label, list) and len(label) > 1 for label in labels.values()) and len(order) != len(named):
        raise ValueError(
            f"Expected regions_class_order of {len(named)} labels, one for each of {', '.join(named)}, in "
            f"{root / DESCRIPTION}, got {list(order)}. nnU-Net demands it of labels that are lists: add it."
        )
    if isinstance(labels.get("ignore", 1), list) or labels.get("ignore") == 0:
        raise ValueError(f"Expected ignore to be one label above 0 in {root / DESCRIPTION}, got {labels['ignore']}.")


def _found(root: Path, ending: str, modalities: tuple[str, ...]) -> Iterable[Found]:
    for part in ("Tr", "Ts"):
        images, labels = root / f"images{part}", root / f"labels{part}"
        for file, name in _files(images, ending):
            channel = _case_and_channel(file, name, modalities, is_expected=file.name.endswith(ending))
            if channel:
                yield Found(channel[0], file, modalities[channel[1]], place=images, is_test=part == "Ts")
        for file, name in _files(labels, ending):
            yield Found(name, file, None, place=images, is_test=part == "Ts")


def _files(folder: Path, ending: str) -> list[tuple[Path, str]]:
    """The images, and their names without ending: a scan that another tool saved as .nii is no absent one."""
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [(file, without_ending(file.name, (ending, *NIFTI, *OTHER_VOLUMES))) for file in listed]
    return [(file, name) for file, name in names if name is not None and not file.name.startswith(".")]


def _case_and_channel(file: Path, name: str, modalities: tuple[str, ...], is_expected: bool) -> tuple[str, int] | None:
    match = re.fullmatch(r"(.+)_([0-9]{4})", name, re.DOTALL)
    if match and int(match[2]) < len(modalities):
        return match[1], int(match[2])
    if not match and not is_expected:
        return None  # a file of another ending that is called like no channel
    raise ValueError(
        f"Expected a suffix from _0000 to _{len(modalities) - 1:04d} ({examples(modalities, 9)}), got {file}: "
        f"rename or remove it, or add its channel to {DESCRIPTION}."
    )
