"""Work on a sequence, one item ahead: the next result is made in a thread while this one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

from nnunetv2_missmod.machine.out_of_memory import is_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


class OneAhead(Generic[Item, Result]):
    """Gives a function's results one after the other; while one is used, the next is made, and no further one.

    Leaving the context waits for what is being made, also after an error or Ctrl-C. Nothing that the function prints
    is kept apart: another thread may have redirected standard output.

    Args:
        function: of an item; it is called in a thread, one call at a time.
        items: in their order.
    """

    def __init__(self, function: Callable[[Item], Result], items: Iterable[Item]):
        self.function, self.items = function, iter(items)
        self.thread = ThreadPoolExecutor(1, "one-ahead")
        self.following: tuple[Item, Future[Result]] | None = None

    def __enter__(self) -> OneAhead[Item, Result]:
        self._begin_next()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.following = None
        self.thread.shutdown(wait=True, cancel_futures=True)

    def take(self) -> Result:
        """Give the next item's result, or raise its error; the one after it is begun.

        What ran out of memory beside the result before is made once more, alone: give that one up first.
        """
        assert self.following is not None, "all results are taken"
        (item, future), self.following = self.following, None
        wait([future])
        if (error := future.exception()) is None or not is_out_of_memory(error):
            self._begin_next()
            return future.result()
        del error, future  # and what they hold
        try:
            return self.function(item)
        finally:
            self._begin_next()

    def _begin_next(self) -> None:
        for item in self.items:
            self.following = item, self.thread.submit(self.function, item)
            return
