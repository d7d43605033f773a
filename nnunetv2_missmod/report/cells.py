"""The cells and rows that the tables of the report are made of."""

from __future__ import annotations

from typing import Literal, NamedTuple

from nnunetv2_missmod.evaluation.complete_cases import Cases

UNDEFINED = "–"


class Cell(NamedTuple):
    """A printed value and its place among the models of its row and region.

    ``low`` and ``high`` are the bounds of its 95 % interval, ``spread`` the standard deviation over trainings; "" where
    there is none.
    """

    text: str
    cases: Cases
    place: Literal["best", "second", ""] = ""
    low: str = ""
    high: str = ""
    spread: str = ""

    @property
    def interval(self) -> str:
        """The bounds in brackets, "" where there are none."""
        return f"[{self.low}, {self.high}]" if self.low else ""

    @property
    def deviation(self) -> str:
        """The spread after its sign, "" where there is none."""
        return f"± {self.spread}" if self.spread else ""

    @property
    def mark(self) -> str:
        """A sign at a value that compares different cases."""
        return "" if self.text == UNDEFINED else self.cases.mark


class Row(NamedTuple):
    """A subset, a summary or a modality: which modalities are present, and cells in the order of the columns."""

    name: str
    present: list[bool]
    cells: list[Cell]

    @property
    def cases(self) -> Cases:
        """How many cases its cells rest on."""
        return Cases.together([cell.cases for cell in self.cells])
