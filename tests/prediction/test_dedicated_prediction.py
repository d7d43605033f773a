"""A dedicated model at work: it looks at its subset alone, and refuses a case that lacks a modality of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_models import small_images, write_case, write_label, write_model

from nnunetv2_missmod import Segmenter
from nnunetv2_missmod.evaluation.evaluate import EvaluationSettings, evaluate_model
from nnunetv2_missmod.evaluation.scores import read_scores
from nnunetv2_missmod.host.preprocessor import MissingModalityPreprocessor, accept_missing_files
from nnunetv2_missmod.prediction.mask_table import read_masks
from nnunetv2_missmod.prediction.masks import predict_masks
from nnunetv2_missmod.prediction.model import PredictionSettings, open_predictor

pytestmark = pytest.mark.slow

QUICK = PredictionSettings(device="cpu", step_size=1.0, mirroring=False, num_processes=0)
SHAPE = (16, 18, 16)
CHANNELS = {"all": [0, 1, 2], "just": [0], "lacking": [1, 2], "more": [0, 2]}  # of a model for mod0
WITH_MOD0 = ["mod0", "mod0+mod1", "mod0+mod2", "mod0+mod1+mod2"]


@pytest.fixture(scope="module")
def choice(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield write_model(tmp_path_factory.mktemp("model"), monkeypatch, "DedicatedUNetTrainer")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """The same images and truth under several names, of which some lack files."""
    folder, images = tmp_path_factory.mktemp("cohort"), small_images(3, SHAPE)
    for case, channels in CHANNELS.items():
        write_case(folder / "images", case, images, channels)
        write_label(folder / "labels", case, SHAPE)
    return folder / "images", folder / "labels"


def mask_in(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_masks_are_those_of_the_subset_alone_and_a_case_without_it_is_an_error(choice, cohort, tmp_path, capsys):
    assert predict_masks(choice, QUICK, cohort[0], tmp_path) == 1
    said = capsys.readouterr().out
    assert "This model was trained for mod0 alone: no other image counts." in said
    assert "lacking: failed. expected mod0, which alone this model was trained for, got no mod0." in said
    assert "Of the modalities the case has mod1, mod2: predict it with a model of these" in said
    assert sorted(file.name for file in tmp_path.glob("*.nii.gz")) == ["all.nii.gz", "just.nii.gz", "more.nii.gz"]
    first = mask_in(tmp_path / "all.nii.gz")
    assert len(np.unique(first)) > 1
    assert all((mask_in(tmp_path / f"{case}.nii.gz") == first).all() for case in ("just", "more"))
    assert set(read_masks(tmp_path)["channels"]) == {"mod0"}


def test_subsets_that_are_asked_for_have_it(choice, cohort, tmp_path):
    assert predict_masks(choice, QUICK, cohort[0], tmp_path / "masks", "all") == 1
    assert sorted(folder.name for folder in (tmp_path / "masks").iterdir() if folder.is_dir()) == sorted(WITH_MOD0)
    with pytest.raises(
        ValueError, match="Expected subsets with mod0, which this model was trained for alone, got mod1"
    ):
        predict_masks(choice, QUICK, cohort[0], tmp_path / "none", "mod0,mod1")
    assert not (tmp_path / "none").exists()


def test_scores_are_of_the_subset_and_of_those_that_have_it(choice, cohort, tmp_path, capsys):
    assert evaluate_model(choice, QUICK, EvaluationSettings(), tmp_path, *cohort) == 0
    assert "lacking: done, for the 0 of 4 subsets whose modalities it has" in capsys.readouterr().out
    scores = read_scores(tmp_path)
    assert scores.provenance.needs == ["mod0"]
    assert list(scores.provenance.subsets) == WITH_MOD0
    table = scores.table
    by_case = table.groupby("case")["subset"].unique()
    assert {case: list(of_case) for case, of_case in by_case.items()} == {
        "all": WITH_MOD0,
        "just": ["mod0"],
        "more": ["mod0", "mod0+mod2"],
    }
    assert table.groupby("region")["dice"].nunique().tolist() == [1, 1]
    masks = [mask_in(tmp_path / "predictions" / subset / "all.nii.gz") for subset in WITH_MOD0]
    assert all((mask == masks[0]).all() for mask in masks)


def test_other_models_are_scored_on_every_subset(cohort, tmp_path, monkeypatch):
    choice = write_model(tmp_path, monkeypatch, "ModalityDropoutTrainer")
    (tmp_path / "images").mkdir()
    assert evaluate_model(choice, QUICK, EvaluationSettings(subsets="mod1", save=False), tmp_path / "s", *cohort) == 0
    assert read_scores(tmp_path / "s").provenance.needs is None


def test_in_python_too(choice):
    segmenter = Segmenter.from_folder(choice.folder, device="cpu", mirroring=False, step_size=1.0)
    images = dict(zip(segmenter.modalities, small_images(3, SHAPE), strict=True))
    found = segmenter.segment_subsets(images, spacing=(1.5, 1, 1))
    assert list(found) == WITH_MOD0
    assert {each.modalities for each in found.values()} == {("mod0",)}
    alone = segmenter.segment({"mod0": images["mod0"]}, spacing=(1.5, 1, 1))
    assert all((each.mask == alone.mask).all() for each in found.values())
    with pytest.raises(ValueError, match=r"expected mod0, .* got no mod0"):
        segmenter.segment({"mod1": images["mod1"]}, spacing=(1.5, 1, 1))


def test_nnunet_s_own_prediction_preprocesses_the_subset_alone_and_refuses_as_well(choice, cohort, capsys):
    predictor = open_predictor(replace(choice), QUICK)
    accept_missing_files(predictor.configuration_manager)
    of_plan = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    files = {case: sorted(map(str, cohort[0].glob(f"{case}_*"))) for case in CHANNELS}
    volumes = [
        MissingModalityPreprocessor(verbose=False).run_case(files[case], None, *of_plan)[0] for case in ("all", "just")
    ]
    np.testing.assert_array_equal(*volumes)
    assert not volumes[0][1:].any()
    assert "mod1, mod2 not looked at: the model was trained for mod0 alone." in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"Case of .*lacking_0001\.nii\.gz.*: expected mod0, which alone"):
        MissingModalityPreprocessor(verbose=False).run_case(files["lacking"], None, *of_plan)


@pytest.mark.parametrize("subset", [[3], [0, 0], [], "mod0", [True], [[0]]])
def test_a_plan_with_no_channels_of_the_subset_is_an_error(subset, choice):
    plans = json.loads((choice.folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["missmod"]["network"]["subset"] = subset
    manager = PlansManager(plans).get_configuration("3d_fullres")
    accept_missing_files(manager)
    images = small_images(3, SHAPE)
    with pytest.raises(ValueError, match=r"constant subset to list channels of the modalities, of 0 to 2"):
        MissingModalityPreprocessor(verbose=False).run_case_npy(
            images,
            None,
            {"spacing": [1, 1, 1]},
            PlansManager(plans),
            manager,
            {"channel_names": dict.fromkeys("012", "a")},
        )
