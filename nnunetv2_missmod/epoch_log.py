"""metrics.csv: what a training measures beyond nnU-Net's own curves, one row per epoch and name."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping

COLUMNS = ("epoch", "name", "value")


class EpochLog:
    """A CSV file of (epoch, name, value) that grows with the training and follows it when it resumes.

    nnU-Net's own logger holds a fixed set of curves and stops at any other.
    """

    def __init__(self, file: str):
        self.file = file

    def rows(self) -> list[tuple[int, str, str]]:
        """Read all rows; one that a kill cut off is left out."""
        if not os.path.isfile(self.file):
            return []
        with open(self.file, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS) and row[0] != COLUMNS[0]]
            return [(int(epoch), name, value) for epoch, name, value in rows]

    def keep_before(self, epoch: int) -> None:
        """Forget ``epoch`` and what follows: an interrupted run may have written more than its checkpoint knows."""
        kept = [row for row in self.rows() if row[0] < epoch]
        unfinished = f"{self.file}.tmp"
        with open(unfinished, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *kept])
        os.replace(unfinished, self.file)

    def append(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the values of one epoch."""
        with open(self.file, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((epoch, name, f"{value:.6g}") for name, value in values.items())
