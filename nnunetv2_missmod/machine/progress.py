"""How far a piece of work is, on standard error: a bar on a terminal, elsewhere a line for every tenth."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
TENTHS = 10


class Bar(Protocol):
    """What shows how far a piece of work is."""

    def advance(self, amount: float = 1) -> None:
        """Move on by this much."""

    def reach(self, done: float) -> None:
        """Be this far, counted from the beginning."""


@contextmanager
def progress(title: str, total: float) -> Iterator[Bar]:
    """Show how far a piece of work is for as long as it takes; what is printed meanwhile stands above the bar.

    Args:
        title: of the work.
        total: how much there is of it.
    """
    if not sys.stderr.isatty():
        yield Lines(title, total, sys.stderr)
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    both = sys.stdout.isatty()  # otherwise what is piped on would end up above the bar
    console = Console(file=sys.stderr)
    with Progress(*columns, TextColumn("left:"), TimeRemainingColumn(), console=console, redirect_stdout=both) as bar:
        yield TerminalBar(bar, title, total)


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Give items on, and show how many of them are done with."""
    with progress(title, total) as bar:
        for item in items:
            yield item
            bar.advance()


class TerminalBar:
    """A bar on a terminal."""

    def __init__(self, bar: Progress, title: str, total: float):
        self.bar, self.task = bar, bar.add_task(title, total=total)

    def advance(self, amount: float = 1) -> None:
        """Move on by this much."""
        self.bar.advance(self.task, amount)

    def reach(self, done: float) -> None:
        """Be this far, counted from the beginning."""
        self.bar.update(self.task, completed=done)


class Lines:
    """A line for every tenth, where a bar would be hundreds of lines."""

    def __init__(self, title: str, total: float, stream: TextIO):
        self.title, self.total, self.stream = title, total, stream
        self.begun = time.monotonic()
        self.done, self.tenths = 0.0, 0

    def advance(self, amount: float = 1) -> None:
        """Move on by this much."""
        self.reach(self.done + amount)

    def reach(self, done: float) -> None:
        """Be this far, counted from the beginning."""
        self.done = done
        tenths = int(TENTHS * done / self.total + 1e-6) if self.total else 0  # the parts of a whole add up inexactly
        if tenths > self.tenths:
            self.tenths = tenths
            gone = time.monotonic() - self.begun
            left = gone * max(0.0, self.total - done) / done
            times = f"{duration(gone)} gone, {duration(left)} left"
            print(f"{self.title}: {100 * tenths // TENTHS} %, {times}", file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """Write a duration as a clock does, hours:minutes:seconds, days before them."""
    return str(timedelta(seconds=round(seconds)))
