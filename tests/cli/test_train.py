"""The command for torchrun: every door trains in its group, and a worker that is killed costs no epoch."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from pages import REPOSITORY, texts_of
from small_training import environment_of, training_plans, write_training
from torch import distributed as dist

from nnunetv2_missmod.cli import train
from nnunetv2_missmod.host.doors import door_names, with_doors
from nnunetv2_missmod.training.durable import DurableTrainer
from nnunetv2_missmod.training.log import EpochLog

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

ARGUMENTS = ["501", "3d_fullres", "0", "-p", "smallPlans", "-device", "cpu"]
QUICK_DOOR = "M3AEPretrainTrainer"  # whose validation starts no processes


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return str(found.getsockname()[1])


@pytest.fixture
def group(tmp_path, monkeypatch):
    """What torchrun tells the only process of a group."""
    variables = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": free_port(),
    }
    for name, value in {**variables, **environment_of(tmp_path), "nnUNet_n_proc_DA": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_extTrainer", with_doors({})["nnUNet_extTrainer"])
    bound = []
    monkeypatch.setattr(train, "end_with_parent", lambda: bound.append(True))  # not to the parent of the tests
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)  # takes longer than the training here
    yield monkeypatch
    assert bound
    if dist.is_initialized():
        dist.destroy_process_group()


def fold_of(root, name):
    (folder,) = (root / "nnUNet_results").glob(f"*/{name}__smallPlans__3d_fullres/fold_0")
    return folder


def epochs_of(root, name):
    """The epochs of metrics.csv, each as often as it begins anew."""
    found = [epoch for epoch, _, _ in EpochLog(str(fold_of(root, name) / "metrics.csv")).rows()]
    return [epoch for epoch, before in zip(found, [None, *found], strict=False) if epoch != before]


# --- one process ------------------------------------------------------------------------------------------------------


def write_again(root, **settings):
    """Change the settings of the plan."""
    file = root / "nnUNet_preprocessed" / "Dataset501_Small" / "smallPlans.json"
    file.write_text(json.dumps(training_plans(**settings)))


@pytest.mark.parametrize("name", door_names())
def test_every_door_trains_in_the_group_and_goes_on(name, group, tmp_path):
    short = {"num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}
    write_training(tmp_path, training_plans(num_epochs=1, **short))
    group.setattr(DurableTrainer, "perform_actual_validation", lambda self, npz: None)
    train.main([*ARGUMENTS, "-tr", name])
    assert not dist.is_initialized()
    assert epochs_of(tmp_path, name) == [0]
    first = torch.load(fold_of(tmp_path, name) / "checkpoint_final.pth", weights_only=False)
    assert not any(key.startswith("module.") for key in first["network_weights"])

    write_again(tmp_path, num_epochs=2, **short)
    with pytest.raises(ValueError, match=r"Expected no checkpoint in .*checkpoint_final\.pth.*with --c, or move"):
        train.main([*ARGUMENTS, "-tr", name])
    dist.destroy_process_group()
    group.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    train.main([*ARGUMENTS, "-tr", name])
    assert epochs_of(tmp_path, name) == [0, 1]
    second = torch.load(fold_of(tmp_path, name) / "checkpoint_final.pth", weights_only=False)
    assert second["current_epoch"] == 2
    assert second["missmod"]["subset_seed"] == first["missmod"]["subset_seed"]


def parsed(*arguments):
    return train.build_parser().parse_args([*ARGUMENTS, "-tr", QUICK_DOOR, *arguments])


@pytest.mark.parametrize("found", [(), ("checkpoint_best.pth",), ("checkpoint_latest.pth.tmp",)])
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("flags", [(), ("--c",), ("--val",)])
def test_it_goes_on_where_there_is_a_checkpoint_and_someone_asked(found, restarted, flags, tmp_path):
    for name in found:
        (tmp_path / name).touch()
    has_checkpoint = found == ("checkpoint_best.pth",)
    if has_checkpoint and not restarted and not flags:
        with pytest.raises(ValueError, match=r"got checkpoint_best\.pth"):
            train.goes_on(str(tmp_path), restarted, parsed(*flags))
    else:
        assert train.goes_on(str(tmp_path), restarted, parsed(*flags)) == (has_checkpoint and flags != ("--val",))


def test_a_stock_trainer_is_refused(group, tmp_path):
    write_training(tmp_path, training_plans())
    with pytest.raises(ValueError, match="one of this package's trainers, got nnUNetTrainer"):
        train.main([*ARGUMENTS, "-tr", "nnUNetTrainer"])


@pytest.mark.parametrize("flags", [("--c", "--val"), ("--val_best", "--disable_checkpointing")])
def test_flags_that_exclude_each_other_are_refused(flags):
    with pytest.raises(ValueError, match="got both"):
        train.train(parsed(*flags), torch.device("cpu"))


def test_it_asks_for_torchrun(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match="Expected to be started by torchrun"):
        train.join_group("cpu")


def test_restarts_need_a_store_of_their_own(monkeypatch):
    variables = {"LOCAL_RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_MAX_RESTARTS": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="Expected TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        train.join_group("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="Expected as many GPUs as --nproc-per-node, got 2 for process 3"):
        train.join_group("cuda")


def test_the_second_machine_s_gpu_is_counted_from_its_own_first(monkeypatch):
    """Rank 5 of two machines with four GPUs each is the second of its machine."""
    asked = {}
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.update(device=device))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(dist, "init_process_group", lambda backend: asked.update(backend=backend))
    assert train.join_group("cuda") == torch.device("cuda", 1)
    assert asked == {"device": 1, "backend": "nccl"}


def test_the_flags_are_those_of_nnunet(capsys):
    """But for -num_gpus, which torchrun knows."""
    from nnunetv2.run import run_training

    source = Path(run_training.__file__).read_text()
    theirs = set(re.findall(r"add_argument\('([\w-]+)'", source)) - {"-num_gpus"}
    ours = {option for action in train.build_parser()._actions for option in action.option_strings or [action.dest]}
    assert ours == theirs | {"-h", "--help"}


# --- several processes ------------------------------------------------------------------------------------------------


SRUN = """#!/bin/bash
"$@" & FIRST=$!
"$@" & SECOND=$!
wait $FIRST && wait $SECOND
"""


def environment(root, **own):
    """What every process of a training finds in its environment."""
    path = f"{root}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    quick = {"nnUNet_n_proc_DA": "0", "OMP_NUM_THREADS": "1"}
    return with_doors({**os.environ, **environment_of(root), **quick, "PATH": path, **own})


def script_of_the_page(root, changes):
    """The script of clusters.md for two machines, and commands of SLURM that run it twice on this one."""
    subprocess.run(["bash", "-c", texts_of(REPOSITORY / "docs" / "clusters.md", "bash")[0]], cwd=root, check=True)
    script = root / "two_machines.sh"
    text = script.read_text()
    for word, ours in changes.items():
        assert word in text
        text = text.replace(word, ours)
    script.write_text(text)
    for name, content in {"srun": SRUN, "scontrol": "#!/bin/bash\necho localhost\n"}.items():
        (root / name).write_text(content)
        (root / name).chmod(0o755)
    return script


def descendants(process):
    """The numbers of all processes below one."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in children] + [below for child in children for below in descendants(child)]


