import csv
import math
import os
import stat
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from rich.progress import Progress

from nnunetv2_missmod import demo
from nnunetv2_missmod.datasets.phantom import write_phantom_dataset
from nnunetv2_missmod.demo import LAST_LINES, Job, print_scores, run_demo, write_scores
from nnunetv2_missmod.doors import VARIABLE, door_folder, door_names
from nnunetv2_missmod.modalities import all_subsets, subset_name

MODALITIES = ["FLAIR", "T1", "T1c", "T2"]
SUBSETS = [subset_name(subset, MODALITIES) for subset in all_subsets(4)]
CASES = ["phantom_001", "phantom_002"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_phantom_dataset(
        tmp_path_factory.mktemp("raw"), num_training=1, num_test=2, num_modalities=4, shape=(32, 32, 32)
    )


@pytest.fixture
def job(tmp_path, raw):
    """A job after its preparation."""
    job = Job(tmp_path / "demo", "cpu")
    job.raw.symlink_to(raw)
    job.modalities = list(MODALITIES)
    return job


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_job_works_in_folders_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/my/raw")
    monkeypatch.setenv("nnUNet_n_proc_DA", "5")
    monkeypatch.setenv(VARIABLE, "/my/trainers")
    monkeypatch.delenv("nnUNet_def_n_proc", raising=False)
    before = dict(os.environ)
    job = Job(tmp_path / "demo", "cpu")
    for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        assert job.environment[folder] == str(tmp_path / "demo" / folder)
        assert (tmp_path / "demo" / folder).is_dir()
    assert job.environment["nnUNet_n_proc_DA"] == "5"  # what the user set
    assert int(job.environment["nnUNet_def_n_proc"]) >= 1
    assert job.environment[VARIABLE].split(os.pathsep) == [str(door_folder()), "/my/trainers"]
    assert dict(os.environ) == before


def test_an_unknown_trainer_is_an_error_that_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="got 'nnUNetTrainer'") as error:
        run_demo(tmp_path / "demo", "nnUNetTrainer", "cpu")
    segmenting = [name for name in door_names() if "Pretrain" not in name]
    assert all(name in str(error.value) for name in segmenting)
    assert list(tmp_path.iterdir()) == []


def test_a_pretraining_alone_is_no_demo(tmp_path):
    with pytest.raises(ValueError, match=r"trainers that segment, .*M3AETrainer.*got 'M3AEPretrainTrainer'"):
        run_demo(tmp_path / "demo", "M3AEPretrainTrainer", "cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_trainer_with_a_pretraining_is_pretrained_first(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(Job, "prepare_data", lambda job: None)
    monkeypatch.setattr(Job, "train", lambda job, trainer: trained.append(trainer))
    monkeypatch.setattr(Job, "predict", lambda job, trainer: trained.append(f"predict {trainer}"))
    monkeypatch.setattr(Job, "score", lambda job: {"FLAIR": {"whole": 1.0}})
    monkeypatch.setattr(demo, "print_scores", lambda scores, modalities, trainer: None)
    run_demo(tmp_path / "demo", "M3AETrainer", "cpu")
    assert trained == ["M3AEPretrainTrainer", "M3AETrainer", "predict M3AETrainer"]


def test_a_folder_in_use_is_an_error_and_stays_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"new or empty folder, got .*--out"):
        run_demo(tmp_path, "DCSegTrainer", "cpu")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"new or empty folder, got .*mine.txt"):
        run_demo(tmp_path / "mine.txt", "DCSegTrainer", "cpu")


