"""What the libraries below us say, apart from our own lines: kept in a log, so that the console stays readable.

Our prints reach the console as ever. Python's warnings, which we never issue, what nnU-Net prints within ``chatter()``,
and what compiled code and the processes that are started meanwhile print go to the log.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TextIO

LOG = "missmod_log.txt"
OUT, ERR = 1, 2  # file descriptors

_kept_in: list[TextIO] = []  # the log that is open, last


@contextmanager
def chatter() -> Iterator[None]:
    """Send to the log, if one is kept, what this process prints meanwhile."""
    if not _kept_in:
        yield
        return
    with redirect_stdout(_ToLog()), redirect_stderr(_ToLog()):
        yield


@contextmanager
def chatter_kept_beside(output: Path | None, verbose: bool = False) -> Iterator[None]:
    """Keep a log of the chatter for as long as a command runs, and say at a good end where it is.

    Args:
        output: folder that the log is added to, if it is there at the end; None: it is dropped.
        verbose: keep no log; all of it is shown on standard error.
    """
    if verbose:
        with _kept(sys.stderr):
            yield
        return
    with tempfile.TemporaryFile("w+b", buffering=0) as raw:
        log = io.TextIOWrapper(raw, "utf-8", "replace", write_through=True)
        is_at_end = False
        try:
            with _descriptors_at(log), _kept(log):
                yield
            is_at_end = True
        finally:
            if output is not None and output.is_dir() and _added(raw, output / LOG) and is_at_end:
                print(f"missmod: what nnU-Net printed is in {output / LOG}; --verbose shows it.", file=sys.stderr)


class _ToLog(io.TextIOBase):
    """Writes to the log that is kept, or to standard error once there is none: loggers hold on to their streams."""

    def write(self, text: str) -> int:
        with suppress(OSError):  # a full disk is the command's trouble where it writes results, not here
            (_kept_in[-1] if _kept_in else sys.__stderr__ or sys.stderr).write(text)
        return len(text)

    def writable(self) -> bool:
        return True


@contextmanager
def _kept(log: TextIO) -> Iterator[None]:
    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        _ToLog().write(warnings.formatwarning(message, category, filename, lineno))

    before, warnings.showwarning = warnings.showwarning, show
    _kept_in.append(log)
    try:
        yield
    finally:
        _kept_in.pop()
        warnings.showwarning = before


def _added(log: BinaryIO, file: Path) -> bool:
    """Add a log to that of earlier commands; tell whether there was anything to add, and room for it."""
    if not log.seek(0, os.SEEK_END):
        return False
    log.seek(0)
    is_new = not file.exists()
    try:
        with open(file, "ab", buffering=0) as kept:
            kept.write(f"# {datetime.now():%Y-%m-%d %H:%M:%S} {shlex.join(sys.argv)}\n".encode())
            shutil.copyfileobj(log, kept)
    except OSError:
        if is_new:
            file.unlink(missing_ok=True)
        return False
    return True


@contextmanager
def _descriptors_at(log: TextIO) -> Iterator[None]:
    """Point the descriptors of standard output and error at a log; what Python prints stays on the console."""
    sys.stdout.flush()
    sys.stderr.flush()
    console = {descriptor: os.dup(descriptor) for descriptor in (OUT, ERR)}
    try:
        with ExitStack() as streams:
            if stdout := _moved(sys.stdout, OUT, console):
                streams.enter_context(redirect_stdout(streams.enter_context(stdout)))
            if stderr := _moved(sys.stderr, ERR, console):
                streams.enter_context(redirect_stderr(streams.enter_context(stderr)))
            for descriptor in console:
                os.dup2(log.fileno(), descriptor)
            yield
    finally:
        for descriptor, kept in console.items():
            os.dup2(kept, descriptor)
            os.close(kept)


def _moved(stream: TextIO, descriptor: int, console: dict[int, int]) -> TextIO | None:
    """Make a stream like the given one where the console is now; None if it does not write to the descriptor."""
    try:
        if stream.fileno() != descriptor:
            return None
    except (OSError, ValueError):
        return None
    return open(console[descriptor], "w", 1, stream.encoding, stream.errors, closefd=False)
