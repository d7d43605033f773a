"""When a training will end: said soon, and by the speed that it has shown."""

from datetime import datetime

import pytest

from nnunetv2_missmod.training.expected_end import expected_end, is_to_be_said

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


def test_a_training_says_it_in_its_log(tmp_path, monkeypatch):
    from small_plans import small_dataset_json, small_plans, small_trainer

    from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer

    plans = small_plans(2, features=(8, 8, 16), num_epochs=3, save_every=99)
    trainer = small_trainer(ModalityDropoutTrainer, plans, small_dataset_json(2), tmp_path, monkeypatch)
    trainer.logger.local_logger.plot_progress_png = lambda *_: None
    trainer.save_checkpoint = lambda file: None
    said = []
    monkeypatch.setattr(trainer, "print_to_log_file", lambda *words, **_: said.append(" ".join(map(str, words))))
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
