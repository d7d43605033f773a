"""`missmod plan`, killed at random moments: its plan is whole or not there, and the same command again writes it."""

import pytest
from killing import KILLS, kill_within, run
from small_datasets import small_dataset

from nnunetv2_missmod.machine.chatter import LOG

pytestmark = pytest.mark.slow

PLAN = ["plan", "-d", "501", "-tr", "ModalityDropoutTrainer", "-device", "cpu", "-c", "3d_fullres", "--overwrite"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the plans of a small dataset lie."""
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    return small_dataset(tmp_path).folder


def content(folder):
    """All but the log, to which every run adds."""
    files = [file for file in folder.iterdir() if not file.name.startswith(".partial_") and file.name != LOG]
    return {file.name: file.read_bytes() for file in files}


def test_a_killed_plan_is_whole_or_not_there(folder, tmp_path):
    log = tmp_path / "log.txt"
    arguments = [*PLAN, "--merge", str(tmp_path / "own.json")]
    (tmp_path / "own.json").write_text('{"batch_size": 2}')
    before = content(folder)
    code, seconds = run(arguments, log)
    assert code == 0, log.read_text()
    expected = content(folder)
    (new,) = expected.keys() - before.keys()
    for number in range(max(1, KILLS // 2)):  # a run takes seconds, and each kill another one
        (folder / new).unlink()
        kill_within(seconds, arguments, log, seed=number)
        assert content(folder) in (before, expected)
        assert run(arguments, log)[0] == 0, log.read_text()
        assert content(folder) == expected
        assert sorted(file.name for file in folder.iterdir()) == sorted([*expected, LOG])
