"""`missmod convert` killed at random moments, then run again: the end is that of a run that nothing interrupted.

MISSMOD_KILLS says how many kills each conversion gets. Most are of forked processes, which need not load anything, so
that their moments lie close together. Those with ``-np 2`` show that no process of a pool is left.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import IN_CI, KILLS
from small_sources import write_layout

from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.datasets import fingerprint
from nnunetv2_missmod.datasets.conversion import convert_folder  # loaded before a process is forked

pytestmark = pytest.mark.slow

MARK = "MISSMOD_KILLED_JOB"  # in the environment of a conversion and of all processes that it starts
PATIENCE = 600  # seconds
LOADED = convert_folder
FEW = (8, (), 500)  # defaults of ``cohort_fingerprint``: nnU-Net's number of voxels takes seconds to draw
RUN = """
import sys
from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.datasets.fingerprint import cohort_fingerprint
if __name__ == "__main__":
    cohort_fingerprint.__defaults__ = (8, (), 500)
    sys.exit(main(sys.argv[1:]))
"""
PATTERN = [
    *("--layout", "pattern", "--pattern", "{case}/{case}_{modality}.nii.gz"),
    *("--label_pattern", "{case}/{case}_seg.nii.gz", "--modalities", "FLAIR=flair", "T1c=t1ce"),
    *("--labels", "whole=1,2", "core=2"),
]


class Conversion:
    """A conversion in folders of its own, the same in every copy of them."""

    def __init__(self, folder, kind):
        self.folder, self.kind = folder, kind
        self.mark = str(folder)
        self.clean = folder / "clean"
        (self.clean / "raw").mkdir(parents=True)
        if kind == "new":
            source = write_layout(self.clean / "source", "pattern", cases=6)
            for number in (1, 2):
                (source / f"patient_{number:02d}" / f"patient_{number:02d}_t1ce.nii.gz").unlink()
        else:
            write_layout(self.clean / "raw", "nnunet", cases=6)

    def arguments(self, processes):
        """Those of ``missmod``, for the folder ``at``."""
        at = self.folder / "at"
        new, old = [at / "source" / "cohort", "-d", 137, *PATTERN], [at / "raw" / "Dataset042_Lesions", "-d", 42]
        return [str(part) for part in ("convert", *(new if self.kind == "new" else old), "-np", processes)]

    def environment(self):
        """nnU-Net's folders, and the conversion's mark."""
        folders = {f"nnUNet_{name}": str(self.folder / "at" / name) for name in ("raw", "preprocessed", "results")}
        return {**folders, MARK: self.mark}

    def fork(self):
        """Begin the conversion in a copy of this process."""
        if child := os.fork():
            return child
        try:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            os.environ.update(self.environment())
            os._exit(main(self.arguments(1)))
        finally:
            os._exit(99)

    def start(self):
        """Begin the conversion with processes of its own."""
        (self.folder / "run.py").write_text(RUN)
        return subprocess.Popen(
            [sys.executable, str(self.folder / "run.py"), *self.arguments(2)],
            env={**os.environ, **self.environment()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def begin_anew(self):
        """A fresh copy of the folders, under the same path: links and tables hold it."""
        shutil.rmtree(self.folder / "at", ignore_errors=True)
        shutil.copytree(self.clean, self.folder / "at")

    def hidden(self):
        """The working folders that are there."""
        return [*self.folder.glob("at/raw/.converting_*"), *self.folder.glob("at/raw/*/.filling_*")]

    def state(self):
        """Every file, with what it holds or where it leads."""
        at = self.folder / "at"
        files = [file for file in sorted(at.rglob("*")) if file.is_symlink() or file.is_file()]
        return {str(f.relative_to(at)): os.readlink(f) if f.is_symlink() else f.read_bytes() for f in files}


def running(mark):
    """The processes of a conversion, whoever is their parent now."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(process.name)
        except OSError:
            continue
    return found


def until(condition):
    """Wait for something; False if it never comes."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


@pytest.fixture(params=["new", "in place"])
def conversion(request, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint.cohort_fingerprint, "__defaults__", FEW)
    return Conversion(tmp_path, request.param)


def uninterrupted(conversion):
    """The state at the end, and for how many seconds the working folder was there."""
    conversion.begin_anew()
    process = conversion.start()
    assert until(conversion.hidden)
    begun = time.monotonic()
    assert process.wait(PATIENCE) == 0, process.stderr.read()
    return conversion.state(), time.monotonic() - begun


def exit_code(child):
    """How a forked process ended; negative if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_run_after_a_kill_ends_as_if_nothing_had_happened(conversion):
    seconds = []
    for _ in range(2):  # the first may have to load something
        conversion.begin_anew()
        begun = time.monotonic()
        assert exit_code(conversion.fork()) == 0
        expected = conversion.state()
        seconds.append(time.monotonic() - begun)
    rng, ended = random.Random(0), 0
    for _ in range(KILLS):
        conversion.begin_anew()
        child = conversion.fork()
        time.sleep(rng.uniform(0, min(seconds)))
        os.kill(child, signal.SIGKILL)
        ended += exit_code(child) == -signal.SIGKILL
        was_done = conversion.kind == "new" and any(conversion.folder.glob("at/raw/Dataset*"))
        again = exit_code(conversion.fork())
        assert again == (2 if was_done else 0)  # a dataset that has its name is not converted again
        assert conversion.state() == expected
        assert conversion.hidden() == []
    print(f"{conversion.kind}: {ended} of {KILLS} were ended before they were done")


@pytest.mark.slow
@pytest.mark.skipif(KILLS <= IN_CI, reason="a minute each; MISSMOD_KILLS of more than 2 asks for it")
def test_a_run_after_a_kill_of_several_processes_ends_so_too(conversion):
    expected, seconds = uninterrupted(conversion)
    rng, outcomes, kills = random.Random(0), [], max(1, KILLS // 4)  # each loads much in three processes, twice
    for _ in range(kills):
        conversion.begin_anew()
        process = conversion.start()
        assert until(lambda: conversion.hidden() or process.poll() is not None)  # noqa: B023
        time.sleep(rng.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        assert until(lambda: not running(conversion.mark)), running(conversion.mark)
        was_done = conversion.kind == "new" and any(conversion.folder.glob("at/raw/Dataset*"))
        outcomes.append("done" if process.returncode == 0 or was_done else "ended")
        again = conversion.start()
        _, said = again.communicate(timeout=PATIENCE)
        assert again.returncode == (2 if was_done else 0), said
        assert conversion.state() == expected
        assert conversion.hidden() == []
    print(f"{conversion.kind}: {outcomes.count('ended')} of {kills} were ended before they were done")


@pytest.mark.slow
def test_a_run_that_is_terminated_leaves_nothing(conversion):
    if conversion.kind == "in place" and KILLS <= IN_CI:
        pytest.skip("loads as much as the other again; MISSMOD_KILLS of more than 2 asks for it")
    conversion.begin_anew()
    before = conversion.state()
    process = conversion.start()
    assert until(conversion.hidden)
    process.terminate()
    process.wait(PATIENCE)
    assert until(lambda: not running(conversion.mark)), running(conversion.mark)
    assert conversion.hidden() == []
    assert conversion.state() == before
