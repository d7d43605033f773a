"""`missmod doctor -i`: what is wrong with the cases of a folder, each with its mend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nnunetv2_missmod.cli.installation import Finding
from nnunetv2_missmod.host.doors import with_doors

OWN_NUMBER = "give each file the number of its own channel   (if a look at the images says so, too)"


def findings_of_cases(folder: Path, dataset: str) -> Iterator[Finding]:
    """Look at every case of a folder: whether it can be read, and whether its files are what their names say.

    Raises:
        ValueError: there is no such folder, or no calibrated model of the dataset.
    """
    os.environ.update(with_doors(os.environ))
    from nnunetv2_missmod.prediction.case_check import check_cases  # noqa: PLC0415, slow import

    for case in check_cases(folder, dataset):
        if case.error:
            yield Finding(f"{case.name}: {case.error}", "repair its files or leave the case out")
        elif case.seen.suspicions:
            yield Finding(f"{case.name}: {case.seen.words}", OWN_NUMBER)
        else:
            yield Finding(f"{case.name}: {case.seen.unfamiliar or 'its files are what their names say'}")
