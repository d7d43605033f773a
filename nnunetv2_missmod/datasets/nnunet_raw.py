"""An nnU-Net raw dataset whose cases may lack channel files; its labels stay what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nnunetv2_missmod.datasets.archive import Found, cases_of, examples
from nnunetv2_missmod.datasets.described import DESCRIPTION, description_of, is_nnunet, the_described_folder
from nnunetv2_missmod.datasets.source import LabelScheme, Source

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
    modalities = _modalities(root, description["channel_names"])
    cases = cases_of(_found(root, description["file_ending"], modalities), modalities)
    if not cases:
        raise ValueError(
            f"Expected images such as case_0000{description['file_ending']} in {root / 'imagesTr'}, found none. "
            f"The ending is the file_ending of {DESCRIPTION}."
        )
    name = re.sub(r"^Dataset\d+_", "", root.name)
    return Source("nnunet", name, modalities, _scheme(root, description), cases)


def _check_supported(root: Path, description: Mapping[str, Any]) -> None:
    file = root / DESCRIPTION
    if not is_nnunet(description):
        raise ValueError(
            f"Expected channel_names in {file}, got none. Is it nnU-Net v1's? nnUNetv2_convert_old_nnUNet_dataset "
            "converts it."
        )
    if missing := [entry for entry in ("labels", "file_ending") if entry not in description]:
        raise ValueError(f"Expected {' and '.join(missing)} in {file}, as nnU-Net demands. Add what is missing.")
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


def _modalities(root: Path, channel_names: Mapping[str, str]) -> tuple[str, ...]:
    if sorted(channel_names, key=int) != [str(channel) for channel in range(len(channel_names))]:
        raise ValueError(f"Expected channels 0, 1, ... in {root / DESCRIPTION}, got {', '.join(channel_names)}.")
    names = tuple(channel_names[str(channel)] for channel in range(len(channel_names)))
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"Expected channels of different names in {root / DESCRIPTION}, got {repeated[0]} twice: modalities are "
            "told apart by name. Rename one."
        )
    return names


def _scheme(root: Path, description: Mapping[str, Any]) -> LabelScheme:
    labels: dict[str, int | list[int]] = {}
    for name, label in description["labels"].items():
        if not isinstance(label, (int, list)) or (isinstance(label, list) and not label):
            raise ValueError(
                f"Expected labels such as lesion: 1 in {root / DESCRIPTION}, as nnU-Net v2 has them, got "
                f"{name}: {label!r}. Mend the file."
            )
        labels[name] = label
    values = {value for label in labels.values() for value in (label if isinstance(label, list) else [label])}
    order = tuple(description.get("regions_class_order") or ())
    return LabelScheme({value: value for value in sorted({0, *values})}, labels, order)


def _found(root: Path, ending: str, modalities: tuple[str, ...]) -> Iterable[Found]:
    for part in ("Tr", "Ts"):
        images, labels = root / f"images{part}", root / f"labels{part}"
        for file in _files(images, ending):
            case, channel = _case_and_channel(file, ending, modalities)
            yield Found(case, file, modalities[channel], place=images, is_test=part == "Ts")
        for file in _files(labels, ending):
            yield Found(file.name.removesuffix(ending), file, None, place=images, is_test=part == "Ts")


def _files(folder: Path, ending: str) -> list[Path]:
    listed = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in listed if file.name.endswith(ending) and not file.name.startswith("."))


def _case_and_channel(file: Path, ending: str, modalities: tuple[str, ...]) -> tuple[str, int]:
    match = re.fullmatch(r"(.+)_(\d{4})", file.name.removesuffix(ending))
    if not match or int(match[2]) >= len(modalities):
        raise ValueError(
            f"Expected a suffix from _0000 to _{len(modalities) - 1:04d} ({examples(modalities, 9)}), got {file}: "
            f"rename or remove it, or add its channel to {DESCRIPTION}."
        )
    return match[1], int(match[2])
