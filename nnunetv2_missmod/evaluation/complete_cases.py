"""Which cases the means of different subsets may be compared over: those that have every subset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from nnunetv2_missmod.evaluation.summary import case_counts

UNEQUAL = "No case has every subset: the means of different subsets rest on different cases."
UNEQUAL_MARK = "†"


class Cases(NamedTuple):
    """How many cases the means rest on that a value compares; ``same`` says whether on the same ones."""

    fewest: int
    most: int
    same: bool = True

    @classmethod
    def together(cls, cases: Sequence[Cases]) -> Cases:
        """What several values rest on."""
        return cls(min(c.fewest for c in cases), max(c.most for c in cases), all(c.same for c in cases))

    @property
    def text(self) -> str:
        """The number, or the fewest and the most."""
        return str(self.most) if self.fewest == self.most else f"{self.fewest}–{self.most}"

    @property
    def mark(self) -> str:
        """A sign for values that compare different cases."""
        return "" if self.same else UNEQUAL_MARK

    @property
    def in_words(self) -> str:
        """The number with its noun, and a word on what is not comparable."""
        return f"{self.text} {'case' if self.most == 1 else 'cases'}{'' if self.same else ', different ones by subset'}"


class Comparable(NamedTuple):
    """A long table whose subsets rest on the same cases; ``same_cases`` is False where there are none such."""

    table: pd.DataFrame
    same_cases: bool


def on_complete_cases(table: pd.DataFrame) -> Comparable:
    """Leave the cases that have every subset of the table, or all of them where none has.

    A curve over the subsets, its area and their mean compare subsets: a case that lacks modalities has some of them
    alone, so that the means of different subsets would rest on different cases. A score that is undefined leaves its
    case where it is; it is left out of its mean, as everywhere.

    Args:
        table: the long table of one model.
    """
    complete = table.groupby("case")["subset"].transform("nunique") == table["subset"].nunique()
    return Comparable(table[complete], True) if complete.any() else Comparable(table, False)


def cases_of_subsets(comparable: Comparable, metric: str) -> dict[str, Cases]:
    """Count by region the cases that the means of the subsets rest on; a subset without any score is not among them."""
    found = {}
    for region, counts in case_counts(comparable.table, metric).items():
        scored = counts[counts > 0]
        cases = Cases(int(scored.min()), int(scored.max()), comparable.same_cases) if len(scored) else Cases(0, 0)
        found[str(region)] = cases
    return found
