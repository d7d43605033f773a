"""One function over many cases, in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from nnunetv2_missmod.machine.progress import track
from nnunetv2_missmod.machine.workers import worker_pool

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int, description: str
) -> list[Result]:
    """Call a function for every item, with a progress bar; the results are in the items' order.

    Args:
        function: picklable where there are several processes.
        items: picklable likewise.
        processes: how many; with one everything stays in this process.
        description: of the progress bar.

    Raises:
        ValueError: a process was ended.
    """
    processes = min(processes, len(items))
    if processes <= 1:
        return list(track(map(function, items), description, len(items)))
    with worker_pool(processes) as pool:
        results: Iterator[Result] = pool.map(function, items)
        try:
            return list(track(results, description, len(items)))
        except BrokenProcessPool as error:
            raise ValueError(
                f"Expected {processes} processes to read cases, but one was ended, as when memory runs out: "
                "ask for fewer with -np."
            ) from error
