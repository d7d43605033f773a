"""Files that are replaced at once, and hidden folders for what is not whole yet; test_reading.py damages images."""

import os
import shutil

import pytest

from nnunetv2_missmod.files.whole_files import LOCK, clear_hidden_folders, hidden_folder, write_whole


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    file = tmp_path / "file"
    for text in ("one", "two"):
        write_whole(file, lambda partial, text=text: partial.write_text(text))
        assert file.read_text() == text
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_write_that_fails_leaves_the_file_before_and_nothing_beside_it(tmp_path, error):
    file = tmp_path / "file"
    file.write_text("before")

    def fails(partial):
        partial.write_text("half")
        raise error("no")

    with pytest.raises(error):
        write_whole(file, fails)
    assert file.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_names_the_file_and_says_why(tmp_path):
    with pytest.raises(OSError, match=rf"No such file or directory: '{tmp_path}/nowhere/file'"):
        write_whole(tmp_path / "nowhere" / "file", lambda partial: partial.write_text("text"))


def test_a_hidden_folder_goes_with_its_content(tmp_path):
    with hidden_folder(tmp_path, "writing") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".writing_")
        (folder / "file").write_text("text")
    assert os.listdir(tmp_path) == []
    with pytest.raises(KeyError), hidden_folder(tmp_path, "writing") as folder:
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_what_got_its_place_stays(tmp_path):
    with hidden_folder(tmp_path, "writing") as folder:
        (folder / "file").write_text("text")
        os.replace(folder / "file", tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


def test_folders_of_dead_processes_are_cleared_and_those_of_living_ones_not(tmp_path):
    left = tmp_path / ".writing_left"
    with hidden_folder(tmp_path, "writing") as folder, hidden_folder(tmp_path, "filling") as other:
        shutil.copytree(folder, left)  # a lock that nobody holds
        (left / "half").write_text("half a mask")
        (tmp_path / ".writing_empty").mkdir()
        (tmp_path / "writing_of_a_user").mkdir()
        clear_hidden_folders(tmp_path, "writing")
        assert folder.exists()
        assert (folder / LOCK).exists()
        assert other.exists()
    assert os.listdir(tmp_path) == ["writing_of_a_user"]


def test_a_folder_that_is_not_there_has_nothing_to_clear(tmp_path):
    clear_hidden_folders(tmp_path / "nowhere", "writing")