@pytest.mark.parametrize("exists", [False, True])
def test_the_demo_is_a_chain_of_nnunet_s_commands(exists, tmp_path, monkeypatch, raw, capsys):
    """Everything but nnU-Net itself; the prediction is the truth."""
    out = tmp_path / "a" / "demo"
    if exists:
        out.mkdir(parents=True)
    commands = []

    def run(job, title, command, tick, ticks):
        commands.append((command, ticks))
        if command[0] == "nnUNetv2_predict":
            inputs = {file.name.rpartition("_")[0] for file in (out / "inputs").iterdir()}
            job.predictions.mkdir()
            for name in inputs:
                truth = job.raw / "labelsTs" / f"{name.split('__')[0]}.nii.gz"
                (job.predictions / f"{name}.nii.gz").symlink_to(truth)

    def prepare(job):
        job.raw.symlink_to(raw)
        job.modalities = list(MODALITIES)

    monkeypatch.setattr(Job, "run", run)
    monkeypatch.setattr(Job, "prepare_data", prepare)
    scores = run_demo(out, "ModalityDropoutTrainer", "cuda")
    (train, epochs), (predict, cases) = commands
    assert train[:4] == ["nnUNetv2_train", "501", "3d_fullres", "0"]
    assert predict[0] == "nnUNetv2_predict"
    assert (epochs, cases) == (8, 30)
    for command in (train, predict):
        assert command[command.index("-tr") + 1] == "ModalityDropoutTrainer"
        assert command[command.index("-device") + 1] == "cuda"
        assert command[command.index("-p") + 1] == "nnUNetPlans_demo"
    assert list(scores) == SUBSETS
    assert {value for row in scores.values() for value in row.values() if not math.isnan(value)} == {1.0}
    with open(out / "dice.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + 15 * 3
    assert "ModalityDropoutTrainer" in capsys.readouterr().out


def test_data_are_prepared_with_the_settings_of_the_demo(tmp_path, monkeypatch):
    import json

    from small_plans import small_plans

    job = Job(tmp_path / "demo", "cpu")

    def run(title, command, tick, ticks):
        assert command[:5] == ["nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres"]
        folder = job.out / "nnUNet_preprocessed" / job.raw.name
        folder.mkdir()
        plans = {**small_plans(features=(32, 64, 128, 256)), "dataset_name": job.raw.name}
        (folder / "nnUNetPlans.json").write_text(json.dumps(plans))

    monkeypatch.setattr(demo, "NUM_TRAINING", 1)
    monkeypatch.setattr(demo, "SIZE", 32)
    monkeypatch.setattr(job, "run", run)
    job.prepare_data()
    assert job.modalities == MODALITIES
    assert len(job.test_cases()) == demo.NUM_TEST
    file = job.out / "nnUNet_preprocessed" / job.raw.name / "nnUNetPlans_demo.json"
    plans = json.loads(file.read_text())
    configuration = plans["configurations"]["3d_fullres"]
    assert plans["plans_name"] == "nnUNetPlans_demo"
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [16, 32, 64, 64]
    assert configuration["missmod"]["trainer"]["num_epochs"] == 8


# --- subsets ----------------------------------------------------------------------------------------------------------


def test_every_subset_of_every_case_gets_the_files_of_its_channels_alone(job):
    inputs = job.out / "inputs"
    assert job.write_subsets(inputs) == 2 * 15
    expected = {}
    for case in CASES:
        for number in range(1, 16):
            channels = [channel for channel in range(4) if number >> channel & 1]
            name = f"{case}__{'+'.join(MODALITIES[channel] for channel in channels)}"
            expected |= {
                f"{name}_{channel:04d}.nii.gz": job.raw / "imagesTs" / f"{case}_{channel:04d}.nii.gz"
                for channel in channels
            }
    files = {file.name: file for file in inputs.iterdir()}
    assert set(files) == set(expected)
    assert len(files) == 2 * 4 * 8
    for name, file in files.items():
        assert not file.is_symlink()
        assert file.read_bytes() == expected[name].read_bytes()


def test_nnunet_finds_the_cases_that_were_counted(job):
    from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder

    inputs = job.out / "inputs"
    count = job.write_subsets(inputs)
    cases = create_lists_from_splitted_dataset_folder(str(inputs), ".nii.gz")
    assert len(cases) == count
    assert sorted(len(case) for case in cases) == sorted(2 * [bin(number).count("1") for number in range(1, 16)])


# --- scores -----------------------------------------------------------------------------------------------------------


def write_mask(file, mask):
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.asarray(mask, np.uint8)), str(file))


def row(*voxels):
    return np.array(voxels).reshape(1, 2, 4)


