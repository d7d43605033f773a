"""When a training will end, by the speed that it has shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

PARTS = 10  # of a training, after each of which it is said again
FIRST_UPDATES = 10  # of a run, which tell its speed before an epoch can
PATIENCE, FEWEST_UPDATES = 60.0, 4  # seconds, after which fewer of them must do; the least that can


class FirstUpdates:
    """The clock at a run's first updates, until they tell its speed.

    The host's clock tells the device's: every update waits for it, in the gradient scaler or where its terms are
    checked.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []

    def speed(self, now: float) -> float | None:
        """Note that an update has ended; once there are enough, seconds of one, the first left out: it sets up."""
        self.ends.append(now)
        is_late = len(self.ends) >= FEWEST_UPDATES and now - self.ends[0] > PATIENCE
        if len(self.ends) < FIRST_UPDATES and not is_late:
            return None
        return median(end - begin for begin, end in pairwise(self.ends))


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
    return (
        f"Expected end: {_after(each * left, now)}: {left} more epochs of {each:.1f} s. The validation of whole cases "
        "follows."
    )


def expected_by_updates(each: float, left: int, now: datetime) -> str:
    """Say when a training will end by its first updates.

    Args:
        each: seconds of an update.
        left: how many updates are.
        now: when they begin.
    """
    return (
        f"Expected end, by the first updates: {_after(each * left, now)}: {left} more of {each:.3g} s. The epochs' "
        "validations come on top; the first epoch tells better."
    )


def _after(seconds: float, now: datetime) -> str:
    remaining = timedelta(seconds=round(seconds))
    return f"{now + remaining:%Y-%m-%d %H:%M}, in {remaining}"
