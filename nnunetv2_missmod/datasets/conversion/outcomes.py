"""What became of every case of a conversion: a table for the dataset's folder, and a summary to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nnunetv2_missmod.datasets.conversion.checks import CheckedCase
from nnunetv2_missmod.files.names import FORMULA
from nnunetv2_missmod.files.whole_files import write_whole

TABLE_FILE = "conversion.csv"
KEPT, INCOMPLETE, LEFT_OUT, REFUSED = "kept", "incomplete", "left out", "refused"


@dataclass(frozen=True)
class CaseOutcome:
    """A row of conversion.csv.

    Args:
        case: its name.
        subject: the patient.
        part: training or test.
        status: kept, incomplete, left out or refused.
        subset: the modalities that are there, such as FLAIR+T1c.
        why: what is missing or wrong, and what else is worth knowing.
        rewritten: the files that were written again instead of linked or copied, and why.
        sources: the files that were found.
        unread: image files that stand with the case and were taken for none of its parts.
    """

    case: str
    subject: str
    part: str
    status: str
    subset: str
    why: str
    rewritten: str = ""
    sources: str = ""
    unread: str = ""

    @property
    def is_written(self) -> bool:
        """Whether the case is in the dataset."""
        return self.status in (KEPT, INCOMPLETE)

    @property
    def is_training(self) -> bool:
        """Whether the case is in imagesTr."""
        return self.is_written and self.part == "training"

    def as_refused(self, why: str) -> CaseOutcome:
        """The row of a case that turned out to be unusable."""
        return replace(self, status=REFUSED, subset="", why=why)

    def with_rewritten(self, reasons: Sequence[str]) -> CaseOutcome:
        """The row with what was written again."""
        return replace(self, rewritten="; ".join(reasons))


def outcome_of(
    checked: CheckedCase, modalities: Sequence[str], unread: Sequence[str] = (), complete_only: bool = False
) -> CaseOutcome:
    """Describe what was found in a case."""
    case, constant = checked.case, checked.constant or {}
    absent = [name for name in modalities if name not in case.images]
    why = [f"{name} is constant" if name in constant else f"no {name}" for name in absent]
    if not checked.has_foreground:
        why.append("only background in the labels")
    status = (LEFT_OUT if complete_only else INCOMPLETE) if absent else KEPT
    named = {name: image.file for name, image in case.images.items()} | dict(constant)
    files = {name: named[name] for name in modalities if name in named} | ({"labels": case.label} if case.label else {})
    return CaseOutcome(
        case.name,
        case.subject,
        "training" if case.is_training else "test",
        REFUSED if checked.refused else status,
        "" if checked.refused else "+".join(name for name in modalities if name in case.images),
        checked.refused or ", ".join(why),
        sources="; ".join(f"{name}={file}" for name, file in files.items()),
        unread="; ".join(unread),
    )


def write_table(outcomes: Sequence[CaseOutcome], folder: Path) -> None:
    """Write conversion.csv, no cell of which a spreadsheet takes for a formula.

    Raises:
        OSError: it could not be written.
    """
    rows = [{name: _as_text(cell) for name, cell in asdict(outcome).items()} for outcome in outcomes]
    table = pd.DataFrame(rows)
    write_whole(folder / TABLE_FILE, lambda file: table.to_csv(file, index=False, errors="backslashreplace"))


def _as_text(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def print_summary(
    outcomes: Sequence[CaseOutcome],
    modalities: Sequence[str],
    unread: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Print how many cases have which subset, what was written again, and every refused case with its reason.

    Args:
        outcomes: of all cases.
        modalities: in channel order.
        unread: image files that stand with no case.
        console: to print on.
    """
    console = console or Console()
    console.print(_subset_table(outcomes, modalities))
    for reason, count in Counter(
        reason.partition(": ")[2] for outcome in outcomes for reason in set(filter(None, outcome.rewritten.split("; ")))
    ).most_common():
        console.print(f"Files written again, {escape(reason)}: {count}", highlight=False)
    shown_by_table = {"", *(f"no {name}" for name in modalities)}
    notes = Counter(note for outcome in outcomes if outcome.is_written for note in outcome.why.split(", "))
    for note, count in notes.most_common():
        if note not in shown_by_table:
            console.print(f"{count} {'case' if count == 1 else 'cases'}: {escape(note)}", highlight=False)
    if left_out := [outcome.case for outcome in outcomes if outcome.status == LEFT_OUT]:
        console.print(f"Incomplete cases left out: {escape(', '.join(left_out))}", highlight=False)
    if unread:
        console.print(f"Image files that fitted no rule: {escape(', '.join(unread))}", highlight=False, soft_wrap=True)
    for outcome in outcomes:
        if outcome.status == REFUSED:
            console.print(f"Refused {escape(outcome.case)}: {escape(outcome.why)}", highlight=False, soft_wrap=True)


def _subset_table(outcomes: Sequence[CaseOutcome], modalities: Sequence[str]) -> Table:
    counts = Counter((outcome.subset, outcome.part) for outcome in outcomes if outcome.is_written)
    # The largest subsets first; among equals, in channel order.
    order = sorted(
        {subset for subset, _ in counts},
        key=lambda subset: [(-subset.count("+")), *(name not in subset.split("+") for name in modalities)],
    )
    table = Table("modalities", "training", "test")
    for subset in order:
        table.add_row(escape(subset), *(str(counts[subset, part]) for part in ("training", "test")))
    return table
