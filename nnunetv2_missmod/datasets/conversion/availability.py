"""Which modalities each case may keep: a table, as papers on imbalanced missing rates publish it, and what it does.

A csv file with a column of cases (one of ``CASE_COLUMNS``) and either a column of 0 and 1 for every modality, or a
column ``mask`` whose cells hold a mark for each (1101, or [True, True, False, True]).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nnunetv2_missmod.datasets.layouts.archive import examples
from nnunetv2_missmod.datasets.layouts.source import Source
from nnunetv2_missmod.files.whole_files import write_whole

AVAILABILITY_FILE = "availability.csv"
CASE_COLUMNS = ("case", "case_id", "data_name", "name", "subject_id")
MASK_COLUMN = "mask"
MARKS = {"1": True, "true": True, "0": False, "false": False}

Availability = Mapping[str, tuple[str, ...]]  # case -> the modalities that it keeps, in channel order


class PublishedTable(NamedTuple):
    """A file and, if it has a column of masks, the modalities in the order of their marks."""

    file: Path
    mask_order: Sequence[str] = ()


class Row(NamedTuple):
    """A line of a table and where it stands."""

    place: str
    cells: Mapping[str, str]


def read_availability(table: PublishedTable, source: Source) -> Availability:
    """Read which modalities each listed case keeps; a name may have a prefix that the source's has not (HG_...).

    Raises:
        ValueError: the file has no such form, or names an unknown modality, an unknown case, a case twice, or one that
            would be left without any modality.
    """
    columns, rows = _read_rows(table.file)
    case_column = next((column for column in columns if column.lower() in CASE_COLUMNS), None)
    if case_column is None:
        raise ValueError(
            f"Expected a column of cases ({', '.join(CASE_COLUMNS)}) in {table.file}, got {', '.join(columns)}."
        )
    cases = _cases_of(table.file, [row.cells[case_column] for row in rows], [case.name for case in source.cases])
    marked = _marked(table, columns, case_column, rows, source.modalities)
    kept: dict[str, tuple[str, ...]] = {}
    for row, case, there in zip(rows, cases, marked, strict=True):
        if case in kept:
            raise ValueError(f"Expected each case once, got {case} again in {row.place}: remove one of its lines.")
        if not there:
            raise ValueError(f"Expected at least one modality for {case}, got none in {row.place}: leave it one.")
        kept[case] = tuple(modality for modality in source.modalities if modality in there)
    return kept


def without_absent(source: Source, kept: Availability) -> Source:
    """Take from the listed cases the images that they do not keep.

    Raises:
        ValueError: a case has none of those that it keeps.
    """
    cases = [
        replace(case, images={name: image for name, image in case.images.items() if name in kept[case.name]})
        if case.name in kept
        else case
        for case in source.cases
    ]
    if bare := [case.name for case in cases if case.name in kept and not case.images]:
        raise ValueError(
            f"Expected a file of at least one modality that a case keeps, got none for {examples(bare)}: such cases "
            "are incomplete already. Leave them another modality."
        )
    return replace(source, cases=tuple(cases))


def said_of(source: Source, kept: Availability) -> list[str]:
    """Say what a table did to a source that had all its images: to how many cases, and where the source has less."""
    unlisted = [case.name for case in source.cases if case.name not in kept]
    has = {case.name: case.images for case in source.cases}
    lacking = [name for name, modalities in kept.items() if not has[name].keys() >= set(modalities)]
    said = [f"Cases that the table lists: {len(kept)}; cases that it does not list, and that keep all: {len(unlisted)}"]
    if lacking:
        said.append(f"Cases that lack files of modalities that the table leaves them: {examples(lacking)}")
    return said


def write_availability(file: Path, kept: Availability, modalities: Sequence[str]) -> None:
    """Write a table with a column of 0 and 1 for every modality.

    Raises:
        OSError: it could not be written.
    """

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="") as lines:
            rows = csv.writer(lines, lineterminator="\n")
            rows.writerow(["case", *modalities])
            rows.writerows([case, *(int(name in kept[case]) for name in modalities)] for case in kept)

    write_whole(file, write)


# --- reading ----------------------------------------------------------------------------------------------------------


def _read_rows(file: Path) -> tuple[list[str], list[Row]]:
    if not file.is_file():
        raise ValueError(f"Expected a table of cases and their modalities, got {file}, which is no file. Check it.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected a csv file in UTF-8, got {file}: {error}. Save it as such.") from error
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    lines = csv.reader(text.splitlines(), delimiter=delimiter)
    try:
        cells = [(lines.line_num, [cell.strip() for cell in line]) for line in lines if any(map(str.strip, line))]
    except csv.Error as error:
        raise ValueError(
            f"Expected a csv file, got {file}, of which line {lines.line_num} is none: {error}."
        ) from error
    if len(cells) < 2:
        raise ValueError(f"Expected a line of column names and a line for each case in {file}, got {len(cells)} lines.")
    columns = cells[0][1]
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise ValueError(f"Expected columns of different names in {file}, got {twice[0]!r} twice: rename one.")
    for number, line in cells[1:]:
        if len(line) != len(columns):
            raise ValueError(
                f"Expected {len(columns)} cells in line {number} of {file}, got {len(line)}: put masks that hold "
                f"{delimiter!r} in quotation marks."
            )
    return columns, [Row(f"line {n} of {file}", dict(zip(columns, line, strict=True))) for n, line in cells[1:]]


def _cases_of(file: Path, listed: Sequence[str], known: Sequence[str]) -> list[str]:
    """The source's name of each listed case."""
    found = [_case_of(name, known) for name in listed]
    if unknown := [name for name, case in zip(listed, found, strict=True) if case is None]:
        raise ValueError(
            f"Expected names of cases in {file}, got {examples(unknown)}, of which the source has none. Its cases are "
            f"called as {examples(known, 1)}: is the table of another release?"
        )
    return [case for case in found if case is not None]


