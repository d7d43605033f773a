"""The WMH segmentation challenge: FLAIR and T1 of five scanners, lesions, and other pathology that is not scored.

Read are the bias-corrected images of pre/, where the T1 is aligned to the FLAIR; in orig/ it is not. Both archives are
known: the first (Utrecht/0/pre/FLAIR.nii.gz) and the later one, which adds the test cases
(training/Amsterdam/GE3T/100/pre/FLAIR.nii.gz). A case is called by its scanner and number in both: GE3T_100.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnunetv2_missmod.datasets.layouts.archive import Found, cases_of, stem
from nnunetv2_missmod.datasets.layouts.source import LabelScheme, Source

MODALITIES = ("FLAIR", "T1")
IMAGES = {f"pre/{modality.lower()}": modality for modality in MODALITIES}
LABELS = "wmh"
SCHEME = LabelScheme({0: 0, 1: 1, 2: 2}, {"background": 0, "white matter hyperintensity": 1, "ignore": 2})
INSTITUTE_OF_SEVERAL_SCANNERS = "Amsterdam"


def read_wmh(folder: Path, files: Sequence[Path]) -> Source:
    """Read the cases of one or more scanners; what stands below test/ is not for training.

    Raises:
        ValueError: there are none, or a case is there twice.
    """
    found = list(_found(files))
    if not any(part.modality for part in found):
        raise ValueError(
            f"Expected the WMH challenge's files below {folder}, such as Utrecht/0/pre/FLAIR.nii.gz, found none. "
            "--layout auto looks for every layout."
        )
    return Source("wmh", "WMH", MODALITIES, SCHEME, cases_of(found, MODALITIES))


def is_wmh(files: Sequence[Path]) -> bool:
    """Whether a case has the challenge's FLAIR and labels; images alone may be of MRBrainS, whose folders are alike."""
    found = list(_found(files))
    labelled = {part.place for part in found if part.modality is None}
    return any(part.modality == "FLAIR" and part.place in labelled for part in found)


def _found(files: Iterable[Path]) -> Iterable[Found]:
    for file in files:
        if stem(file).lower() == LABELS:
            yield _part(file, file.parent, None)
        elif modality := IMAGES.get(f"{file.parent.name}/{stem(file)}".lower()):
            yield _part(file, file.parent.parent, modality)


def _part(file: Path, place: Path, modality: str | None) -> Found:
    scanner = re.sub(r"[^A-Za-z0-9]+", "_", place.parent.name).strip("_")  # one is called "Philips_VU .PETMR_01."
    of_several = place.parent.parent.name == INSTITUTE_OF_SEVERAL_SCANNERS
    above = place.parents[2 if of_several else 1]
    return Found(f"{scanner}_{place.name}", file, modality, place=place, is_test=above.name.lower() == "test")
