"""The chatter of libraries: in the log, whoever prints it; our own lines and errors on the console."""

import logging
import re
import subprocess
import sys
import warnings

import pytest
from full_disk import full_disk

from nnunetv2_missmod.machine.chatter import LOG, chatter, chatter_kept_beside

pytestmark = pytest.mark.filterwarnings("always::UserWarning")


def noise():
    with chatter():
        print("Searching for class")
        print("cannot inspect", file=sys.stderr)
    warnings.warn("deprecated", UserWarning, stacklevel=1)


def test_our_lines_stay_and_the_chatter_goes_to_the_log(tmp_path, capsys):
    with chatter_kept_beside(tmp_path):
        print("case_1: done")
        noise()
        print("Passed over: 1", file=sys.stderr)
    printed = capsys.readouterr()
    assert printed.out == "case_1: done\n"
    assert printed.err.splitlines() == [
        "Passed over: 1",
        f"missmod: what nnU-Net printed is in {tmp_path / LOG}; --verbose shows it.",
    ]
    log = (tmp_path / LOG).read_text()
    assert re.match(r"# \d{4}-\d\d-\d\d [\d:]{8} .*\nSearching for class\ncannot inspect\n", log)
    assert "UserWarning: deprecated" in log


def test_a_later_command_adds_to_the_log(tmp_path, capsys):
    for _ in range(2):
        with chatter_kept_beside(tmp_path):
            noise()
    assert (tmp_path / LOG).read_text().count("Searching") == 2
    assert capsys.readouterr().err.count(LOG) == 2


def test_verbose_shows_all_on_standard_error(tmp_path, capsys):
    with chatter_kept_beside(tmp_path, verbose=True):
        noise()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all(text in printed.err for text in ("Searching for class", "cannot inspect", "UserWarning: deprecated"))
    assert not (tmp_path / LOG).exists()


@pytest.mark.parametrize("folder", ["missing", None])
def test_where_nothing_was_written_there_is_no_log(folder, tmp_path, capsys):
    with chatter_kept_beside(tmp_path / folder if folder else None):
        noise()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_silence_leaves_no_log(tmp_path, capsys):
    with chatter_kept_beside(tmp_path):
        print("done")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("done\n", "")


def test_without_a_log_nothing_changes(capsys):
    with chatter():
        print("Searching")
    assert capsys.readouterr().out == "Searching\n"


def test_an_error_keeps_the_log(tmp_path, capsys):
    with pytest.raises(RuntimeError), chatter_kept_beside(tmp_path):
        noise()
        raise RuntimeError
    assert "Searching" in (tmp_path / LOG).read_text()


def test_a_logger_that_was_made_meanwhile_goes_on_elsewhere(tmp_path, capfd):
    with chatter_kept_beside(tmp_path), chatter():
        handler = logging.StreamHandler()
        handler.emit(logging.makeLogRecord({"msg": "first"}))
    handler.emit(logging.makeLogRecord({"msg": "second"}))
    assert (tmp_path / LOG).read_text().splitlines()[1:] == ["first"]
    assert "error" not in capfd.readouterr().err


@pytest.mark.parametrize("room", [0, 15, 100_000])
def test_a_full_disk_neither_ends_the_command_nor_leaves_half_a_log(room, tmp_path, capsys):
    with full_disk(room), chatter_kept_beside(tmp_path):
        for _ in range(10):
            noise()
        print("done")
    assert capsys.readouterr().out == "done\n"
    assert [file.name for file in tmp_path.iterdir()] == ([LOG] if room == 100_000 else [])


SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from nnunetv2_missmod.machine.chatter import chatter_kept_beside
with chatter_kept_beside(Path(sys.argv[1])):
    print("ours")
    print("our error", file=sys.stderr)
    os.write(2, b"compiled code\\n")
    subprocess.run([sys.executable, "-c", "print('a process')"])
print("after")
raise RuntimeError("seen")
"""


def test_processes_and_compiled_code_print_to_the_log(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "ours\nafter\n"
    assert done.stderr.startswith("our error\nmissmod: what nnU-Net printed is in ")
    assert done.stderr.endswith("RuntimeError: seen\n")
    assert (tmp_path / LOG).read_text().splitlines()[1:] == ["compiled code", "a process"]
