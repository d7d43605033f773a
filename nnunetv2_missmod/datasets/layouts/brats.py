"""BraTS from 2018 on, and FeTS 2022: the files of a case stand in one folder and begin with the case's name.

The converted labels are those of nnU-Net's own conversions of BraTS: 1 edema (2023 on: non-enhancing FLAIR
hyperintensity), 2 necrotic or non-enhancing core, 3 enhancing tumour, and 4 resection cavity, which is no tumour.

Which scans are of one patient: the names of 2018 and 2019 end in the number of the scan, those since 2023 in the time
point, so that what stands before is the subject. The names of 2020, 2021 and FeTS 2022 do not tell; there each case
counts as a subject of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2_missmod.datasets.layouts.archive import Found, cases_of, examples, same_content, stem
from nnunetv2_missmod.datasets.layouts.source import LabelScheme, Source

MODALITIES = ("FLAIR", "T1", "T1c", "T2")
LABELS = "labels"
UNTIL_2022 = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1c", "t2": "T2", "seg": LABELS}
SINCE_2023 = {"t2f": "FLAIR", "t1n": "T1", "t1c": "T1c", "t2w": "T2", "seg": LABELS}

# Labels that the official archive of 2020 gives another name.
MISNAMED = {"W39_1998.09.19_Segm": "BraTS20_Training_355_seg"}

REGIONS: dict[str, int | list[int]] = {
    "background": 0,
    "whole tumor": [1, 2, 3],
    "tumor core": [2, 3],
    "enhancing tumor": [3],
}
ENHANCING_IS_4 = LabelScheme({0: 0, 2: 1, 1: 2, 4: 3}, REGIONS, (1, 2, 3))
ENHANCING_IS_3 = LabelScheme({0: 0, 2: 1, 1: 2, 3: 3}, REGIONS, (1, 2, 3))
WITH_CAVITY = LabelScheme({0: 0, 2: 1, 1: 2, 3: 3, 4: 4}, {**REGIONS, "resection cavity": [4]}, (1, 2, 3, 4))

PEDIATRIC = replace(ENHANCING_IS_3, of_others={4: "the pediatric release of 2024, whose edema is 4"})


@dataclass(frozen=True)
class BratsYear:
    """How a year names its files.

    Args:
        name: of the dataset.
        subject: regular expression of a subject's name.
        scan: regular expression of what a case's name adds to it.
        parts: what a file is, by the end of its name.
        scheme: of its labels.
    """

    name: str
    subject: str
    scan: str
    parts: Mapping[str, str]
    scheme: LabelScheme

    def match(self, file: Path) -> re.Match[str] | None:
        """The groups case, subject and part of a file's name, if it is of this year."""
        parts = "|".join(self.parts)
        name = MISNAMED.get(stem(file), stem(file))
        pattern = rf"(?P<case>(?P<subject>{self.subject}){self.scan})[_-](?P<part>(?i:{parts}))"
        return re.fullmatch(pattern, name, re.ASCII)


def _since_2023(challenge: str, scheme: LabelScheme = ENHANCING_IS_3) -> BratsYear:
    return BratsYear(f"BraTS2023-{challenge}", rf"BraTS-{challenge}-\d+", r"-0\d\d", SINCE_2023, scheme)


YEARS: dict[str, BratsYear] = {
    "brats2018": BratsYear("BraTS2018", r"Bra[tT][sS]18_\w+", r"_\d+", UNTIL_2022, ENHANCING_IS_4),
    "brats2019": BratsYear("BraTS2019", r"Bra[tT][sS]19_\w+", r"_\d+", UNTIL_2022, ENHANCING_IS_4),
    "brats2020": BratsYear("BraTS2020", r"BraTS20_[A-Z][a-z]+_\d+", "", UNTIL_2022, ENHANCING_IS_4),
    "brats2021": BratsYear("BraTS2021", r"BraTS2021_\d+", "", UNTIL_2022, ENHANCING_IS_4),
    "brats2023-gli": _since_2023("GLI"),
    "brats2023-ssa": _since_2023("SSA"),
    "brats2023-men": _since_2023("MEN"),
    "brats2023-met": _since_2023("MET"),
    "brats2023-ped": _since_2023("PED", PEDIATRIC),
    "brats2024-gli": BratsYear("BraTS2024-GLI", r"BraTS-GLI-\d+", r"-\d{3}", SINCE_2023, WITH_CAVITY),
    "fets2022": BratsYear("FeTS2022", r"FeTS2022_\d+", "", UNTIL_2022, ENHANCING_IS_4),
}
POST_TREATMENT = re.compile(r"BraTS-GLI-\d+-[1-9]\d\d", re.ASCII)


def read_brats(folder: Path, files: Sequence[Path], layout: str) -> Source:
    """Read the cases of one year; files of other names are left out.

    Raises:
        ValueError: there are none, or a case is there twice.
    """
    year = YEARS[layout]
    found = _without_doublets(list(_found(files, year)))
    if not found:
        raise ValueError(
            f"Expected files of {year.name} below {folder}, found none among {len(files)} such as "
            f"{examples((file.name for file in files), 1)}. --layout auto looks for every layout."
        )
    return Source(layout, year.name, MODALITIES, year.scheme, cases_of(found, MODALITIES))


def recognised_years(folder: Path, files: Sequence[Path]) -> list[str]:
    """The years whose names there are below a folder.

    The time points of post-treatment scans (2024 on) begin at 100, those of 2023 are below; a release with both is
    read as the later one, whose labels include the earlier one's. Pediatric cases have the same names in 2023 and
    2024 but other labels (2024: 1 enhancing, 2 non-enhancing, 3 cystic, 4 edema), so that the folders must say 2023.

    Raises:
        ValueError: they are pediatric cases, and no folder says that they are of 2023.
    """
    years = [layout for layout, year in YEARS.items() if any(year.match(file) for file in files)]
    if "brats2023-ped" in years:
        _check_says_2023(folder, [file for file in files if YEARS["brats2023-ped"].match(file)])
    if "brats2024-gli" in years:
        later = any(POST_TREATMENT.match(file.name) for file in files)
        superseded = "brats2023-gli" if later else "brats2024-gli"
        years = [layout for layout in years if layout != superseded]
    return years


def _check_says_2023(folder: Path, files: Iterable[Path]) -> None:
    for file in files:
        if "2023" not in f"{folder.name}/{file.relative_to(folder).parent}":
            raise ValueError(
                f"Expected a folder above {file} that says 2023: pediatric cases of 2023 and 2024 have the same names, "
                "but other labels. Give --layout brats2023-ped if they are of 2023; for others use --layout pattern."
            )


def _without_doublets(found: Sequence[Found]) -> list[Found]:
    """Leave out the labels of another name where the archive's user put a copy under the right one beside them."""
    rightly_named = {
        (part.place, part.case): part.file for part in found if part.modality is None and not _is_misnamed(part)
    }
    return [
        part
        for part in found
        if not _is_misnamed(part) or not same_content(rightly_named.get((part.place, part.case)), part.file)
    ]


def _is_misnamed(part: Found) -> bool:
    return stem(part.file) in MISNAMED


def _found(files: Iterable[Path], year: BratsYear) -> Iterable[Found]:
    for file in files:
        if match := year.match(file):
            part = year.parts[match["part"].lower()]
            modality = None if part == LABELS else part
            yield Found(match["case"], file, modality, subject=match["subject"], place=file.parent)
