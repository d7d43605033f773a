"""Files that get their places together: a process may die at any moment, and the next run begins as if it had not."""

import json

import pytest

from nnunetv2_missmod.datasets.conversion.placing import RECORD, place_files, take_back


class DiedError(Exception):
    """In place of a signal that nothing can catch."""


@pytest.fixture
def hidden(tmp_path):
    (tmp_path / "hidden").mkdir()
    for name in ("one", "two"):
        (tmp_path / "hidden" / name).write_text(name)
    return tmp_path / "hidden"


def goals(hidden):
    return {hidden / name: hidden.parent / "goal" / name for name in ("one", "two")}


def test_all_files_get_their_places_before_the_end_is_made(hidden, tmp_path):
    seen = []
    place_files(goals(hidden), hidden, lambda: seen.extend(sorted(file.name for file in (tmp_path / "goal").iterdir())))
    assert seen == ["one", "two"]
    assert (tmp_path / "goal" / "two").read_text() == "two"
    assert not (hidden / RECORD).exists()


def test_after_an_error_none_is_there(hidden, tmp_path):
    def fails():
        raise DiedError

    with pytest.raises(DiedError):
        place_files(goals(hidden), hidden, fails)
    assert not (tmp_path / "goal").exists()


def test_what_is_there_is_never_replaced(hidden, tmp_path):
    (tmp_path / "goal").mkdir()
    (tmp_path / "goal" / "two").write_text("the user's")
    with pytest.raises(ValueError, match="Expected nothing at"):
        place_files(goals(hidden), hidden, lambda: None)
    assert [file.name for file in (tmp_path / "goal").iterdir()] == ["two"]
    assert (tmp_path / "goal" / "two").read_text() == "the user's"


def die_at_the_end(hidden, monkeypatch, done=None):
    """Leave all as a SIGKILL just before the end would."""

    def dies():
        monkeypatch.setattr("nnunetv2_missmod.datasets.conversion.placing.take_back", lambda _: None)
        raise DiedError

    with pytest.raises(DiedError):
        place_files(goals(hidden), hidden, dies, done)


def test_what_a_dead_process_placed_is_taken_back_but_for_what_was_changed_since(hidden, tmp_path, monkeypatch):
    die_at_the_end(hidden, monkeypatch)
    (tmp_path / "goal" / "two").write_text("the user's")
    (tmp_path / "goal" / ".partial_one").touch()
    take_back(hidden)
    assert [file.name for file in (tmp_path / "goal").iterdir()] == ["two"]


def test_what_was_done_is_not_taken_back(hidden, tmp_path, monkeypatch):
    die_at_the_end(hidden, monkeypatch, tmp_path / "done")
    (tmp_path / "done").touch()
    take_back(hidden)
    assert sorted(file.name for file in (tmp_path / "goal").iterdir()) == ["one", "two"]


def test_a_folder_without_a_record_or_with_another_s_takes_nothing_back(hidden):
    take_back(hidden)
    (hidden / RECORD).write_text("{")
    take_back(hidden)
    assert sorted(file.name for file in hidden.iterdir()) == ["one", RECORD, "two"]


def test_another_file_system_gets_copies(hidden, tmp_path, monkeypatch):
    import errno

    def refuses(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuses)
    place_files(goals(hidden), hidden, lambda: json.loads((hidden / RECORD).read_text()))
    assert sorted(file.name for file in (tmp_path / "goal").iterdir()) == ["one", "two"]
