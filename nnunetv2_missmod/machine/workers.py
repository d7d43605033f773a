"""Processes that work beside this one: they end when it ends, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from types import FrameType

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # exit codes, as a shell has them


@contextmanager
def worker_pool(processes: int, set_up: Callable[[], object] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of spawned processes; an error here leaves undone what they have not begun.

    Args:
        processes: how many.
        set_up: is called in each of them first.
    """
    pool = ProcessPoolExecutor(processes, get_context("spawn"), begin_worker, (set_up,))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def begin_worker(set_up: Callable[[], object] | None = None) -> None:
    """Prepare a process of a pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if set_up is not None:
        set_up()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def running_command(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a command whose output is read here; an error here, or Ctrl-C or SIGTERM, ends it and what it started.

    On Linux it also ends when this process is killed.

    Args:
        command: with its arguments.
        environment: of it.
    """
    from nnunetv2_missmod.machine.forked_workers import end_with_parent  # noqa: PLC0415, for a quick `missmod doors`

    process = subprocess.Popen(
        command,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own, which can be ended as a whole
        preexec_fn=end_with_parent,  # noqa: PLW1509, it takes no lock that a thread may hold
    )
    try:
        yield process
    except BaseException:
        _end_group(process)
        raise
    finally:
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _end_group(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):  # all of it ended already
            os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does, so that what is half done is cleared away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(TERMINATED)
