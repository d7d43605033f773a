"""Task01 of the Medical Segmentation Decathlon: brain tumours, the four modalities of a case in one 4D file.

Which volume is which modality, and which value which label, is read from its dataset.json by name. Which scans are of
one patient is not told; each case counts as a subject of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nnunetv2_missmod.datasets.layouts.archive import Found, cases_of, stem, volume_files
from nnunetv2_missmod.datasets.layouts.brats import MODALITIES, REGIONS
from nnunetv2_missmod.datasets.layouts.described import DESCRIPTION, description_of, is_decathlon, the_described_folder
from nnunetv2_missmod.datasets.layouts.source import LabelScheme, Source

NAMED = {"flair": "FLAIR", "t1w": "T1", "t1gd": "T1c", "t2w": "T2"}
CONVERTED = {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumor": 3}


def read_msd(folder: Path) -> Source:
    """Read Task01; imagesTs has no labels.

    Raises:
        ValueError: there is no dataset.json, or it is of another task.
    """
    root = the_described_folder(folder)
    description = description_of(root)
    if not is_decathlon(description):
        raise ValueError(f"Expected {root / DESCRIPTION} to be the Decathlon's, of 4D images; it is another's.")
    volumes = _numbers_of(root, description, "modality", NAMED)
    values = _numbers_of(root, description, "labels", CONVERTED)
    scheme = LabelScheme({values[name]: label for name, label in CONVERTED.items()}, REGIONS, (1, 2, 3))
    _check_4d(root)
    cases = cases_of(_found(root, volumes), MODALITIES)
    if not any(case.images for case in cases):
        raise ValueError(f"Expected images in {root / 'imagesTr'} or imagesTs, found none. Unpack the whole archive.")
    return Source("msd-task01", "BrainTumour", MODALITIES, scheme, cases)


def _check_4d(root: Path) -> None:
    """nnU-Net v1 keeps the Decathlon's dataset.json beside files of one channel each."""
    for file in (root / "imagesTr").glob("*"):
        if re.search(r"_[0-9]{4}$", stem(file)):
            raise ValueError(
                f"Expected 4D images of the Decathlon, found {file}, as nnU-Net names single channels. "
                "nnUNetv2_convert_old_nnUNet_dataset converts the data of nnU-Net v1."
            )


def _found(root: Path, volumes: Mapping[str, int]) -> Iterable[Found]:
    for file in volume_files(root):
        place = file.parent.name
        if place == "labelsTr":
            yield Found(stem(file), file, None)
        elif place in ("imagesTr", "imagesTs"):
            for name, modality in NAMED.items():
                yield Found(stem(file), file, modality, volumes[name], place=file.parent, is_test=place == "imagesTs")


def _numbers_of(root: Path, description: Mapping[str, Any], entry: str, expected: Iterable[str]) -> dict[str, int]:
    """The number of each name in an entry such as {"0": "FLAIR"}; the Decathlon spells tumor in two ways."""
    listed = description.get(entry, {})
    if not isinstance(listed, dict) or not all(number.isascii() and number.isdecimal() for number in listed):
        raise ValueError(f'Expected {entry} such as {{"0": "name"}} in {root / DESCRIPTION}, got {listed!r}. Mend it.')
    numbers = {str(name).lower().replace("tumour", "tumor"): int(number) for number, name in listed.items()}
    if set(numbers) != set(expected):
        raise ValueError(
            f"Expected {entry} of Task01 ({', '.join(expected)}) in {root / DESCRIPTION}, got "
            f"{', '.join(numbers) or 'none'}. Other tasks are converted by nnUNetv2_convert_MSD_dataset."
        )
    return numbers
