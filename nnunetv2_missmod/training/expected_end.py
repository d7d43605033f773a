"""When a training will end, by the speed that it has shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median

PARTS = 10  # of a training, after each of which it is said again


def is_to_be_said(done: int, num_epochs: int) -> bool:
    """Whether to say it after so many epochs of a run: soon, for who waits, and then every tenth of the training.

    The second epoch says it better: in the first, networks are compiled and files read for the first time.
    """
    return done <= 2 or done % max(1, num_epochs // PARTS) == 0


def expected_end(epoch_seconds: Sequence[float], left: int, now: datetime) -> str:
    """Say when a training will end.

    Args:
        epoch_seconds: of the run's epochs; the first counts only where it is the only one.
        left: how many epochs are.
        now: when they begin.
    """
    each = median(epoch_seconds[1:] or epoch_seconds)
    remaining = timedelta(seconds=round(each * left))
    return (
        f"Expected end: {now + remaining:%Y-%m-%d %H:%M}, in {remaining}: {left} more epochs of {each:.1f} s. The "
        "validation of whole cases follows."
    )
