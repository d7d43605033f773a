"""Checkpoints that are damaged, disks that are full, memory that ends, schedules and cases that cannot be."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import full_disk
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from processes import left_after
from small_plans import CONFIGURATION, CPU, random_batch, small_dataset_json, small_plans, small_trainer
from small_training import environment_of, training_plans, write_training

from nnunetv2_missmod.methods.ccsd.trainer import CCSDTrainer
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.training.before_training import require_cases, require_enough_to_split
from nnunetv2_missmod.training.checkpoint_files import require_archive, whole_file
from nnunetv2_missmod.training.log import EpochLog
from nnunetv2_missmod.training.ranks import require_same_epoch, require_sample_each
from nnunetv2_missmod.training.validation import best_epoch

pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")

NAN = float("nan")


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(trainer_class=ModalityDropoutTrainer, **overrides):
        plans = small_plans(2, features=(8, 8, 16), **overrides)
        return small_trainer(trainer_class, plans, small_dataset_json(2), tmp_path, monkeypatch)

    return make


def in_folder(trainer, name):
    return Path(trainer.output_folder) / name


# --- damaged checkpoints ----------------------------------------------------------------------------------------------


def cut(content, share):
    return content[: int(share * len(content))]


def flipped(content, share):
    place = int(share * len(content))
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


@pytest.mark.parametrize(("damage", "share"), [(cut, 0.3), (cut, 0.95), (flipped, 0.3), (flipped, 0.6)])
def test_a_damaged_checkpoint_is_an_error_that_says_what_c_would_do(damage, share, make):
    trainer = make()
    latest, best = in_folder(trainer, "checkpoint_latest.pth"), in_folder(trainer, "checkpoint_best.pth")
    trainer.save_checkpoint(str(latest))
    whole = latest.read_bytes()
    latest.write_bytes(damage(whole, share))
    with pytest.raises(ValueError, match=r"checkpoint_latest.pth, which is cut off or damaged.* --c then starts anew"):
        trainer.load_checkpoint(str(latest))
    best.write_bytes(whole)
    with pytest.raises(ValueError, match=r"--c then goes on from checkpoint_best\.pth"):
        trainer.load_checkpoint(str(latest))
    assert latest.read_bytes() == damage(whole, share)


def test_an_empty_checkpoint_is_damaged(make):
    trainer = make()
    in_folder(trainer, "checkpoint_latest.pth").touch()
    with pytest.raises(ValueError, match="cut off or damaged"):
        trainer.load_checkpoint(str(in_folder(trainer, "checkpoint_latest.pth")))


def test_a_checkpoint_of_a_stock_trainer_is_refused_before_a_weight_changes(make):
    trainer, file = make(), in_folder(make(), "stock.pth")
    nnUNetTrainer.save_checkpoint(make(initial_lr=0.5), str(file))
    before = trainer.optimizer.state_dict()["param_groups"]
    with pytest.raises(ValueError, match=r"Expected a checkpoint of ModalityDropoutTrainer.*-pretrained_weights"):
        trainer.load_checkpoint(str(file))
    assert trainer.optimizer.state_dict()["param_groups"] == before


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_keeps_the_former_checkpoint_and_says_so(make):
    trainer, file = make(), in_folder(make(), "checkpoint_latest.pth")
    trainer.save_checkpoint(str(file))
    former = file.read_bytes()
    trainer.network.train()
    trainer.train_step(random_batch(trainer))
    for size in (0, 1000, len(former) // 2, len(former) - 200):
        with (
            full_disk(size),
            pytest.raises(OSError, match=r"latest\.pth could not be written.*untouched.*free space.*--c"),
        ):
            trainer.save_checkpoint(str(file))
        assert file.read_bytes() == former
        assert [entry.name for entry in file.parent.glob("checkpoint*")] == [file.name]
    trainer.load_checkpoint(str(file))
    trainer.save_checkpoint(str(file))


def test_an_archive_that_ends_early_without_an_error_is_no_checkpoint(make, tmp_path, monkeypatch):
    trainer, save = make(), torch.save

    def ends_early(content, target):
        save(content, target)
        Path(target).write_bytes(Path(target).read_bytes()[:-40])

    trainer.save_checkpoint(str(tmp_path / "whole.pth"))
    require_archive(str(tmp_path / "whole.pth"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: {})
    monkeypatch.setattr(torch, "save", ends_early)
    with pytest.raises(OSError, match="ends too early"):
        trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert not list(tmp_path.glob("checkpoint.pth*"))


def test_a_full_disk_keeps_what_was_logged(tmp_path):
    log = EpochLog(str(tmp_path / "metrics.csv"))
    log.keep_before(0)
    log.append(0, {"a": 0.25, "b": 0.5})
    rows, size = log.rows(), os.path.getsize(log.file)
    with full_disk(size + 6), pytest.raises(OSError, match=r"metrics\.csv could not be written.*free space.*--c"):
        log.append(1, {"a": 0.125})
    assert log.rows() == rows
    with full_disk(size - 6), pytest.raises(OSError, match=r"metrics\.csv could not be written"):
        log.keep_before(1)
    assert log.rows() == rows
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]
    log.keep_before(1)
    log.append(1, {"a": 0.125})
    assert log.rows() == [*rows, (1, "a", "0.125")]


def test_other_errors_pass_through_a_whole_file(tmp_path):
    with pytest.raises(KeyError), whole_file(str(tmp_path / "file")):
        raise KeyError("a mistake")


# --- what a killed run leaves -----------------------------------------------------------------------------------------


def test_what_was_being_saved_when_a_run_was_killed_is_removed(make, monkeypatch):
    trainer = make()
    for name in ("checkpoint_best.pth.tmp", "checkpoint_latest.pth.tmp", "notes.tmp"):
        in_folder(trainer, name).write_bytes(b"half")
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)
    trainer.on_train_start()
    assert [file.name for file in Path(trainer.output_folder).glob("*.tmp")] == ["notes.tmp"]


def test_the_best_epoch_is_the_first_of_the_highest_score():
    assert best_epoch([]) is None
    assert best_epoch([NAN, NAN]) is None
    assert best_epoch([0.5]) == 0
    assert best_epoch([NAN, 0.25, 0.5, 0.5, 0.125, NAN]) == 2


@pytest.mark.parametrize(("scores", "is_written"), [([0.2, 0.3], True), ([0.3, 0.2], False), ([], False)])
def test_a_run_killed_between_latest_and_best_writes_the_best_when_it_resumes(scores, is_written, make, monkeypatch):
    trainer = make()
    trainer.logger.local_logger.my_fantastic_logging["ema_fg_dice"] = scores
    trainer.current_epoch, trainer._best_ema = len(scores), 0.1
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)
    trainer.on_train_start()
    assert trainer.current_epoch == len(scores)
    assert trainer._best_ema == (max(scores) if scores else None)
    file = in_folder(trainer, "checkpoint_best.pth")
    assert file.is_file() == is_written
    if is_written:
        checkpoint = torch.load(file, weights_only=False)
        assert (checkpoint["current_epoch"], checkpoint["_best_ema"]) == (2, 0.3)


PARENT = """
import os, time
from nnunetv2_missmod.machine.forked_workers import workers_end_with_us
def fork():
    if not os.fork():
        time.sleep(60)
