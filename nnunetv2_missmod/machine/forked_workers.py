"""nnU-Net's workers that prepare batches: they end when their training is killed.

On Linux, where they are forked: by default in Python before 3.14.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1  # of Linux's prctl

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # found before a fork, which might inherit a lock
_forking_for: list[int] = []  # the process whose forks are workers at the moment


def end_with_parent() -> None:
    """Have Linux kill this process when the one that started it is gone; elsewhere, do nothing."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def workers_end_with_us() -> Iterator[None]:
    """Bind the processes that are forked meanwhile to this one.

    nnU-Net's workers are daemons: they end with a process that exits, but one that is killed leaves them behind, each
    with its batches, waiting for ever.
    """
    _forking_for.append(os.getpid())
    try:
        yield
    finally:
        _forking_for.pop()


def _after_fork() -> None:
    if not _forking_for:
        return
    parent = _forking_for.pop()
    end_with_parent()
    if os.getppid() != parent:  # it was killed before we could be bound to it
        os._exit(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
