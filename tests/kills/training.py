"""Kill trainings at random moments, resume them with --c, and compare the end with a training that was never killed.

    python tests/kills/training.py --kills 20 --signals SIGKILL SIGTERM

The batches depend on epoch and step alone, so that the end must be equal to the bit. nnU-Net's workers, which prepare
batches, run beside them: none may outlive its training.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.update({"nnUNet_n_proc_DA": "2"})

import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from processes import left_after
from small_plans import CONFIGURATION, CPU, random_batch, small_dataset_json
from small_training import training_plans, write_training

from nnunetv2_missmod.training.log import EpochLog

EPOCHS = 6


class Stream:
    """Batches that depend on epoch and step alone."""

    def __init__(self, trainer, workers, salt):
        self.trainer, self.workers, self.salt, self.step = trainer, workers, salt, 0

    def __next__(self):
        self.step += 1
        seed = self.salt + 100 * self.trainer.current_epoch + self.step % self.trainer.num_iterations_per_epoch
        return random_batch(self.trainer, seed=seed)


def train(root, name):
    """What nnUNetv2_train --c does, on streams."""
    for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[folder] = str(root / folder)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    LocalLogger.plot_progress_png = lambda *_: None  # takes longer than an epoch here
    trainer_class = getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)
    plans = {**training_plans(num_epochs=EPOCHS), "continue_training": True}
    trainer = trainer_class(plans, CONFIGURATION, 0, small_dataset_json(2), CPU)
    start_workers = trainer.get_dataloaders
    trainer.get_dataloaders = lambda: [Stream(trainer, workers, 50 * n) for n, workers in enumerate(start_workers())]
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    trainer.run_training()


def start(root, name):
    """Train in a process of its own; give its number."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)  # the workers inherit the group, by which they are found
    code = 1
    with open(root / "log.txt", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            train(root, name)
            code = 0
        except BaseException:
            traceback.print_exc(file=log)
            log.flush()
        finally:
            os._exit(code)


def finish(process):
    """Wait for a training; give its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def result(root, name):
    """What a training leaves: weights, optimizer, curves and rows of metrics.csv, and the names of its files."""
    (folder,) = (root / "nnUNet_results").glob(f"*/{name}__*/fold_0")
    checkpoints = {}
    for file in sorted(folder.glob("checkpoint_*")):
        checkpoint = torch.load(file, weights_only=False)
        curves = {key: value for key, value in checkpoint["logging"].items() if "timestamps" not in key}
        checkpoints[file.name] = {key: value for key, value in checkpoint.items() if key != "init_args"}
        checkpoints[file.name]["logging"] = json.dumps(curves, default=str)
    return {"checkpoints": checkpoints, "metrics": EpochLog(str(folder / "metrics.csv")).rows()}


def differences(expected, got, where=""):
    """Names of what differs between two nests of dicts, lists and tensors."""
    if isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        return [d for key in expected for d in differences(expected[key], got[key], f"{where}/{key}")]
    if isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)) and len(expected) == len(got):
        return [
            d for n, (e, g) in enumerate(zip(expected, got, strict=True)) for d in differences(e, g, f"{where}/{n}")
        ]
    same = torch.equal(expected, got) if isinstance(expected, torch.Tensor) else expected == got
    return [] if same else [where]


def moment(root, name):
    """What a killed training had written."""
    files = {file.name for file in (root / "nnUNet_results").glob(f"*/{name}__*/fold_0/checkpoint_*")}
    if any(file.endswith(".tmp") for file in files):
        return "while a checkpoint was written"
    if "checkpoint_final.pth" in files:
        return "after the last epoch"
    return "after the first checkpoint" if "checkpoint_latest.pth" in files else "before the first checkpoint"


def wait_for_checkpoint(root, name, seconds=120):
    """Wait until a training has written its first checkpoint; give the time."""
    end = time.monotonic() + seconds
    while not list((root / "nnUNet_results").glob(f"*/{name}__*/fold_0/checkpoint_latest.pth")):
        assert time.monotonic() < end, (root / "log.txt").read_text()
        time.sleep(0.002)
    return time.monotonic()


def kill_and_resume(name, kills, seed, folder, signals):
    """Kill trainings at random moments; give the counts of the moments, and what was wrong.

    Three of four are killed after their first checkpoint.
    """
    source = folder / "source"
    write_training(source, training_plans(num_epochs=EPOCHS))
    whole = shutil.copytree(source, folder / "whole")
    began, process = time.monotonic(), start(whole, name)
    until_first = wait_for_checkpoint(whole, name) - began
    assert finish(process) == 0, (whole / "log.txt").read_text()
    from_first, expected = time.monotonic() - began - until_first, result(whole, name)
    moments, wrong, rng = Counter(), [], random.Random(seed)
    for number, kind in zip(range(kills), itertools.cycle(signals)):
        root = shutil.copytree(source, folder / str(number))
        process = start(root, name)
        if number % 4 == 3:
            time.sleep(rng.uniform(0, until_first))
        else:
            wait_for_checkpoint(root, name)
            time.sleep(rng.uniform(0, from_first))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, kind)
        finish(process)
        moments[moment(root, name)] += 1
        left = left_after(process, seconds=5)
        wrong += [f"{number}: worker {worker} outlives its training" for worker in left]
        for worker in left:
            os.kill(worker, signal.SIGKILL)
        code = finish(start(root, name))
        wrong += [f"{number}: --c ended with {code}: {(root / 'log.txt').read_text()[-2000:]}"] if code else []
        wrong += [f"{number}: {where}" for where in ([] if code else differences(expected, result(root, name)))]
        shutil.rmtree(root)
    return moments, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trainer", default="ModalityDropoutTrainer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signals", nargs="+", default=["SIGKILL"], help="in turn; SIGTERM is what clusters send")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        signals = [signal.Signals[name] for name in parsed.signals]
        moments, wrong = kill_and_resume(parsed.trainer, parsed.kills, parsed.seed, Path(folder), signals)
    for name, count in sorted(moments.items()):
        print(f"{count:4d} killed {name}")
    print(f"{len(wrong):4d} wrong", *wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