def test_dice_by_region_of_hand_made_masks(tmp_path):
    job = Job(tmp_path / "demo", "cpu")
    write_mask(job.raw / "labelsTs" / "case.nii.gz", row(0, 0, 1, 1, 2, 2, 3, 0))
    write_mask(job.predictions / "case__T1+T2.nii.gz", row(0, 1, 1, 0, 2, 1, 0, 0))
    dice = job.dice_of("case", "T1+T2", [(1, 2, 3), (2, 3), (3,)])
    # whole: 5 true, 4 predicted, 3 in common; core: 3 true, 1 predicted, 1 in common; enhancing: missed
    assert dice == pytest.approx([2 * 3 / (5 + 4), 2 * 1 / (3 + 1), 0.0])


def test_dice_is_nan_where_neither_has_the_region_and_zero_where_one_has(tmp_path):
    job = Job(tmp_path / "demo", "cpu")
    write_mask(job.raw / "labelsTs" / "case.nii.gz", row(1, 1, 2, 0, 0, 0, 0, 0))
    write_mask(job.predictions / "case__T1.nii.gz", row(1, 1, 0, 0, 0, 0, 0, 0))
    whole, core, enhancing = job.dice_of("case", "T1", [(1, 2, 3), (2, 3), (3,)])
    assert (whole, core) == (pytest.approx(4 / 5), 0)
    assert math.isnan(enhancing)


def test_scores_are_means_over_the_cases_that_have_the_region(job, monkeypatch):
    def dice_of(case, subset, regions):
        assert [tuple(region) for region in regions] == [(1, 2, 3), (2, 3), (3,)]
        number = SUBSETS.index(subset) / 100
        return [number + 0.25, number, number] if case == CASES[0] else [number + 0.75, math.nan, number + 0.5]

    monkeypatch.setattr(job, "dice_of", dice_of)
    scores = job.score()
    assert list(scores) == SUBSETS
    for number, dice in enumerate(scores.values()):
        assert len(dice) == 3
        expected = [number / 100 + 0.5, number / 100, number / 100 + 0.25]
        assert list(dice.values()) == pytest.approx(expected)


def test_the_scores_of_perfect_predictions(job):
    job.predictions.mkdir()
    for case in CASES:
        for subset in SUBSETS:
            (job.predictions / f"{case}__{subset}.nii.gz").symlink_to(job.raw / "labelsTs" / f"{case}.nii.gz")
    scores = job.score()
    assert list(scores) == SUBSETS
    for dice in scores.values():
        whole, *others = dice.values()
        assert whole == 1
        assert all(value == 1 or math.isnan(value) for value in others)


SCORES = {
    "T1": {"whole": 0.5, "core": math.nan},
    "T2": {"whole": 0.25, "core": 0.125},
    "T1+T2": {"whole": 0.75, "core": 1.0},
}


def test_the_table_has_dots_and_means(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    print_scores(SCORES, ["T1", "T2"], "MyTrainer")
    lines = capsys.readouterr().out.splitlines()
    rows = [line.replace("│", " ").replace("┃", " ").split() for line in lines]
    assert ["T1", "T2", "whole", "core"] in rows
    assert [row for row in rows if row and row[0] in "●○"] == [
        ["●", "○", "0.500", "nan"],
        ["○", "●", "0.250", "0.125"],
        ["●", "●", "0.750", "1.000"],
    ]
    assert ["mean", "0.500", f"{(0.125 + 1) / 2:.3f}"] in rows
    assert any("MyTrainer" in line for line in lines)


@pytest.mark.filterwarnings("error")
def test_the_table_of_a_region_that_no_case_has(capsys):
    """Small demos may hold no enhancing tumour; no warning is printed over the table then."""
    print_scores({"T1": {"whole": 0.5, "core": math.nan}}, ["T1"], "MyTrainer")
    assert capsys.readouterr().out.count("nan") == 2


@pytest.mark.filterwarnings("error")
def test_scores_of_a_region_that_no_case_has(job, monkeypatch):
    monkeypatch.setattr(job, "dice_of", lambda *_: [1.0, 0.5, math.nan])
    assert all(math.isnan(list(dice.values())[2]) for dice in job.score().values())


def test_a_modality_is_not_found_in_the_name_of_another(capsys):
    """T1 is no part of T1c."""
    print_scores({"T1c": {"whole": 0.5}}, ["T1", "T1c"], "MyTrainer")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "●" in line)
    assert line.replace("│", " ").split() == ["○", "●", "0.500"]


