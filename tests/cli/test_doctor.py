import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError

import pytest

from nnunetv2_missmod import __version__
from nnunetv2_missmod.cli import installation as doctor
from nnunetv2_missmod.cli.installation import (
    FOLDERS,
    Finding,
    check_door,
    check_folder,
    check_gpu,
    check_nnunet,
    check_torchvision,
    check_variable,
    findings,
    run_doctor,
)
from nnunetv2_missmod.host.doors import VARIABLE, door_folder, door_names

LOOKUP = "nnunetv2_missmod.host.trainer_lookup.recursive_find_trainer_class_by_name"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for variable in (*FOLDERS, VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def installed(monkeypatch):
    """Set the versions that are found; a package that is not named is not installed."""

    def install(**versions):
        def version(package):
            if package not in versions:
                raise PackageNotFoundError(package)
            return versions[package]

        monkeypatch.setattr(doctor, "version", version)

    return install


# --- nnU-Net ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", ["2.8.0", "2.8.1", "2.10.0", "2.9", "2.8.0.dev3", "2.8.1+local"])
def test_nnunet_that_knows_outside_trainers_is_well(found, installed):
    installed(nnunetv2=found)
    assert check_nnunet() == Finding(f"nnU-Net {found}")


@pytest.mark.parametrize("found", ["2.7.9", "2.0", "1.8.0", "1.9.1", "3.0.0", "3.8.1"])
def test_nnunet_of_another_version_is_to_mend(found, installed):
    installed(nnunetv2=found)
    what, mend = check_nnunet()
    assert found in what
    assert mend.startswith('pip install "nnunetv2>=2.8.0,<3"')


@pytest.mark.parametrize(("found", "well"), [("2.9rc1", True), ("3", False), ("3.0a1", False)])
def test_versions_may_be_written_in_other_ways(found, well, installed):
    installed(nnunetv2=found)
    assert (check_nnunet().mend is None) == well


def test_nnunet_that_is_missing_is_to_mend(installed):
    installed()
    assert check_nnunet() == Finding("nnU-Net is not installed", 'pip install "nnunetv2>=2.8.0,<3"')


# --- torchvision ------------------------------------------------------------------------------------------------------


def test_torchvision_that_can_be_imported_is_well(installed, monkeypatch):
    imported = []
    monkeypatch.setattr(doctor, "import_module", imported.append)
    installed(torch="2.9.0", torchvision="0.24.0")
    assert check_torchvision() == Finding("torch 2.9.0, torchvision 0.24.0")
    assert imported == ["torchvision"]


@pytest.mark.parametrize("error", [ImportError, RuntimeError, OSError])
def test_torchvision_that_cannot_be_imported_is_to_mend(error, installed, monkeypatch):
    def import_module(_):
        raise error("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "import_module", import_module)
    installed(torch="2.9.0+cpu")
    what, mend = check_torchvision()
    assert "torch 2.9.0+cpu, torchvision missing" in what
    assert "operator torchvision::nms does not exist" in what
    assert mend.startswith("pip install --force-reinstall torch torchvision")


# --- the variable -----------------------------------------------------------------------------------------------------


def test_the_variable_may_hold_other_folders_too(monkeypatch):
    monkeypatch.setenv(VARIABLE, os.pathsep.join(["/my/trainers", "", f"{door_folder()}/"]))
    assert check_variable() == Finding(f"{VARIABLE} points at {door_folder()}")


def test_the_variable_may_reach_the_doors_by_a_link(monkeypatch, tmp_path):
    (tmp_path / "link").symlink_to(door_folder())
    monkeypatch.setenv(VARIABLE, str(tmp_path / "link"))
    assert check_variable().mend is None


@pytest.mark.parametrize("value", [None, "", os.pathsep, " "])
def test_a_variable_that_is_not_set_is_to_mend(value, monkeypatch):
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    what, mend = check_variable()
    assert what == f"{VARIABLE} is not set"
    assert f'export {VARIABLE}="$(missmod doors)"' in mend
    assert "missmod run" in mend


def test_a_variable_that_points_elsewhere_is_to_mend(monkeypatch):
    elsewhere = str(door_folder().parent)  # the repository root: setup.py would be imported
    monkeypatch.setenv(VARIABLE, elsewhere)
    what, mend = check_variable()
    assert elsewhere in what
    done = subprocess.run(
        ["bash", "-c", f"missmod() {{ echo doors; }}; {mend}; echo ${VARIABLE}"], capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == f"doors:{elsewhere}"  # the user's own trainers stay


# --- the doors --------------------------------------------------------------------------------------------------------


def test_a_door_that_nnunet_finds_is_well(monkeypatch, capsys):
    looked_up = []

    def lookup(name):
        print("Searching in external trainer paths ...")
        looked_up.append((name, os.environ[VARIABLE]))

    monkeypatch.setattr(LOOKUP, lookup)
    monkeypatch.setenv(VARIABLE, "/my/trainers")
    assert check_door("DCSegTrainer") == Finding("DCSegTrainer is found by nnU-Net")
    assert looked_up == [("DCSegTrainer", os.pathsep.join([str(door_folder()), "/my/trainers"]))]
    assert os.environ[VARIABLE] == "/my/trainers"
    assert capsys.readouterr() == ("", "")


def test_looking_up_a_door_leaves_the_variable_unset(monkeypatch):
    monkeypatch.setattr(LOOKUP, lambda name: None)
    check_door("DCSegTrainer")
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("error", [RuntimeError, ImportError, AssertionError, SyntaxError])
def test_a_door_that_nnunet_does_not_find_is_to_mend(error, monkeypatch):
    def lookup(_):
        raise error("Could not find requested nnunet trainer")

    monkeypatch.setattr(LOOKUP, lookup)
    what, mend = check_door("DCSegTrainer")
    assert what.startswith("DCSegTrainer is not found by nnU-Net")
    assert "Could not find requested nnunet trainer" in what
    assert "pip install" in mend
    assert "nnunetv2_missmod" in mend
    assert VARIABLE not in os.environ


# --- the GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_said_and_its_lack_is_not_wrong(there, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H200")
    what, mend = check_gpu()
    assert ("NVIDIA H200" in what) == there
    assert ("-device cpu" in what) == (not there)
    assert mend is None


def test_torch_that_cannot_be_imported_is_to_mend(monkeypatch):
    """The doctor has to outlive what it diagnoses."""
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    what, mend = check_gpu()
    assert "torch" in what
    assert "pip install" in mend


# --- the folders ------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_there_is_well(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert check_folder("nnUNet_raw", "datasets") == Finding(f"nnUNet_raw is {tmp_path}")


@pytest.mark.parametrize("value", [None, ""])
def test_a_folder_that_is_not_set_is_to_mend(value, monkeypatch):
    if value is not None:
        monkeypatch.setenv("nnUNet_raw", value)
    what, mend = check_folder("nnUNet_raw", "datasets as they came")
    assert what == "nnUNet_raw is not set"
    assert mend.startswith("export nnUNet_raw=")
    assert "datasets as they came" in mend


@pytest.mark.parametrize("name", ["raw", "a/deeper/raw", "my raw data"])
def test_the_mend_of_a_missing_folder_makes_it(name, tmp_path, monkeypatch):
    folder = tmp_path / name
    monkeypatch.setenv("nnUNet_raw", str(folder))
    what, mend = check_folder("nnUNet_raw", "datasets")
    assert what == f"nnUNet_raw is {folder}, which does not exist"
    assert mend.startswith("mkdir -p ")
    subprocess.run(["bash", "-c", mend], cwd=tmp_path, check=True)
    assert folder.is_dir()
    assert check_folder("nnUNet_raw", "datasets").mend is None


def test_a_file_is_no_folder(tmp_path, monkeypatch):
    (tmp_path / "raw").write_text("")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    assert check_folder("nnUNet_raw", "datasets").mend is not None


# --- the whole report -------------------------------------------------------------------------------------------------


@pytest.fixture
def everything_is_well(monkeypatch, tmp_path, installed):
    installed(nnunetv2="2.8.1", torch="2.9.0", torchvision="0.24.0")
    monkeypatch.setattr(doctor, "import_module", lambda name: None)
    monkeypatch.setattr(LOOKUP, lambda name: None)
    monkeypatch.setenv(VARIABLE, str(door_folder()))
    for variable in FOLDERS:
        monkeypatch.setenv(variable, str(tmp_path))


@pytest.mark.usefixtures("everything_is_well")
def test_the_doctor_looks_at_everything():
    report = [what for what, mend in findings() if mend is None]
    assert len(report) == len(list(findings()))
    text = "\n".join(report)
    expected = [
        f"nnunetv2_missmod {__version__}",
        "nnU-Net 2.8.1",
        "torchvision 0.24.0",
        f"{VARIABLE} points at",
        *door_names(),
        *FOLDERS,
    ]
    assert [word for word in expected if word not in text] == []


@pytest.mark.usefixtures("everything_is_well")
def test_a_sound_installation(capsys):
    assert run_doctor(findings()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "All is well."
    assert all(line.startswith("ok    ") for line in lines[:-1])
    assert len(lines) == len(list(findings())) + 1


@pytest.mark.usefixtures("everything_is_well")
@pytest.mark.parametrize("variable", [None, "nnUNet_raw"])
def test_the_findings_as_json(variable, capsys, monkeypatch):
    if variable:
        monkeypatch.delenv(variable)
    assert run_doctor(findings(), as_json=True) == int(bool(variable))
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == __version__
    assert found["wrong"] == int(bool(variable))
    assert [Finding(**finding) for finding in found["findings"]] == list(findings())


@pytest.mark.usefixtures("everything_is_well")
def test_what_is_wrong_comes_with_its_mend(capsys, monkeypatch, tmp_path):
    long_path = str(tmp_path / ("[bold]" + 100 * "x") / (100 * "y"))  # neither wrapped nor read as markup
    monkeypatch.setenv("nnUNet_results", long_path)
    monkeypatch.delenv(VARIABLE)
    assert run_doctor(findings()) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = lines.index(f"WRONG nnUNet_results is {long_path}, which does not exist")
    assert lines[wrong + 1].startswith("      mend: mkdir -p ")
    assert long_path in lines[wrong + 1]
    variable = lines.index(f"WRONG {VARIABLE} is not set")
    assert lines[variable + 1].startswith(f"      mend: export {VARIABLE}=")
    assert lines[-1] == "2 to mend."
    assert sum(line.startswith("WRONG") for line in lines) == sum("mend: " in line for line in lines) == 2


def test_a_machine_with_nothing_gets_a_mend_for_everything(installed, monkeypatch, capsys):
    installed()

    def missing(name):
        raise ImportError(f"No module named {name}")

    monkeypatch.setattr(doctor, "import_module", missing)
    monkeypatch.setattr(LOOKUP, missing)
    assert run_doctor(findings()) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = sum(line.startswith("WRONG") for line in lines)
    assert wrong == 2 + 1 + len(door_names()) + len(FOLDERS)
    assert sum("mend: " in line for line in lines) == wrong
    assert lines[-1] == f"{wrong} to mend."
