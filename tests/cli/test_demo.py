import json
import os
import re
import signal
import stat
import sys
import time
import traceback

import pytest
from pages import FIRST_STEPS

from nnunetv2_missmod.cli import demo_job as demo
from nnunetv2_missmod.cli.demo_job import EMBEDDED, IN_ONE_PROCESS, LAST_LINES, Job, run_demo, run_quick_demo
from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.host.doors import VARIABLE, door_folder, door_names
from nnunetv2_missmod.host.folders import VARIABLES
from nnunetv2_missmod.machine.progress import Lines

# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_job_works_in_folders_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/my/raw")
    monkeypatch.setenv("nnUNet_n_proc_DA", "5")
    monkeypatch.setenv(VARIABLE, "/my/trainers")
    monkeypatch.delenv("nnUNet_def_n_proc", raising=False)
    before = dict(os.environ)
    job = Job(tmp_path / "demo", "cpu")
    for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        assert job.environment[folder] == str(tmp_path / "demo" / folder)
        assert (tmp_path / "demo" / folder).is_dir()
    assert job.environment["nnUNet_n_proc_DA"] == "5"  # what the user set
    assert int(job.environment["nnUNet_def_n_proc"]) >= 1
    assert job.environment[VARIABLE].split(os.pathsep) == [str(door_folder()), "/my/trainers"]
    assert dict(os.environ) == before


def test_an_unknown_trainer_is_an_error_that_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="got 'nnUNetTrainer'") as error:
        run_demo(tmp_path / "demo", "nnUNetTrainer", "cpu")
    segmenting = [name for name in door_names() if "Pretrain" not in name]
    assert all(name in str(error.value) for name in segmenting)
    assert list(tmp_path.iterdir()) == []


def test_a_pretraining_alone_is_no_demo(tmp_path):
    with pytest.raises(ValueError, match=r"trainers that segment, .*M3AETrainer.*got 'M3AEPretrainTrainer'"):
        run_demo(tmp_path / "demo", "M3AEPretrainTrainer", "cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """The demo's commands, only written down; scores and report are taken for granted."""
    written = []

    def run(job, title, command, tick, ticks, defaults=None):
        written.append((command, tick, ticks))

    monkeypatch.setattr(Job, "run", run)
    monkeypatch.setattr(Job, "prepare_data", lambda job: written.append((["prepare"], "", 1)))
    monkeypatch.setattr(demo, "read_scores", lambda folder: f"scores of {folder.relative_to(tmp_path)}")
    monkeypatch.setattr(demo, "print_means", print)
    monkeypatch.setattr(demo, "write_report", lambda folders, out: out / "index.html")
    return written


def test_a_trainer_with_a_pretraining_is_pretrained_first(tmp_path, commands):
    run_demo(tmp_path / "demo", "M3AETrainer", "cpu")
    trainers = [command[command.index("-tr") + 1] for command, _, _ in commands if "-tr" in command]
    assert trainers == ["M3AEPretrainTrainer", "M3AETrainer", "M3AETrainer"]


def test_a_folder_in_use_is_an_error_and_stays_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"new or empty folder, got .*-o"):
        run_demo(tmp_path, "DCSegTrainer", "cpu")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"new or empty folder, got .*mine.txt"):
        run_demo(tmp_path / "mine.txt", "DCSegTrainer", "cpu")


