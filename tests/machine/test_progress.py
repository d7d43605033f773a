"""How far a piece of work is: a line for every tenth where there is no terminal, a bar where there is one."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest

from nnunetv2_missmod.machine import progress as module
from nnunetv2_missmod.machine.progress import duration, progress, track


@pytest.fixture
def clock(monkeypatch):
    """Seconds that have gone; a test moves them."""
    gone = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: gone[0])
    return gone


def test_hundreds_of_steps_are_a_line_for_every_tenth(capsys):
    assert list(track(range(1000), "Look", 1000)) == list(range(1000))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.findall(r"Look: (\d+) %", printed.err) == [str(percent) for percent in range(10, 101, 10)]
    assert printed.err.count("\n") == 10


def test_a_line_says_what_is_gone_and_what_is_left(clock, capsys):
    with progress("Train", 4) as bar:
        clock[0] += 90
        bar.advance()
        clock[0] += 10
        bar.reach(4)
    assert capsys.readouterr().err.splitlines() == [
        "Train: 20 %, 0:01:30 gone, 0:04:30 left",
        "Train: 100 %, 0:01:40 gone, 0:00:00 left",
    ]


def test_parts_of_a_step_add_up(capsys):
    with progress("Train", 1) as bar:
        for _ in range(10):
            bar.advance(0.1)
    assert capsys.readouterr().err.count("\n") == 10


def test_what_is_reached_twice_is_said_once(capsys):
    with progress("Train", 2) as bar:
        bar.advance()
        bar.reach(1)
    assert capsys.readouterr().err.count("\n") == 1


def test_no_work_says_nothing(capsys):
    assert list(track([], "Look", 0)) == []
    with progress("Train", 0) as bar:
        bar.reach(0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, "0:00:00"), (3661, "1:01:01"), (90000, "1 day, 1:00:00")])
def test_durations_read_as_a_clock(seconds, expected):
    assert duration(seconds) == expected


SCRIPT = """
from nnunetv2_missmod.machine.progress import track
for step in track(range(3), "Look", 3):
    print("step", step)
"""


def on_a_terminal(stdout):
    """What standard error, a terminal, gets of the script."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, stdout=stdout or theirs, stderr=theirs, check=True
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(ours)
    return done, shown.decode()


def test_a_terminal_gets_a_bar_with_what_is_printed_above_it():
    _, shown = on_a_terminal(None)
    assert "━" in shown
    assert "100%" in shown
    assert "left:" in shown
    assert all(f"step {step}" in shown for step in range(3))


def test_what_is_piped_on_does_not_end_up_above_the_bar(tmp_path):
    with open(tmp_path / "piped", "w") as file:
        _, shown = on_a_terminal(file)
    assert (tmp_path / "piped").read_text() == "step 0\nstep 1\nstep 2\n"
    assert "100%" in shown
    assert "step" not in shown


def test_lines_go_where_standard_error_was_when_the_work_began(monkeypatch):
    first, later = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    with progress("Train", 1) as bar:
        monkeypatch.setattr(sys, "stderr", later)
        bar.advance()
    assert first.getvalue().startswith("Train: 100 %")
    assert later.getvalue() == ""