with workers_end_with_us():
    fork()
{then}
print("forked", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot bind a process to its parent")
@pytest.mark.parametrize("then", ["", "fork()"])
def test_workers_end_with_their_training_and_other_children_do_not(then):
    script = PARENT.format(then=then)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert parent.stdout.readline()
    parent.kill()
    parent.wait()
    left = left_after(parent.pid, 5 if not then else 1)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert len(left) == bool(then)


@pytest.mark.slow
def test_trainings_killed_at_random_moments_end_as_one_that_was_not():
    script = Path(__file__).parents[1] / "kills" / "training.py"
    command = [sys.executable, str(script), "--kills", "2", "--signals", "SIGKILL", "SIGTERM"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout


# --- memory that ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trainer_class", "own"), [(ModalityDropoutTrainer, ""), (CCSDTrainer, "lower max_students")])
def test_a_training_whose_memory_ends_names_what_makes_its_steps_smaller(trainer_class, own, make, monkeypatch):
    trainer = make(trainer_class)
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda self: torch.empty(2**50))
    with pytest.raises(RuntimeError, match=r"\(cpu\) while \w+Trainer trained on a batch of 2, a patch of") as caught:
        trainer.run_training()
    message = str(caught.value)
    assert "16 x 16 x 16 voxels and 2 modalities" in message
    assert (
        f"missmod plan -d Dataset501_Small -c 3d_fullres -tr {trainer_class.__name__} -gpu_memory_target GB" in message
    )
    assert "batch_size or patch_size" in message
    assert own in message
    assert "allocate memory" in message


def test_another_error_of_a_training_stays_as_it_is(make, monkeypatch):
    error = RuntimeError("One or more background workers are no longer alive.")

    def fail(self):
        raise error

    monkeypatch.setattr(nnUNetTrainer, "run_training", fail)
    with pytest.raises(RuntimeError) as caught:
        make().run_training()
    assert caught.value is error


# --- schedules and cases that cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["save_every", "num_val_iterations_per_epoch"])
@pytest.mark.parametrize(("value", "said"), [(0, "of at least 1, got 0"), (-1, "a finite number of 0 or more")])
def test_an_epoch_that_cannot_end_is_refused_before_training(name, value, said, make):
    with pytest.raises(ValueError, match=rf"{name}.*{said}"):
        make(**{name: value})


@pytest.mark.parametrize("cases", [["a"], ["a", "b", "c", "d"]])
def test_too_few_cases_for_folds_are_told_to_train_with_all(cases, tmp_path):
    file = tmp_path / "splits_final.json"
    with pytest.raises(ValueError, match=rf"at least 5 training cases .* got {len(cases)}: a.*fold all.*{file}"):
        require_enough_to_split(cases, 0, file)
    require_enough_to_split(cases, "all", file)
    require_enough_to_split([*cases, *"efgh"], 0, file)
    file.touch()
    require_enough_to_split(cases, 0, file)


@pytest.mark.parametrize(("training", "validation", "kind"), [([], ["a"], "training"), (["a"], [], "validation")])
def test_a_fold_without_cases_is_refused(training, validation, kind):
    with pytest.raises(ValueError, match=f"at least one {kind} case in fold 3, got none.*fold all"):
        require_cases(training, validation, 3)
    require_cases(["a"], ["a"], "all")


@pytest.mark.parametrize(("has_splits", "match"), [(True, "one validation case in fold 0"), (False, "at least 5")])
def test_a_training_asks_for_its_cases(has_splits, match, tmp_path, monkeypatch):
    base = write_training(tmp_path, training_plans(), cases=("a",), held_out=())
    if not has_splits:
        (base / "splits_final.json").unlink()
    trainer = of_files(tmp_path, base, monkeypatch, fold=0)
    with pytest.raises(ValueError, match=match):
        trainer.on_train_start()


def of_files(root, base, monkeypatch, fold, trainer_class=ModalityDropoutTrainer):
    """A trainer on what ``write_training`` wrote."""
    for name, value in environment_of(root).items():
        monkeypatch.setenv(name, value)
    plans = {**json.loads((base / "smallPlans.json").read_text()), "continue_training": False}
    dataset_json = json.loads((base / "dataset.json").read_text())
    return trainer_class(plans, CONFIGURATION, fold, dataset_json, CPU)


# --- epochs without a score -------------------------------------------------------------------------------------------


def test_an_epoch_without_a_score_leaves_the_average_and_the_best_as_they_were(make):
    """As where no patch of a validation meets a lesion of one voxel: nnU-Net's average would stay NaN for ever."""
    trainer, averages, written = make(save_every=100), [], []
    trainer.save_checkpoint = lambda file: written.append((trainer.current_epoch, Path(file).name))
    trainer.logger.local_logger.plot_progress_png = lambda _: None
    for score in (NAN, 0.5, NAN, 1.0, 0.0):
        trainer.on_epoch_start()
        trainer.logger.log("lrs", 0.1, trainer.current_epoch)
        trainer.logger.log("train_losses", 0.1, trainer.current_epoch)
        trainer.log_scores([score], score, 1.0)
        trainer.on_epoch_end()
        averages.append(trainer.logger.get_value("ema_fg_dice", -1))
    np.testing.assert_allclose(averages, [NAN, 0.5, 0.5, 0.55, 0.495])
    assert [epoch for epoch, _ in written] == [0, 1, 3]
    assert trainer._best_ema == pytest.approx(0.55)


# --- ranks ------------------------------------------------------------------------------------------------------------


def test_more_ranks_than_samples_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    with pytest.raises(ValueError, match="a batch of at least 8, a sample for each process, got 2"):
        require_sample_each(2)
    require_sample_each(8)


def test_ranks_that_found_other_checkpoints_stop(monkeypatch):
    def gather(found, _):
        found[:] = [4, 0]

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(RuntimeError, match=r"same epoch, got \[4, 0\].*nnUNet_results must be one folder"):
        require_same_epoch(4)