@pytest.mark.parametrize(("exists", "device"), [(False, "cpu"), (True, "cuda")])
def test_the_demo_trains_scores_every_subset_and_ends_with_the_report(
    exists, device, tmp_path, commands, capsys, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    out = tmp_path / "demo"
    if exists:
        out.mkdir(parents=True)
    page = run_demo(out, "ModalityDropoutTrainer", device)
    _, (train, epoch, ticks), (evaluate, tick, cases), (calibrate, _, _) = commands
    assert train[:4] == ["nnUNetv2_train", "501", "3d_fullres", "0"]
    assert evaluate[:2] == ["missmod", "evaluate"]
    assert calibrate[:3] == ["missmod", "calibrate", str(out / "scores" / "ModalityDropoutTrainer")]
    assert (ticks, cases) == (8 + 1, 6)
    assert re.search(epoch, "2026-11-29 02:00:00.000000: Epoch time: 12.5 s")
    assert re.search(tick, "phantom_020: done")
    for command in (train, evaluate):
        assert command[command.index("-tr") + 1] == "ModalityDropoutTrainer"
        assert command[command.index("-device") + 1] == device
        assert command[command.index("-p") + 1] == "nnUNetPlans_demo"
    raw = out / "nnUNet_raw" / "Dataset501_Phantom"
    flags = dict(zip(evaluate[2::2], evaluate[3::2], strict=False))
    assert (flags["-i"], flags["-gt"]) == (str(raw / "imagesTs"), str(raw / "labelsTs"))
    assert flags["-o"] == str(out / "scores" / "ModalityDropoutTrainer")
    printed = capsys.readouterr().out
    assert "scores of demo/scores/ModalityDropoutTrainer" in printed
    assert page == out / "report" / "index.html"
    assert f"The report: {page}" in printed


def test_the_quick_demo_trains_nothing(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(Job, "write_cohort", lambda job: None)
    page = run_quick_demo(tmp_path / "demo", "cpu")
    (evaluate, _, _), *others = commands
    assert others == []
    assert evaluate[:2] == ["missmod", "evaluate"]
    model = "__".join(evaluate[evaluate.index(flag) + 1] for flag in ("-tr", "-p", "-c"))
    copied = page.parents[1] / "nnUNet_results" / "Dataset501_Phantom" / model
    for file in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth"):
        assert (copied / file).read_bytes() == (EMBEDDED / file).read_bytes()
    assert page == tmp_path / "demo" / "report" / "index.html"


# --- a demo that was stopped ------------------------------------------------------------------------------------------


def test_a_demo_that_was_stopped_goes_on_where_it_stopped(tmp_path, commands, monkeypatch, capsys):
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Job, "train", lambda job, trainer: stop())
        run_demo(tmp_path / "demo", "M3AETrainer", "cpu")
    assert [command for command, _, _ in commands] == [["prepare"]]
    latest = tmp_path / "demo/nnUNet_results/Dataset501_Phantom/M3AETrainer__nnUNetPlans_demo__3d_fullres/fold_0"
    latest.mkdir(parents=True)
    (latest / "checkpoint_latest.pth").touch()
    capsys.readouterr()
    run_demo(tmp_path / "demo", "M3AETrainer", "cpu")
    pretrain, train, score, _ = (command for command, _, _ in commands[1:])
    assert ("M3AEPretrainTrainer" in pretrain, "--c" in pretrain) == (True, False)
    assert ("M3AETrainer" in train, "--c" in train) == (True, True)
    assert "--c" not in score
    said = capsys.readouterr().out
    assert re.search(r"Plan and preprocess +finished before", said)
    assert re.search(r"Train M3AETrainer +3 to 6 minutes", said)
    assert f"What the commands of this demo print is in {tmp_path / 'demo' / 'log.txt'}" in said


def stop():
    raise KeyboardInterrupt


def test_another_trainer_takes_what_is_prepared(tmp_path, commands):
    for trainer in ("CCSDTrainer", "DCSegTrainer"):
        run_demo(tmp_path / "demo", trainer, "cpu")
    assert [command[0] for command, _, _ in commands] == ["prepare", *2 * ["nnUNetv2_train", "missmod", "missmod"]]


@pytest.mark.parametrize("change", [{"kind": "quick"}, {"version": "0.0.1"}])
def test_a_demo_of_another_kind_or_version_is_an_error_unless_it_may_be_overwritten(change, tmp_path, commands):
    run_demo(tmp_path / "demo", "CCSDTrainer", "cpu")
    record = tmp_path / "demo" / "demo.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    (tmp_path / "demo" / "old").touch()
    with pytest.raises(ValueError, match=r"the folder of a demo to go on with, .*of another one.*--overwrite"):
        run_demo(tmp_path / "demo", "CCSDTrainer", "cpu")
    assert (tmp_path / "demo" / "old").exists()
    run_demo(tmp_path / "demo", "CCSDTrainer", "cpu", overwrite=True)
    assert not (tmp_path / "demo" / "old").exists()
    assert [command[0] for command, _, _ in commands] == 2 * ["prepare", "nnUNetv2_train", "missmod", "missmod"]


def test_what_is_no_demo_is_never_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="new or empty folder"):
        run_demo(tmp_path, "CCSDTrainer", "cpu", overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("run", [run_quick_demo, lambda out, device: run_demo(out, "CCSDTrainer", device)])
def test_a_device_that_is_not_there_is_found_first(run, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="Expected a CUDA device, found none"):
        run(tmp_path / "demo", "cuda")
    assert list(tmp_path.iterdir()) == []


def in_a_fork(function, output):
    """Call a function in a fork of this process, as a console script does; give the process."""
    if process := os.fork():
        return process
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with open(output, "w", buffering=1) as sys.stdout:
            sys.stderr = sys.stdout
            code = function()
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_demo_that_is_stopped_ends_its_training_and_says_no_more(signal_, code, tmp_path, command, monkeypatch):
    command(f"print(os.getpid(), file=open({str(tmp_path / 'pid')!r}, 'w'), flush=True)\nimport time\ntime.sleep(60)")
    monkeypatch.setattr(Job, "prepare_data", lambda job: None)
    monkeypatch.setattr(demo, "find_command", lambda name: str(tmp_path / "nnUNetv2_fake"))
    process = in_a_fork(lambda: main(["demo", "-o", str(tmp_path / "demo")]), tmp_path / "said")
    while not ((tmp_path / "pid").exists() and (pid := (tmp_path / "pid").read_text().strip())):
        assert os.waitpid(process, os.WNOHANG) == (0, 0), (tmp_path / "said").read_text()
        time.sleep(0.02)
    os.kill(process, signal_)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == code
    said = (tmp_path / "said").read_text()
    assert "Train DCSegTrainer" in said
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_quick_demo_of_a_trainer_is_an_error(tmp_path, capsys):
    assert main(["demo", "--quick", "-tr", "CCSDTrainer", "--out", str(tmp_path / "demo")]) == 2
    assert "Expected --quick, which trains nothing, or -tr CCSDTrainer, got both" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_model_of_the_quick_demo_is_small():
    assert sum(file.stat().st_size for file in EMBEDDED.rglob("*.*")) < 600_000


@pytest.mark.slow
def test_the_quick_demo_prints_the_table_of_the_first_steps(tmp_path, monkeypatch, capsys):
    def run(job, title, command, tick, ticks, defaults=None):
        for folder in VARIABLES:
            monkeypatch.setenv(folder, job.environment[folder])
        assert (command[0], command[-2:]) == ("missmod", ["-nps", "1"])
        assert main([*command[1:-1], "0"]) == 0  # in this process

    monkeypatch.setattr(Job, "run", run)
    monkeypatch.setattr(demo, "write_report", lambda folders, out: out / "index.html")
    run_quick_demo(tmp_path / "demo", "cpu")
    printed = capsys.readouterr().out.rpartition("mean Dice of 2 cases")[2]
    table = FIRST_STEPS.read_text(encoding="utf-8")
    found, expected = (re.findall(r"(?<= )0\.\d{3}(?= )", text.partition("●")[2]) for text in (printed, table))
    assert len(found) == 3 * (15 + 1)
    assert list(map(float, found)) == pytest.approx(list(map(float, expected)), abs=0.005)


def test_data_are_prepared_with_the_settings_of_the_demo(tmp_path, monkeypatch):
    from small_plans import small_plans

    job = Job(tmp_path / "demo", "cpu")

    def run(title, command, tick, ticks, defaults=None):
        assert command[:5] == ["nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres"]
        folder = job.out / "nnUNet_preprocessed" / job.raw.name
        folder.mkdir()
        plans = {**small_plans(features=(32, 64, 128, 256)), "dataset_name": job.raw.name}
        (folder / "nnUNetPlans.json").write_text(json.dumps(plans))

    monkeypatch.setattr(demo, "NUM_TRAINING", 1)
    monkeypatch.setattr(demo, "SIZE", 32)
    monkeypatch.setattr(job, "run", run)
    job.prepare_data()
    assert len(list((job.raw / "labelsTs").iterdir())) == demo.NUM_TEST
    file = job.out / "nnUNet_preprocessed" / job.raw.name / "nnUNetPlans_demo.json"
    plans = json.loads(file.read_text())
    configuration = plans["configurations"]["3d_fullres"]
    assert plans["plans_name"] == "nnUNetPlans_demo"
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [16, 32, 64, 64]
    assert configuration["missmod"]["trainer"]["num_epochs"] == 8


# --- running commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Write a Python script that stands for a command of nnU-Net."""

    def write(script):
        file = tmp_path / "nnUNetv2_fake"
        file.write_text(f"#!{sys.executable}\nimport os, sys\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        known = {"nnUNetv2_fake": str(file)}
        monkeypatch.setattr(demo, "find_command", lambda name: known[name])

    return write


@pytest.fixture
def ticks(monkeypatch):
    """How far the bar has moved."""
    moved = []
    monkeypatch.setattr(Lines, "advance", lambda self, amount=1: moved.append(amount))
    return moved


def test_the_output_of_a_command_is_in_the_log_and_moves_the_bar(tmp_path, command, ticks):
    command(
        "print(sys.argv[1:], flush=True)\n"
        "print('Epoch 0\\nloss 1', flush=True)\n"
        "print('a warning', file=sys.stderr, flush=True)\n"
        "print('Epoch 12')\n"
        "print(os.environ['nnUNet_results'], os.environ['nnUNet_extTrainer'])"
    )
    job = Job(tmp_path / "demo", "cpu")
    job.run("Train", ["nnUNetv2_fake", "501", "-device", "cpu"], r"Epoch \d+", 2)
    results = tmp_path / "demo" / "nnUNet_results"
    expected = ["['501', '-device', 'cpu']", "Epoch 0", "loss 1", "a warning", "Epoch 12"]
    log = (tmp_path / "demo" / "log.txt").read_text().splitlines()
    assert log[:-1] == expected
    assert log[-1].startswith(f"{results} {door_folder()}")
    assert sum(ticks) == 2
    assert len(ticks) == len(log)


def test_the_log_holds_all_commands(tmp_path, command, ticks):
    command("print('Epoch', sys.argv[1])")
    job = Job(tmp_path / "demo", "cpu")
    job.run("Plan", ["nnUNetv2_fake", "first"], "", 1)
    job.run("Train", ["nnUNetv2_fake", "second"], "Epoch", 1)
    assert (tmp_path / "demo" / "log.txt").read_text() == "Epoch first\nEpoch second\n"
    assert sum(ticks) == 1  # an empty pattern matches nothing


def test_a_command_has_defaults_that_the_user_may_set(tmp_path, command, monkeypatch):
    command("print(os.environ['nnUNet_n_proc_DA'])")
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    job = Job(tmp_path / "demo", "cpu")
    job.run("Plan", ["nnUNetv2_fake"], "", 1)
    job.run("Train", ["nnUNetv2_fake"], "", 1, IN_ONE_PROCESS)
    monkeypatch.setenv("nnUNet_n_proc_DA", "4")
    Job(tmp_path / "demo", "cpu").run("Train", ["nnUNetv2_fake"], "", 1, IN_ONE_PROCESS)
    assert (tmp_path / "demo" / "log.txt").read_text() == "1\n0\n4\n"


def test_the_bar_is_full_when_the_command_has_ended(tmp_path, command, capsys):
    command("print('Epoch time: 1 s')")
    Job(tmp_path / "demo", "cpu").run("Train", ["nnUNetv2_fake"], "Epoch time:", 2)
    assert re.findall(r"Train: (\d+) %", capsys.readouterr().err) == ["50", "100"]


def test_a_command_that_fails_is_an_error_with_the_end_of_its_output(tmp_path, command):
    command("for i in range(100): print(f'line {i};')\nsys.exit('no space left on device')")
    job = Job(tmp_path / "demo", "cpu")
    with pytest.raises(RuntimeError) as error:
        job.run("Train", ["nnUNetv2_fake", "501", "--c"], r"Epoch \d+", 2)
    message = str(error.value)
    assert message.startswith("nnUNetv2_fake 501 --c failed.")
    assert str(tmp_path / "demo" / "log.txt") in message
    assert "no space left on device" in message
    shown = [i for i in range(100) if f"line {i};" in message]
    assert shown == list(range(100 - LAST_LINES + 1, 100))
    assert len((tmp_path / "demo" / "log.txt").read_text().splitlines()) == 101


def test_a_command_that_is_killed_is_an_error(tmp_path, command):
    command("print('Epoch 0', flush=True)\nos.kill(os.getpid(), 9)")
    with pytest.raises(RuntimeError, match=r"nnUNetv2_fake failed[\s\S]*Epoch 0"):
        Job(tmp_path / "demo", "cpu").run("Train", ["nnUNetv2_fake"], "", 1)


def test_a_command_that_is_missing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ValueError, match="nnUNetv2_missing"):
        Job(tmp_path / "demo", "cpu").run("Train", ["nnUNetv2_missing"], "", 1)


def test_a_dedicated_trainer_gets_a_plan_and_a_model_of_its_subset(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(Job, "write_plan", lambda job: commands.append((["write", job.plans], "", 1)))
    run_demo(tmp_path / "demo", "ModalityDropoutTrainer", "cpu")
    commands.clear()
    run_demo(tmp_path / "demo", "DedicatedUNetTrainer", "cpu", subset="T2+FLAIR")  # on the data that are there
    plans = "nnUNetPlans_demo_FLAIR+T2"
    assert commands[0][0] == ["write", plans]
    named = [command[command.index("-p") + 1] for command, _, _ in commands if "-p" in command]
    assert named == [plans, plans]
    block = Job(tmp_path / "other", "cpu", subset="T1c").fragment["missmod"]["trainer"]
    assert block["subset"] == "T1c"
    assert block["num_epochs"] > 0


@pytest.mark.parametrize(
    ("trainer", "subset", "message"),
    [
        ("ModalityDropoutTrainer", "T1c", "Expected --subset for a trainer of one subset, got -tr ModalityDropout"),
        ("DedicatedUNetTrainer", "CT", "Expected a subset of the modalities FLAIR, T1, T1c, T2"),
    ],
)
def test_a_subset_is_one_of_the_phantom_s_and_for_a_dedicated_trainer(trainer, subset, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_demo(tmp_path / "demo", trainer, "cpu", subset=subset)
    assert list(tmp_path.iterdir()) == []
