import csv

import pytest

from nnunetv2_missmod.training.log import COLUMNS, EpochLog


@pytest.fixture
def log(tmp_path):
    log = EpochLog(str(tmp_path / "metrics.csv"))
    log.keep_before(0)  # what a training does when it starts
    return log


def test_a_log_without_a_file_is_empty(tmp_path):
    assert EpochLog(str(tmp_path / "metrics.csv")).rows() == []
    assert not (tmp_path / "metrics.csv").exists()


def test_a_log_grows_by_a_row_per_name(log):
    log.append(0, {"loss/segmentation": 0.5, "pseudo_dice/FLAIR+T1c": 0.25})
    log.append(1, {"loss/segmentation": 0.125})
    assert log.rows() == [
        (0, "loss/segmentation", "0.5"),
        (0, "pseudo_dice/FLAIR+T1c", "0.25"),
        (1, "loss/segmentation", "0.125"),
    ]


def test_the_file_is_a_table_with_one_header(log):
    log.append(0, {"a": 1.0})
    log.append(1, {"a": 2.0})
    with open(log.file, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert table == [dict(zip(COLUMNS, row, strict=True)) for row in [("0", "a", "1"), ("1", "a", "2")]]


def test_names_may_hold_what_csv_quotes(log):
    names = ['a,"b"', "größe", "two\nlines"]
    log.append(0, dict.fromkeys(names, 1.0))
    assert [name for _, name, _ in log.rows()] == names


def test_values_keep_six_digits_and_nan(log):
    log.append(0, {"a": 1 / 3, "b": float("nan"), "c": 1.5e-9})
    assert [value for _, _, value in log.rows()] == ["0.333333", "nan", "1.5e-09"]


def test_keep_before_forgets_the_epoch_and_what_follows(log):
    for epoch in range(4):
        log.append(epoch, {"a": epoch, "b": -epoch})
    log.keep_before(2)
    assert [row[:2] for row in log.rows()] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


def test_a_resumed_training_leaves_no_epoch_twice(log):
    for epoch in range(5):
        log.append(epoch, {"a": epoch})
    resumed = EpochLog(log.file)
    resumed.keep_before(3)  # the checkpoint knows epochs 0, 1, 2
    for epoch in range(3, 5):
        resumed.append(epoch, {"a": 10 * epoch})
    assert resumed.rows() == [(0, "a", "0"), (1, "a", "1"), (2, "a", "2"), (3, "a", "30"), (4, "a", "40")]


def test_a_training_from_scratch_starts_a_new_log(log):
    log.append(0, {"a": 1.0})
    log.keep_before(0)
    assert log.rows() == []
    with open(log.file, encoding="utf-8") as file:
        assert file.read().strip() == ",".join(COLUMNS)


def test_resuming_far_ahead_keeps_everything(log):
    log.append(0, {"a": 1.0})
    log.keep_before(1000)
    assert log.rows() == [(0, "a", "1")]


def test_a_log_that_starts_with_append_loses_no_row(tmp_path):
    log = EpochLog(str(tmp_path / "metrics.csv"))
    log.append(0, {"a": 1.0, "b": 2.0})
    assert log.rows() == [(0, "a", "1"), (0, "b", "2")]


def test_a_run_killed_in_the_middle_of_a_row_can_be_resumed(log):
    log.append(0, {"a": 1.0})
    with open(log.file, "a", encoding="utf-8") as file:
        file.write("1,a")
    log.keep_before(1)
    assert log.rows() == [(0, "a", "1")]


@pytest.mark.parametrize("left", ["1,a,0.12", "1,a,0.1234\r", '1,"a\nb', "1,a", "1", "\xff\x00", "x,a,1\r\n"])
def test_what_is_left_of_a_row_is_no_row(left, log):
    """``0.12`` may be all that a kill or a full disk left of ``0.1234``."""
    log.append(0, {"a": 0.5})
    with open(log.file, "a", newline="", encoding="latin-1") as file:
        file.write(left)
    assert log.rows() == [(0, "a", "0.5")]
    log.keep_before(2)
    assert log.rows() == [(0, "a", "0.5")]
