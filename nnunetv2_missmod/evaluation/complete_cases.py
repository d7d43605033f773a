"""Which cases the means of different subsets may be compared over: those that have a score in every subset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_
from typing import NamedTuple

import pandas as pd

from nnunetv2_missmod.evaluation.summary import case_counts, wide_table

UNEQUAL = "No case has a score in every subset: the means of different subsets rest on different cases."
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
    """Long tables whose subsets rest on the same cases, region by region.

    Attributes:
        tables: of the models; the metric is NaN where a case is left out, in a region, for want of a score.
        same_cases: by region; False where no case has every score, so that all cases stayed.
    """

    tables: list[pd.DataFrame]
    same_cases: pd.Series[bool]


def on_complete_cases(tables: Sequence[pd.DataFrame], metric: str) -> Comparable:
    """Leave, region by region, the cases that have a score in every subset and model; all where there are none.

    A curve over the subsets, its area and their mean compare subsets. Where a case lacks modalities, or its score is
    undefined in some subset, their means would rest on different cases. A subset that no case has a score of asks for
    nothing.

    Args:
        tables: the long table of each model, all with the same cases and regions.
        metric: any metric column.

    Raises:
        ValueError: as ``subset_means``.
    """
    complete = reduce(and_, [_complete(wide_table(table, metric)) for table in tables])
    same_cases = complete.any()
    kept = complete | ~same_cases
    return Comparable([_only(table, metric, kept) for table in tables], same_cases)


def cases_of_subsets(table: pd.DataFrame, metric: str, same_cases: pd.Series[bool]) -> dict[str, Cases]:
    """Count by region the cases that the means of the subsets rest on; a subset without any score is not among them.

    Args:
        table: one of the tables of ``on_complete_cases``.
        metric: any metric column.
        same_cases: of the same call.
    """
    found = {}
    for region, counts in case_counts(table, metric).items():
        scored = counts[counts > 0]
        cases = (
            Cases(int(scored.min()), int(scored.max()), bool(same_cases[str(region)])) if len(scored) else Cases(0, 0)
        )
        found[str(region)] = cases
    return found


def _complete(wide: pd.DataFrame) -> pd.DataFrame:
    """Tell of each case (rows) and region (columns) whether it has every score that any case has."""
    used = wide.columns[wide.notna().any()]
    by_region = {
        region: wide[[column for column in used if column[0] == region]].notna().all(axis="columns")
        if region in used.get_level_values("region")
        else pd.Series(False, index=wide.index)
        for region in wide.columns.unique("region")
    }
    complete: pd.DataFrame = pd.DataFrame(by_region)
    return complete


def _only(table: pd.DataFrame, metric: str, kept: pd.DataFrame) -> pd.DataFrame:
    rows = pd.MultiIndex.from_frame(table[["case", "region"]])
    is_kept = kept.stack(future_stack=True).reindex(rows, fill_value=False).to_numpy(dtype=bool)
    only: pd.DataFrame = table.assign(**{metric: table[metric].where(is_kept)})
    return only
