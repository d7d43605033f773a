"""Processes beside this one: they end with it, whether it is killed, terminated, or fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import alive_in, left_after

from nnunetv2_missmod.machine.workers import TERMINATED, ending_cleanly, running_command, worker_pool

POOL = """
import sys, time
from nnunetv2_missmod.machine.workers import ending_cleanly, worker_pool
if __name__ == "__main__":
    with ending_cleanly(), worker_pool(2) as pool:
        futures = [pool.submit(time.sleep, 0) for _ in range(4)]
        [future.result() for future in futures]
        futures = [pool.submit(time.sleep, float(sys.argv[1])) for _ in range(8)]
        print("working", flush=True)
        [future.result() for future in futures]
"""


@pytest.mark.parametrize(
    ("number", "sleep", "code"), [(signal.SIGKILL, 600, -signal.SIGKILL), (signal.SIGTERM, 1, TERMINATED)]
)
def test_the_processes_of_a_pool_end_with_their_parent(tmp_path, number, sleep, code):
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    with subprocess.Popen(
        [sys.executable, script, str(sleep)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        assert process.stdout.readline() == b"working\n"
        assert len(alive_in(process.pid)) >= 3
        process.send_signal(number)
        assert process.wait(60) == code
        assert left_after(process.pid, 20) == []


def test_what_a_pool_has_not_begun_is_left_undone_after_an_error(tmp_path):
    with pytest.raises(KeyError), worker_pool(1) as pool:
        pool.submit(time.sleep, 0).result()
        futures = [pool.submit(Path.touch, tmp_path / str(number)) for number in range(2000)]
        raise KeyError
    assert any(future.cancelled() for future in futures)
    assert len(list(tmp_path.iterdir())) < 2000


def test_every_process_of_a_pool_is_set_up(tmp_path):
    with worker_pool(1, (tmp_path / "set_up").touch) as pool:
        pool.submit(os.getpid).result()
    assert (tmp_path / "set_up").exists()


SHELL = ["sh", "-c", "sleep 600 & echo started; wait"]


def test_a_command_ends_with_what_it_started_when_reading_it_fails():
    with pytest.raises(KeyboardInterrupt), running_command(SHELL, os.environ) as process:
        assert process.stdout.readline() == "started\n"
        assert len(alive_in(process.pid)) == 2
        raise KeyboardInterrupt
    assert left_after(process.pid, 20) == []
    assert process.returncode == -signal.SIGTERM


def test_a_command_that_ended_is_left_alone():
    with running_command(["sh", "-c", "echo $WORD; exit 3"], {**os.environ, "WORD": "said"}) as process:
        assert process.stdout.read() == "said\n"
    assert process.returncode == 3
    with pytest.raises(KeyError), running_command(["true"], os.environ) as process:
        process.wait()
        raise KeyError


def test_sigterm_ends_as_an_error_does_and_only_meanwhile():
    before = signal.getsignal(signal.SIGTERM)
    cleared = []
    with pytest.raises(SystemExit) as ended, ending_cleanly():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            cleared.append(True)
    assert cleared
    assert ended.value.code == TERMINATED == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone binds a process to its parent")
def test_a_command_ends_when_the_process_that_reads_it_is_killed(tmp_path):
    pid = tmp_path / "pid"
    sleep = f"import os, time; print(os.getpid(), file=open({str(pid)!r}, 'w'), flush=True); time.sleep(60)"
    if (reader := os.fork()) == 0:
        with running_command([sys.executable, "-c", sleep], os.environ):
            time.sleep(60)
    while not (pid.exists() and (number := pid.read_text().strip())):
        time.sleep(0.02)
    os.kill(reader, signal.SIGKILL)
    os.waitpid(reader, 0)
    assert ends_soon(int(number))


def ends_soon(process):
    """Whether a process is gone, or waits to be collected, within seconds."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
