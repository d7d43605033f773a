"""How long a training takes at the least, by the speed of convolutions."""

from types import SimpleNamespace

import pytest
import torch

from nnunetv2_missmod.planning import show, speed
from nnunetv2_missmod.planning.speed import least_duration, macs_per_second

CPU = torch.device("cpu")


def test_the_speed_is_what_was_done_in_the_time(monkeypatch):
    """On a clock that moves a second each time that it is asked."""
    seconds = iter(range(100))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(speed, "SIZE", 4)
    monkeypatch.setattr(speed, "AT_LEAST", 3)
    found = macs_per_second.__wrapped__(CPU)
    steps, taken = 3, 4
    assert found == pytest.approx(steps * 3 * (32 * 32 * 27 * 4**3) / taken)


@pytest.mark.parametrize(
    ("macs", "expected"),
    [(1e9, "a minute or two"), (300e9, "5 minutes"), (3600e9 * 30, "30 hours"), (86400e9 * 3, "3 days")],
)
def test_durations_are_said_in_the_unit_that_suits(macs, expected):
    assert least_duration(macs, 1e9) == expected


@pytest.mark.parametrize(("device", "where"), [("cpu", "this CPU"), ("cuda", "this GPU")])
def test_the_whole_schedule_counts(device, where, monkeypatch):
    monkeypatch.setattr(show, "macs_per_second", lambda device: 20e9)
    rehearsal = SimpleNamespace(trainer=SimpleNamespace(num_epochs=220, num_iterations_per_epoch=250))
    said = show.time_of(rehearsal, 71_200_000_000, torch.device(device))
    assert said == f"2 days or more on {where}, by its present speed, 20 GMAC/s; the log tells after an epoch"