def test_the_scores_are_written_as_a_long_table(tmp_path):
    write_scores(SCORES, tmp_path / "dice.csv")
    with open(tmp_path / "dice.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["subset"], r["region"], r["dice"]) for r in rows] == [
        ("T1", "whole", "0.5"),
        ("T1", "core", "nan"),
        ("T2", "whole", "0.25"),
        ("T2", "core", "0.125"),
        ("T1+T2", "whole", "0.75"),
        ("T1+T2", "core", "1.0"),
    ]


# --- running commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Write a Python script that stands for a command of nnU-Net."""

    def write(script):
        file = tmp_path / "nnUNetv2_fake"
        file.write_text(f"#!{sys.executable}\nimport os, sys\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        known = {"nnUNetv2_fake": str(file)}
        monkeypatch.setattr(demo, "find_command", lambda name: known[name])

    return write


@pytest.fixture
def ticks(monkeypatch):
    """How far the bar has moved."""
    moved = []
    monkeypatch.setattr(Progress, "advance", lambda self, task, advance=1: moved.append(advance))
    return moved


def test_the_output_of_a_command_is_in_the_log_and_moves_the_bar(tmp_path, command, ticks):
    command(
        "print(sys.argv[1:], flush=True)\n"
        "print('Epoch 0\\nloss 1', flush=True)\n"
        "print('a warning', file=sys.stderr, flush=True)\n"
        "print('Epoch 12')\n"
        "print(os.environ['nnUNet_results'], os.environ['nnUNet_extTrainer'])"
    )
    job = Job(tmp_path / "demo", "cpu")
    job.run("Train", ["nnUNetv2_fake", "501", "-device", "cpu"], r"Epoch \d+", 2)
    results = tmp_path / "demo" / "nnUNet_results"
    expected = ["['501', '-device', 'cpu']", "Epoch 0", "loss 1", "a warning", "Epoch 12"]
    log = (tmp_path / "demo" / "log.txt").read_text().splitlines()
    assert log[:-1] == expected
    assert log[-1].startswith(f"{results} {door_folder()}")
    assert sum(ticks) == 2
    assert len(ticks) == len(log)


def test_the_log_holds_all_commands(tmp_path, command, ticks):
    command("print('Epoch', sys.argv[1])")
    job = Job(tmp_path / "demo", "cpu")
    job.run("Plan", ["nnUNetv2_fake", "first"], "", 1)
    job.run("Train", ["nnUNetv2_fake", "second"], "Epoch", 1)
    assert (tmp_path / "demo" / "log.txt").read_text() == "Epoch first\nEpoch second\n"
    assert sum(ticks) == 1  # an empty pattern matches nothing


def test_a_command_that_fails_is_an_error_with_the_end_of_its_output(tmp_path, command):
    command("for i in range(100): print(f'line {i};')\nsys.exit('no space left on device')")
    job = Job(tmp_path / "demo", "cpu")
    with pytest.raises(RuntimeError) as error:
        job.run("Train", ["nnUNetv2_fake", "501", "--c"], r"Epoch \d+", 2)
    message = str(error.value)
    assert message.startswith("nnUNetv2_fake 501 --c failed.")
    assert str(tmp_path / "demo" / "log.txt") in message
    assert "no space left on device" in message
    shown = [i for i in range(100) if f"line {i};" in message]
    assert shown == list(range(100 - LAST_LINES + 1, 100))
    assert len((tmp_path / "demo" / "log.txt").read_text().splitlines()) == 101


def test_a_command_that_is_killed_is_an_error(tmp_path, command):
    command("print('Epoch 0', flush=True)\nos.kill(os.getpid(), 9)")
    with pytest.raises(RuntimeError, match=r"nnUNetv2_fake failed[\s\S]*Epoch 0"):
        Job(tmp_path / "demo", "cpu").run("Train", ["nnUNetv2_fake"], "", 1)


def test_a_command_that_is_missing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ValueError, match="nnUNetv2_missing"):
        Job(tmp_path / "demo", "cpu").run("Train", ["nnUNetv2_missing"], "", 1)
