"""When a training will end: said soon, and by the speed that it has shown."""

from datetime import datetime

import pytest

from nnunetv2_missmod.training.expected_end import FirstUpdates, expected_by_updates, expected_end, is_to_be_said

NOW = datetime(2026, 11, 29, 22, 0)


@pytest.mark.parametrize(
    ("seconds", "left", "expected"),
    [
        ([90.0], 3, "Expected end: 2026-11-29 22:04, in 0:04:30: 3 more epochs of 90.0 s."),
        (
            [900.0, 60.0],
            300,
            "Expected end: 2026-11-30 03:00, in 5:00:00: 300 more epochs of 60.0 s.",
        ),  # the first compiled
        ([900.0, 60.0, 61.0, 500.0], 1, "in 0:01:01: 1 more epochs of 61.0 s."),
        ([864.0], 250, "Expected end: 2026-12-02 10:00, in 2 days, 12:00:00: "),
    ],
)
def test_the_end_is_what_is_left_at_the_usual_speed(seconds, left, expected):
    assert expected in expected_end(seconds, left, NOW)


def test_it_is_said_after_two_epochs_and_every_tenth():
    assert [done for done in range(1, 101) if is_to_be_said(done, 100)] == [1, 2, *range(10, 101, 10)]
    assert all(is_to_be_said(done, 8) for done in range(1, 9))


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([400.0, *range(401, 409)], [None] * 9),
        ([400.0, *range(401, 410)], [*[None] * 9, 1.0]),  # the first update compiled, and is the clock's zero
        ([400.0, 440.0, 480.0, 530.0], [None, None, None, 40.0]),  # slow ones need not be ten
        ([400.0, 419.0, 438.0, 457.0, 476.0], [None, None, None, None, 19.0]),
    ],
)
def test_the_first_updates_tell_the_speed(ends, expected):
    clock = FirstUpdates()
    assert [clock.speed(end) for end in ends] == expected


def test_the_end_by_the_first_updates():
    said = expected_by_updates(1.5, 230_400, NOW)
    assert "Expected end, by the first updates: 2026-12-03 22:00, in 4 days, 0:00:00: 230400 more of 1.5 s." in said


@pytest.fixture
def training(tmp_path, monkeypatch):
    """A training of three epochs of twelve updates, and what it says."""
    from small_plans import small_dataset_json, small_plans, small_trainer

    from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer

    plans = small_plans(2, features=(8, 8, 16), num_epochs=3, save_every=99, num_iterations_per_epoch=12)
    trainer = small_trainer(ModalityDropoutTrainer, plans, small_dataset_json(2), tmp_path, monkeypatch)
    trainer.logger.local_logger.plot_progress_png = lambda *_: None
    trainer.save_checkpoint = lambda file: None
    trainer.prepare_batch = lambda batch: batch
    trainer.take = lambda updates: {}
    said = []
    monkeypatch.setattr(trainer, "print_to_log_file", lambda *words, **_: said.append(" ".join(map(str, words))))
    return trainer, said


def test_a_training_says_it_after_ten_updates(training):
    trainer, said = training
    for _ in range(20):
        trainer.train_step({})  # rehearsed by planning: no epoch has begun
    assert not said
    trainer.current_epoch = 1  # resumed
    trainer.on_epoch_start()
    for _ in range(12):
        trainer.train_step({})
    (found,) = [line for line in said if "Expected end" in line]
    assert ": 14 more of " in found


def test_a_training_says_it_after_its_epochs(training):
    trainer, said = training
    for _ in range(3):
        trainer.on_epoch_start()
        for key in ("train_losses", "val_losses"):
            trainer.logger.log(key, 1.0, trainer.current_epoch)
        trainer.log_scores([0.5, 0.5], 0.5, 1.0)
        trainer.on_epoch_end()
    found = [line for line in said if "Expected end" in line]
    assert len(found) == 2  # not after the last
    assert ": 2 more epochs of 0." in found[0]
    assert ": 1 more epochs of 0." in found[1]