def workers_of(process):
    """What torchrun started below a process: not torchrun itself."""
    commands = {child: Path(f"/proc/{child}/cmdline").read_text() for child in descendants(process)}
    return [
        child for child, text in commands.items() if "nnunetv2_missmod.cli.train" in text and "--nnodes" not in text
    ]


def wait_for(file, process, seconds=120):
    end = time.monotonic() + seconds
    while not file.is_file():
        assert time.monotonic() < end, f"waited too long for {file}"
        assert process.poll() is None, "the script ended"
        time.sleep(0.02)


def log_of(root):
    return (root / "log.txt").read_text(errors="replace")[-6000:]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the workers in /proc")
def test_the_page_s_script_restarts_from_the_last_checkpoint_when_a_worker_is_killed(tmp_path):
    write_training(tmp_path, training_plans(num_epochs=3, num_iterations_per_epoch=1))
    ours = {"--nproc-per-node=4": "--nproc-per-node=1", ":29500": f":{free_port()}", "DCSegTrainer --c": QUICK_DOOR}
    ours[QUICK_DOOR] = f"{QUICK_DOOR} -p smallPlans -device cpu --c"
    script = script_of_the_page(tmp_path, ours)
    slurm = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7"}
    with open(tmp_path / "log.txt", "w") as log:
        job = subprocess.Popen(["bash", script], env=environment(tmp_path, **slurm), stdout=log, stderr=log)
    fold = tmp_path / "nnUNet_results" / "Dataset501_Small" / f"{QUICK_DOOR}__smallPlans__3d_fullres" / "fold_0"
    wait_for(fold / "checkpoint_latest.pth", job)
    os.kill(workers_of(job.pid)[1], signal.SIGKILL)
    assert job.wait(300) == 0, log_of(tmp_path)
    assert epochs_of(tmp_path, QUICK_DOOR) == [0, 1, 2]
    assert (fold / "checkpoint_final.pth").is_file()
    logs = [file.read_text() for file in sorted(fold.glob("training_log_*.txt"))]
    began = [int(re.search(r"Epoch (\d+)", log)[1]) for log in logs if "Epoch " in log]
    assert len(began) > 1, "nothing was restarted"
    assert began[0] == 0
    assert min(began[1:]) > 0


def test_two_machines_train_every_door(tmp_path):
    short = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}
    write_training(tmp_path, training_plans(**short))
    group = [f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-backend=c10d", "--rdzv-id=two"]
    script = str(Path(__file__).parents[1] / "torchrun_doors.py")
    command = ["torchrun", "--nnodes=2", "--nproc-per-node=1", *group, script, *ARGUMENTS]
    with open(tmp_path / "log.txt", "w") as log:
        agents = [subprocess.Popen(command, env=environment(tmp_path), stdout=log, stderr=log) for _ in range(2)]
    assert [agent.wait(300) for agent in agents] == [0, 0], log_of(tmp_path)
    for name in door_names():
        assert epochs_of(tmp_path, name) == [0]
        assert (fold_of(tmp_path, name) / "checkpoint_final.pth").is_file()
