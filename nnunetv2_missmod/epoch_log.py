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
        """Read all rows."""
        if not os.path.isfile(self.file):
            return []
        with open(self.file, newline="", encoding="utf-8") as file:
            return [(int(epoch), name, value) for epoch, name, value in list(csv.reader(file))[1:]]

    def keep_before(self, epoch: int) -> None:
        """Forget ``epoch`` and what follows: an interrupted run may have written more than its checkpoint knows."""
        kept = [row for row in self.rows() if row[0] < epoch]
        with open(self.file, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *kept])

    def append(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the values of one epoch."""
        with open(self.file, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((epoch, name, f"{value:.6g}") for name, value in values.items())
