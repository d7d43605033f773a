"""metrics.csv: what a training measures beyond nnU-Net's own curves, one row per epoch and name."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping

from nnunetv2_missmod.training.checkpoint_files import whole_file

COLUMNS = ("epoch", "name", "value")
LINE_END = "\r\n"  # of a row that was written whole


class EpochLog:
    """A CSV file of (epoch, name, value) that grows with the training and follows it when it resumes.

    nnU-Net's own logger holds a fixed set of curves and stops at any other.
    """

    def __init__(self, file: str):
        self.file = file

    def rows(self) -> list[tuple[int, str, str]]:
        """Read all rows; one that a kill cut off is left out, also where what is left reads as a shorter number."""
        if not os.path.isfile(self.file):
            return []
        with open(self.file, newline="", encoding="utf-8", errors="replace") as file:
            whole = file.read().rpartition(LINE_END)[0]
        rows = [row for row in csv.reader(io.StringIO(whole, newline="")) if len(row) == len(COLUMNS)]
        return [(int(epoch), name, value) for epoch, name, value in rows if epoch.isdecimal()]

    def keep_before(self, epoch: int) -> None:
        """Forget ``epoch`` and what follows: an interrupted run may have written more than its checkpoint knows.

        Raises:
            OSError: the disk is full; the file is as it was.
        """
        kept = [row for row in self.rows() if row[0] < epoch]
        with whole_file(self.file) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator=LINE_END).writerows([COLUMNS, *kept])

    def append(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the values of one epoch.

        Raises:
            OSError: the disk is full; what was logged before stays.
        """
        try:
            with open(self.file, "a", newline="", encoding="utf-8") as file:
                rows = ((epoch, name, f"{value:.6g}") for name, value in values.items())
                csv.writer(file, lineterminator=LINE_END).writerows(rows)
        except OSError as error:
            raise OSError(
                f"{self.file} could not be written: {error}. If the disk is full, free space; the same command with "
                "--c goes on from the last checkpoint."
            ) from error
