import os
import sys
from pathlib import Path

import pytest

from nnunetv2_missmod.host.doors import (
    VARIABLE,
    door_folder,
    door_names,
    find_command,
    plans_folder,
    pretraining_of,
    with_doors,
)

ROOT = Path(__file__).parents[2]
COMMAND = "missmod-test-command"


def executable(folder, name=COMMAND):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return str(file)


@pytest.fixture
def python(tmp_path, monkeypatch):
    """The folder beside the interpreter, empty."""
    folder = tmp_path / "environment" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


def test_the_variable_is_the_one_that_nnunet_reads(monkeypatch):
    from nnunetv2.paths import nnUNet_extTrainer

    monkeypatch.setenv(VARIABLE, "/my/trainers")
    assert nnUNet_extTrainer.get() == "/my/trainers"


@pytest.mark.parametrize(("folder", "own"), [(door_folder, "trainers"), (plans_folder, "plans")])
def test_the_folders_exist_and_have_an_absolute_path(folder, own):
    found = folder()
    assert found.is_absolute()
    assert found.is_dir()
    assert {file.name for file in found.iterdir() if file.is_file()} == {
        file.name for file in (ROOT / own).iterdir() if file.is_file()
    }


def test_the_names_of_the_doors_are_those_of_the_files():
    files = {file.name for file in door_folder().iterdir() if file.is_file()}
    names = door_names()
    assert files == {"__init__.py", *(f"{name}.py" for name in names)}
    assert names == sorted(names)
    assert "__init__" not in names
    assert {"DCSegTrainer", "ModalityDropoutTrainer"} <= set(names)


@pytest.mark.parametrize("environment", [{}, {VARIABLE: ""}, {VARIABLE: os.pathsep}])
def test_with_doors_sets_the_variable(environment):
    assert with_doors(environment) == {VARIABLE: str(door_folder())}


def test_with_doors_comes_first_and_keeps_the_others_in_their_order():
    others = ["/z/mine", "/a/yours", "/m/theirs"]
    searched = with_doors({VARIABLE: os.pathsep.join(others)})[VARIABLE].split(os.pathsep)
    assert searched == [str(door_folder()), *others]


def test_with_doors_lists_no_folder_twice():
    given = ["/z/mine", str(door_folder()), "/a/yours", "/z/mine"]
    once = with_doors({VARIABLE: os.pathsep.join(given)})
    assert once[VARIABLE].split(os.pathsep) == [str(door_folder()), "/z/mine", "/a/yours"]
    assert with_doors(once) == once


def test_with_doors_copies_the_environment():
    environment = {VARIABLE: "/z/mine", "HOME": "/home/me"}
    changed = with_doors(environment)
    assert environment == {VARIABLE: "/z/mine", "HOME": "/home/me"}
    assert changed["HOME"] == "/home/me"
    assert changed is not environment


@pytest.mark.parametrize("path", [None, "", "/nonexistent"])
def test_a_command_beside_python_is_found_without_an_activated_environment(path, python, monkeypatch):
    if path is None:
        monkeypatch.delenv("PATH")
    else:
        monkeypatch.setenv("PATH", path)
    assert find_command(executable(python).rpartition("/")[2]) == str(python / COMMAND)


def test_a_command_beside_python_goes_before_that_of_path(python, tmp_path, monkeypatch):
    executable(tmp_path / "elsewhere")
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert find_command(COMMAND) == str(tmp_path / "elsewhere" / COMMAND)
    executable(python)
    assert find_command(COMMAND) == str(python / COMMAND)


def test_a_file_that_cannot_be_executed_is_no_command(python, tmp_path, monkeypatch):
    (python / COMMAND).write_text("")
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert find_command(executable(tmp_path / "elsewhere").rpartition("/")[2]).endswith(f"elsewhere/{COMMAND}")


def test_an_unknown_command_is_an_error_that_says_where_it_looked(python, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ValueError, match="such as nnUNetv2_train, got 'nnUNetv2_trian'") as error:
        find_command("nnUNetv2_trian")
    assert str(python / "python") in str(error.value)
    assert "PATH" in str(error.value)
    assert "Check its spelling" in str(error.value)


def test_a_pretraining_is_known_by_its_name():
    assert pretraining_of("M3AETrainer") == "M3AEPretrainTrainer"
    assert pretraining_of("DCSegTrainer") is None
    assert pretraining_of("M3AEPretrainTrainer") is None
