"""`missmod evaluate` over several runs, in parts, and with cases that fail."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from pandas.testing import assert_frame_equal
from small_models import (
    folders_of,
    no_room_for,
    small_images,
    two_folds,
    write_case,
    write_cohort,
    write_image,
    write_label,
)

from nnunetv2_missmod.evaluation import evaluate
from nnunetv2_missmod.evaluation.evaluate import EvaluationSettings, conclude, evaluate_model
from nnunetv2_missmod.evaluation.scores import read_scores
from nnunetv2_missmod.files.whole_files import LOCK
from nnunetv2_missmod.prediction.model import PredictionSettings

pytestmark = pytest.mark.slow

QUICK = PredictionSettings(device="cpu", step_size=1.0, mirroring=False, num_processes=0)
CHANNELS = {"a": [0, 1], "b": [0, 1], "c": [1]}
FULL = EvaluationSettings("mod0+mod1,mod1")
SHAPE = (16, 18, 16)


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    with two_folds(tmp_path_factory.mktemp("nnunet"), CHANNELS, []) as choice:
        yield choice


@pytest.fixture(scope="module")
def folders(folds):
    return folders_of(folds)


@pytest.fixture
def choice(folds):
    return replace(folds, folds=("0",))


@pytest.fixture(scope="module")
def at_once(folds, folders, tmp_path_factory):
    """All cases in one run."""
    out = tmp_path_factory.mktemp("scores")
    assert evaluate_model(replace(folds, folds=("0",)), QUICK, FULL, out, *folders) == 0
    return out


@pytest.fixture
def read(monkeypatch):
    """The names of the cases whose images were read, in their order; a case named in it beforehand is killed."""
    names, killed = [], []
    read_case = evaluate.read_case

    def reading(files, reader, dataset_json):
        name = files[0].rpartition("/")[2].rpartition("_")[0]
        names.append(name)
        if name in killed:
            raise KeyboardInterrupt
        return read_case(files, reader, dataset_json)

    monkeypatch.setattr(evaluate, "read_case", reading)
    return names, killed


@pytest.fixture
def own_copy(choice, tmp_path, monkeypatch):
    """The model, in files of its own that may be changed."""
    shutil.copytree(choice.folder.parents[1], tmp_path / "results")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    return choice


def table_of(folder):
    table = read_scores(folder).table.sort_values(["case", "subset", "region"], ignore_index=True)
    assert len(table)
    return table


def contents(folder):
    """What the masks, the summaries and the provenance in a folder of scores hold, wherever that is."""
    files = [file for file in folder.rglob("*") if file.suffix in (".gz", ".json")]
    return {str(file.relative_to(folder)): file.read_bytes().replace(bytes(folder), b"") for file in files}


def assert_same_run(folder, other):
    assert_frame_equal(table_of(folder), table_of(other), check_exact=True)
    assert contents(folder) == contents(other)


# --- several runs -----------------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_goes_on_after_its_finished_cases(at_once, choice, folders, tmp_path, read):
    names, killed = read
    killed.append("b")
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(choice, QUICK, FULL, tmp_path, *folders)
    assert names == ["a", "b"]
    assert set(table_of(tmp_path)["case"]) == {"a"}
    killed.clear()
    left = tmp_path / "predictions" / "mod1" / ".writing_dead"  # as a run leaves it that is killed while it writes
    left.mkdir(parents=True, exist_ok=True)
    (left / "b.nii.gz").write_text("half a mask")
    assert evaluate_model(choice, QUICK, FULL, tmp_path, *folders) == 0
    assert names == ["a", "b", "b", "c"]
    assert_same_run(tmp_path, at_once)
    assert not left.exists()


def test_a_finished_run_predicts_nothing_and_gives_its_summaries_again(choice, folders, at_once, tmp_path, read):
    shutil.copytree(at_once, tmp_path, dirs_exist_ok=True)
    (tmp_path / "predictions" / "mod1" / "summary.json").unlink()
    assert evaluate_model(choice, QUICK, FULL, tmp_path, *folders) == 0
    assert read == ([], [])
    assert_same_run(tmp_path, at_once)


def test_weights_that_were_trained_again_under_the_same_name_are_refused(own_copy, folders, tmp_path):
    out = tmp_path / "scores"
    assert evaluate_model(own_copy, QUICK, FULL, out, *folders) == 0
    before = contents(out)
    (file,) = own_copy.checkpoint_files()
    checkpoint = torch.load(file, weights_only=False)
    next(iter(checkpoint["network_weights"].values())).mul_(2)
    torch.save(checkpoint, file)
    with pytest.raises(ValueError, match=r"weights: \['.*'\] there, \['.*'\] now\)\. Give another folder"):
        evaluate_model(own_copy, QUICK, FULL, out, *folders)
    assert contents(out) == before


@pytest.mark.parametrize("change", [{"subsets": "singles"}, {"min_voxels": {"tumor": 2}}, {"save": False}])
def test_another_run_does_not_go_on_in_the_same_folder(change, choice, folders, at_once, tmp_path, read):
    shutil.copytree(at_once, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="got those of another"):
        evaluate_model(choice, QUICK, replace(FULL, **change), tmp_path, *folders)
    assert read == ([], [])
    assert contents(tmp_path) == before


def test_parts_that_share_a_folder_give_what_one_run_gives(at_once, choice, folders, tmp_path, read):
    shares = {1: ["b"], 0: ["a", "c"]}
    for part, share in shares.items():
        part_settings = replace(QUICK, num_parts=2, part_id=part)
        assert evaluate_model(choice, part_settings, FULL, tmp_path, *folders) == 0
        assert read[0] == share
        read[0].clear()
    assert_same_run(tmp_path, at_once)


def test_parts_that_end_together_wait_for_each_others_summaries(at_once, tmp_path, monkeypatch):
    shutil.copytree(at_once, tmp_path, dirs_exist_ok=True)
    written = []

    def writing(folder, subset, scores):
        written.append(subset)
        with pytest.raises(Timeout):
            FileLock(folder / LOCK).acquire(timeout=0)

    monkeypatch.setattr(evaluate, "write_summary", writing)
    conclude(tmp_path)
    assert sorted(written) == ["mod0+mod1", "mod1"]
    with FileLock(tmp_path / LOCK, timeout=0):
        pass


# --- cases that fail --------------------------------------------------------------------------------------------------


def write_bad_cases(folder):
    """Six cases of which only "good" can be scored; give what is said of the others."""
    images, labels = write_cohort(
        folder, {case: [0, 1] for case in ("good", "no_label", "other_shape", "nan", "no_image")}
    )
    (labels / "no_label.nii.gz").unlink()
    write_label(labels, "other_shape", (16, 18, 17))
    holed = small_images(1, SHAPE)
    holed[0, 3, 3, 3] = np.nan
    write_case(images, "nan", holed)
    write_case(images, "no_image", np.ones((2, *SHAPE)))
    write_image(images / "suffix_0002.nii.gz", small_images(1, SHAPE)[0])
    write_label(labels, "suffix", SHAPE)
    return {
        "no_label": "expected its label at",
        "other_shape": "got the shape [16, 18, 17]",
        "nan": "expected a whole image, got",
        "no_image": "every file is constant",
        "suffix": "expected files that end in one of _0000 = mod0, _0001 = mod1 and .nii.gz, got",
    }


def with_nibabel(choice):
    """Let nnU-Net read images with nibabel: SimpleITK takes NaN in NIfTI for zero."""
    file = choice.folder / "plans.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_reader_writer": "NibabelIO"}))
    return choice


def test_cases_that_fail_are_named_and_counted_and_the_others_scored(own_copy, tmp_path, capsys, read):
    choice = with_nibabel(own_copy)
    said_of, out = write_bad_cases(tmp_path / "data"), tmp_path / "out"
    folders = (tmp_path / "data" / "imagesTr", tmp_path / "data" / "labelsTr")
    assert evaluate_model(choice, QUICK, FULL, out, *folders) == len(said_of)
    said = capsys.readouterr().out.splitlines()
    assert "good: done" in said
    for case, reason in said_of.items():
        (of_case,) = [line for line in said if line.startswith(f"{case}: failed. Case {case}: ")]
        assert reason in of_case
    assert set(table_of(out)["case"]) == {"good"}
    assert [file.name for file in (out / "predictions").rglob("*.gz")] == ["good.nii.gz"] * 2

    read[0].clear()
    write_label(tmp_path / "data" / "labelsTr", "no_label", SHAPE)
    assert evaluate_model(choice, QUICK, FULL, out, *folders) == len(said_of) - 1
    assert sorted(read[0]) == sorted(said_of)
    assert set(table_of(out)["case"]) == {"good", "no_label"}


def test_a_case_of_which_one_mask_failed_has_no_rows_and_no_masks(choice, folders, at_once, tmp_path):
    with no_room_for("mod0+mod1/b.nii.gz"):
        assert evaluate_model(choice, QUICK, FULL, tmp_path, *folders) == 1
    assert list((tmp_path / "predictions").rglob("b.nii.gz")) == []
    assert len(list((tmp_path / "predictions").rglob("a.nii.gz"))) > 1
    assert set(table_of(tmp_path)["case"]) == {"a", "c"}
    assert evaluate_model(choice, QUICK, FULL, tmp_path, *folders) == 0
    assert_same_run(tmp_path, at_once)


def test_no_case_that_can_be_scored_is_no_crash(choice, tmp_path):
    images, labels = write_cohort(tmp_path / "data", {"a": [0]})
    assert evaluate_model(choice, QUICK, EvaluationSettings("mod1"), tmp_path / "out", images, labels) == 0
    (labels / "a.nii.gz").unlink()
    assert evaluate_model(choice, QUICK, EvaluationSettings("mod1"), tmp_path / "out", images, labels) == 1
    assert read_scores(tmp_path / "out").table.empty


# --- mistakes of the user ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        ({"folds": ("0", "2")}, {}, "Folds with a checkpoint_final.pth are: fold_0, fold_1"),
        ({"trainer": "DCSegTrainer"}, {}, "Trained on this dataset are: ModalityDropoutTrainer__smallPlans"),
        ({}, {"subsets": "mod0+mod7"}, "got 'mod7' in 'mod0"),
        ({}, {"min_voxels": {"core": 5}}, "out of edema, tumor, got one for 'core'"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(model, settings, said, choice, folders, tmp_path):
    with pytest.raises(ValueError, match=said):
        evaluate_model(
            replace(choice, **model), QUICK, replace(EvaluationSettings(), **settings), tmp_path / "out", *folders
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [{"images": 0}, {"labels": 1}])
def test_images_without_labels_and_labels_without_images_are_errors(given, choice, folders, tmp_path):
    with pytest.raises(ValueError, match="both -i and -gt, or neither"):
        evaluate_model(
            choice, QUICK, FULL, tmp_path / "out", **{name: folders[position] for name, position in given.items()}
        )
    assert not (tmp_path / "out").exists()


def test_folds_that_hold_nothing_out_need_cases(choice, tmp_path):
    with pytest.raises(ValueError, match=r"one of the 0 folds .* Give cases with -i and -gt"):
        evaluate_model(choice, QUICK, FULL, tmp_path / "out")
    assert not (tmp_path / "out").exists()
