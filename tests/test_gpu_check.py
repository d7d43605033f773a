"""The GPU check, tried on the CPU at toy size: its rows, its errors, its time limit."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
sys.path.append(str(REPOSITORY))

from benchmarks import gpu_check, gpu_rows, needed  # noqa: E402
from nnunetv2_missmod.host.doors import door_names  # noqa: E402

pytestmark = pytest.mark.slow

TRAINERS = ("nnUNetTrainer", *door_names())
OTHER_NAMES = {"scikit-image": "skimage", "scikit-learn": "sklearn"}  # of what is installed, as it is imported


def check(*arguments, out):
    command = ["bash", str(REPOSITORY / "benchmarks" / "gpu_check.sh"), "-device", "cpu", "--toy", "-o", str(out)]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)


def in_this_process(monkeypatch, *arguments, out):
    monkeypatch.setattr(sys, "argv", ["gpu_check", "-device", "cpu", "--toy", "-o", str(out), *arguments])
    monkeypatch.setattr(gpu_check, "require", lambda wheels: None)
    monkeypatch.delenv(gpu_check.BEGUN, raising=False)
    return gpu_check.main()


def test_the_one_command_measures_all_that_it_names(tmp_path):
    done = check("--predict", "ModalityDropoutTrainer", "--minutes", "60", out=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 + len(TRAINERS)} rows good, 0 failed." in done.stdout
    rows = {row["row"]: row for row in csv.DictReader((tmp_path / "results.csv").read_text().splitlines())}
    assert list(rows) == ["masks embedded", "predict ModalityDropoutTrainer", *(f"train {name}" for name in TRAINERS)]
    assert {row["outcome"] for row in rows.values()} == {"good"}
    assert all(float(rows[f"train {name}"]["it/s"]) > 0 for name in TRAINERS)
    assert rows["masks embedded"]["voxels that differ"] == f"0 of {15 * 40**3}"
    kept = json.loads((tmp_path / "results.json").read_text())["rows"]
    estimated = {row["row"].split()[1]: row["estimated"] for row in kept if "losses" in row}
    assert estimated["nnUNetTrainer"] is None
    assert estimated["ModalityDropoutTrainer"] > 0


def test_a_trainer_that_fails_is_a_row_and_the_rest_goes_on(monkeypatch, tmp_path, capsys):
    def fails(name, *_):
        if name == "WrongTrainer":
            raise RuntimeError("the loss is\nnot | finite")
        return {"per_second": 2.0, "losses": [2.0, 1.0], "memory": 10**9, "estimated": 2 * 10**9}

    monkeypatch.setattr(gpu_rows, "ROWS", {"train": fails, "masks": lambda *_: {"differing": 1, "voxels": 9}})
    code = in_this_process(monkeypatch, "--trainers", "WrongTrainer", "DCSegTrainer", "--predict", out=tmp_path)
    said = capsys.readouterr().out
    assert code == 1
    assert re.search(r"\| train WrongTrainer \| 0 .*\| RuntimeError: the loss is not / finite \|", said)
    assert "| train DCSegTrainer | 0 | 2.00 | 1.00 | 2.00 | 2 > 1 |  |  | good |" in said
    assert "2 rows good, 1 failed: train WrongTrainer." in said
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 4


def test_rows_that_would_end_too_late_are_not_begun_and_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_rows, "ROWS", {"train": lambda *_: time.sleep(0.3) or {}, "masks": lambda *_: {}})
    code = in_this_process(
        monkeypatch, "--trainers", "A", "B", "C", "--predict", "--minutes", str(0.45 / 60), out=tmp_path
    )
    said = capsys.readouterr().out
    assert code == 0
    assert re.search(r"Left out, for want of time \(--minutes 0\.0075\): .*train C\.", said)
    assert "| train A |" in said


def arguments_of(out, ahead=1):
    return type("Arguments", (), {"o": out, "ahead": ahead})()


def processes(monkeypatch, tmp_path, scripts, seconds=60):
    """Measure rows by scripts in place of gpu_rows."""
    started = gpu_check.start

    def start(row, command, flags, out):
        return started(row, [sys.executable, "-c", scripts[row.split()[1]]], [], out)

    monkeypatch.setattr(gpu_check, "start", start)
    rows = [f"train {name}" for name in scripts]
    found = gpu_check.in_processes(rows, [], arguments_of(tmp_path), time.time() + seconds)
    return {result["row"].split()[1]: result for result in found}


def test_rows_in_processes_give_their_last_line_or_their_error(monkeypatch, tmp_path):
    scripts = {
        "good": "print('chatter'); print('{\"per_second\": 3}')",
        "bad": "raise ValueError('got 3')",
        "dead": "import os; os.kill(os.getpid(), 9)",
    }
    found = processes(monkeypatch, tmp_path, scripts)
    assert (found["good"]["per_second"], found["good"]["error"]) == (3, None)
    assert found["bad"]["error"] == "ValueError: got 3"
    assert found["dead"]["error"] == "exit code -9"


def test_a_row_that_hangs_is_ended_with_what_it_started_when_the_time_is_over(monkeypatch, tmp_path):
    child = tmp_path / "child"
    hangs = (
        "import subprocess, sys, time\n"
        f"process = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(child)!r}, 'w').write(str(process.pid)); time.sleep(60)"
    )
    found = processes(monkeypatch, tmp_path, {"hangs": hangs}, seconds=2)
    assert found["hangs"]["error"] == "ended, since the time was over (--minutes)"
    state = Path(f"/proc/{child.read_text()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


@pytest.mark.parametrize(
    ("losses", "error"),
    [([2.0, float("nan")], "not finite at step 1"), ([1.0] * 5 + [2.0] * 10, "did not fall in 15 steps: from 1 to 2")],
)
def test_a_training_that_goes_wrong_is_seen(losses, error):
    network = gpu_rows.torch.nn.Linear(1, 1)
    trainer = type("Trainer", (), {"network": network})()
    gpu_rows.check_training(trainer, [2.0] * 5 + [1.0] * 10)
    with pytest.raises(RuntimeError, match=error):
        gpu_rows.check_training(trainer, losses)
    network.weight.data[:] = float("inf")
    with pytest.raises(RuntimeError, match="weights are not finite after 15 steps: weight"):
        gpu_rows.check_training(trainer, [2.0] * 5 + [1.0] * 10)


# --- what it needs ----------------------------------------------------------------------------------------------------


def test_what_is_needed_is_what_the_package_requires():
    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    listed = re.search(r"install_requires=\[(.*?)\]", setup, re.DOTALL)[1]
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in re.findall(r'"(.+?)"', listed)]
    imported = {OTHER_NAMES.get(name, name.replace("-", "_")) for name in names}
    assert {*needed.GIVEN, *needed.NEEDED} == imported | {"pytest"} | {
        name for name in needed.NEEDED if name.startswith("nnunetv2_missmod")
    }


def test_what_is_missing_is_installed_from_the_wheels_and_looked_for_once_more(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(needed, "NEEDED", ("json", "not_there"))
    monkeypatch.setattr(needed.subprocess, "run", lambda command, **_: ran.append(command))
    monkeypatch.setattr(needed.os, "execve", lambda *arguments: ran.append(arguments[2][needed.TRIED]))
    needed.require(tmp_path)
    assert ran == [needed.install_command(tmp_path), "1"]
    assert {"--no-index", str(tmp_path)} < set(ran[0])
    assert "--no-index" not in needed.install_command(None)
    monkeypatch.setenv(needed.TRIED, "1")
    with pytest.raises(RuntimeError, match=r"not_there does not import .No module named 'not_there'"):
        needed.require(tmp_path)


def test_without_pytorch_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(needed, "GIVEN", ("no_torch",))
    monkeypatch.setattr(needed.subprocess, "run", None)
    with pytest.raises(RuntimeError, match=r"Expected a Python with PyTorch .* no_torch does not import"):
        needed.require(None)