def _case_of(name: str, known: Sequence[str]) -> str | None:
    last = name.rstrip("/").rpartition("/")[2]
    if last in known:
        return last
    prefixed = [case for case in known if last.endswith(f"_{case}")]
    return prefixed[0] if len(prefixed) == 1 else None


def _marked(
    table: PublishedTable, columns: Sequence[str], case_column: str, rows: Sequence[Row], modalities: Sequence[str]
) -> list[set[str]]:
    """The modalities that each row keeps."""
    masks = next((column for column in columns if column.lower() == MASK_COLUMN), None)
    if masks is not None:
        order = _mask_order(table, modalities)
        return [_marked_in_mask(row, row.cells[masks], order) for row in rows]
    if table.mask_order:
        raise ValueError(f"Expected a column {MASK_COLUMN} in {table.file} with --mask_order, got none: leave it out.")
    others = [column for column in columns if column != case_column]
    column_of = {name: _matching(name, others, modalities) for name in modalities}
    unknown = [column for column in others if column not in column_of.values()]
    if unknown or None in column_of.values():
        raise ValueError(
            f"Expected a column of 0 and 1 for each of {', '.join(modalities)} in {table.file}, or a column "
            f"{MASK_COLUMN}, got {', '.join(others) or 'none'}. Rename, add or remove columns."
        )
    return [
        {name for name, column in column_of.items() if column is not None and _mark(row, row.cells[column], column)}
        for row in rows
    ]


def _matching(name: str, columns: Sequence[str], modalities: Sequence[str]) -> str | None:
    """The column of a modality; capital letters count only where they tell two apart."""
    if name in columns:
        return name
    alike = [column for column in columns if column.lower() == name.lower() and column not in modalities]
    return alike[0] if len(alike) == 1 else None


def _mask_order(table: PublishedTable, modalities: Sequence[str]) -> list[str]:
    """The modality of each mark; tables are published in orders that no header says, and a wrong one goes unnoticed."""
    order = [_matching(name, modalities, ()) for name in table.mask_order]
    if None in order or sorted(map(str, order)) != sorted(modalities):
        raise ValueError(
            f"Expected the order of the modalities in the masks of {table.file}, got "
            f"{' '.join(table.mask_order) or 'none'}. Give each once, as in --mask_order {' '.join(modalities)}."
        )
    return [name for name in order if name is not None]


def _marked_in_mask(row: Row, mask: str, order: Sequence[str]) -> set[str]:
    words = re.findall(r"[^\s,;\[\]()]+", mask)
    marks = list(words[0]) if len(words) == 1 and len(order) > 1 else words
    if len(marks) != len(order):
        raise ValueError(f"Expected {len(order)} marks ({', '.join(order)}) in {row.place}, got {mask!r}.")
    return {name for name, mark in zip(order, marks, strict=True) if _mark(row, mark, MASK_COLUMN)}


def _mark(row: Row, text: str, column: str) -> bool:
    if text.lower() not in MARKS:
        raise ValueError(f"Expected 1 or 0, or True or False, as {column} in {row.place}, got {text!r}.")
    return MARKS[text.lower()]
