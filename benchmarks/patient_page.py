"""The tables of a page, made anew from a CSV; its text stays: ``python -m benchmarks.patient_page FILE.csv PAGE.md``.

FILE.csv is what ``benchmarks.patients`` keeps. A group of tables begins with what they rest on ("Seeds ...") and has
the rows of its table of subsets: a line ``| M3AE |`` there adds one. A table with a row for each subset, as README's,
has the rows of its head, and every nnU-Net of one subset alone that has been scored as often as they.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.kept_scores import KeptScores, common_pieces
from benchmarks.patient_tables import OF_ONE_SUBSET, REFERENCE, only_subset, table_by_subset, tables, trainings_of
from nnunetv2_missmod.files.whole_files import write_whole

GROUP = re.compile(r"^Seeds .*\n(?:\n(?:\|.*\n)+)+", re.MULTILINE)
BY_SUBSET = re.compile(r"^\| (?!trainer ).*\| cases \|(.*)\|\n(?:\|.*\n)+", re.MULTILINE)


def main() -> None:
    """Write the page with its tables renewed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    page = renewed(arguments.page.read_text(encoding="utf-8"), KeptScores(arguments.file).wide())
    write_whole(arguments.page, lambda partial: partial.write_text(page, encoding="utf-8"))


def renewed(page: str, wide: pd.DataFrame) -> str:
    """A page with the tables that its rows have by now.

    Args:
        page: Markdown.
        wide: lines of the CSV.

    Raises:
        ValueError: a row is not in the CSV, or a table's rows have no seed and fold in common.
    """
    page = GROUP.sub(
        lambda found: "\n\n".join(tables(wide, rows_in(found[0], wide), against_in(found[0]))) + "\n", page
    )
    return BY_SUBSET.sub(lambda found: of_subsets(cells_of(found[1]), wide) + "\n", page)


def rows_in(group: str, wide: pd.DataFrame) -> list[str]:
    """The rows that a group of tables shows, from its table of subsets."""
    table = next(table for table in group.split("\n\n") if "(n = " in table.splitlines()[0])
    return known([cells_of(line)[0] for line in table.splitlines()[2:]], wide)


def against_in(group: str) -> str:
    """The row of a group's differences."""
    found = re.search(r"^\| trainer \| less (.+) \| 95 %", group, flags=re.MULTILINE)
    return found[1] if found else REFERENCE


def of_subsets(heads: Sequence[str], wide: pd.DataFrame) -> str:
    """A table with a row for each subset.

    Args:
        heads: of the table's columns of Dice.
        wide: lines of the CSV.
    """
    rows = known([head for head in heads if head != OF_ONE_SUBSET], wide)
    pieces = set(common_pieces(wide, rows))
    for row in dict.fromkeys(wide["row"]):
        if row == f"nnU-Net of {only_subset(row)} alone" and pieces <= set(common_pieces(wide, [row])):
            rows.append(row)
    return table_by_subset(trainings_of(wide, rows))


def cells_of(line: str) -> list[str]:
    """The cells of a table's line."""
    return [cell.strip() for cell in line.strip("| ").split("|")]


def known(rows: Sequence[str], wide: pd.DataFrame) -> list[str]:
    """Rows of which each is in the CSV."""
    there = set(wide["row"])
    if unknown := [row for row in rows if row not in there]:
        raise ValueError(
            f"Expected rows of the CSV ({', '.join(sorted(there))}), got {', '.join(unknown)} in the page."
        )
    return list(rows)


if __name__ == "__main__":
    main()
