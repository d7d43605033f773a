"""`missmod evaluate` end to end, on models with random weights: what it writes."""

import json
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation import evaluate_predictions
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from pandas.testing import assert_frame_equal
from small_models import SPACING, folders_of, two_folds

from nnunetv2_missmod.evaluation.evaluate import EvaluationSettings, evaluate_model
from nnunetv2_missmod.evaluation.metrics import ScoringRules, score
from nnunetv2_missmod.evaluation.scores import SEEN, case_table, read_scores
from nnunetv2_missmod.evaluation.truth import Truth
from nnunetv2_missmod.prediction.model import PredictionSettings, fingerprints

pytestmark = pytest.mark.slow

QUICK = PredictionSettings(device="cpu", step_size=1.0, mirroring=False, num_processes=0)
REGIONS = {"edema": [1], "tumor": [2]}
SUBSETS = {"mod0": ["mod0"], "mod1": ["mod1"], "mod0+mod1": ["mod0", "mod1"]}
CHANNELS = {"a": [0, 1], "b": [0, 1], "c": [1]}
HELD_OUT = [{"train": ["b"], "val": ["c", "a"]}, {"train": ["a", "c"], "val": ["b"]}]


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    with two_folds(tmp_path_factory.mktemp("nnunet"), CHANNELS, HELD_OUT) as choice:
        yield choice


@pytest.fixture(scope="module")
def folders(folds):
    return folders_of(folds)


@pytest.fixture(scope="module")
def scored(folds, folders, tmp_path_factory):
    """All cases by each of the folds."""
    found = {}
    for fold in folds.folds:
        found[fold] = tmp_path_factory.mktemp("scores") / fold
        assert evaluate_model(replace(folds, folds=(fold,)), QUICK, EvaluationSettings(), found[fold], *folders) == 0
    return found


@pytest.fixture
def choice(folds):
    return replace(folds, folds=("0",))


def table_of(folder):
    table = read_scores(folder).table.sort_values(["case", "subset", "region"], ignore_index=True)
    assert len(table)
    return table


def mask_of(folder, subset, case):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "predictions" / subset / f"{case}.nii.gz")))


def rows_of(table, cases):
    return table[table["case"].isin(cases)].reset_index(drop=True)


# --- what is written --------------------------------------------------------------------------------------------------


def test_every_file_of_a_run_is_there(scored):
    files = {str(file.relative_to(scored["0"])) for file in scored["0"].rglob("*") if file.is_file()}
    masks = {f"predictions/{subset}/{case}.nii.gz" for case in "ab" for subset in SUBSETS}
    summaries = {f"predictions/{subset}/summary.json" for subset in SUBSETS}
    tables = {".lock", "scores.csv", "scores.parquet", "provenance.json"}
    assert files == masks | summaries | tables | {"predictions/mod1/c.nii.gz"}


def test_provenance_says_whose_scores_they_are(scored, choice, folders):
    found = read_scores(scored["0"]).provenance
    assert found.model == "ModalityDropoutTrainer__smallPlans__3d_fullres"
    assert (found.dataset, found.trainer, found.plans) == ("Dataset501_Small", "ModalityDropoutTrainer", "smallPlans")
    assert (found.configuration, found.folds, found.checkpoint) == ("3d_fullres", [0], "checkpoint_final.pth")
    assert found.weights == fingerprints(choice.checkpoint_files())
    assert found.modalities == ["mod0", "mod1"]
    assert (found.subsets, list(found.subsets), found.sampled) == (SUBSETS, list(SUBSETS), False)
    assert (found.regions, found.region_labels) == (list(REGIONS), REGIONS)
    assert (found.empty_policy, found.nsd_tolerance_mm, found.min_voxels) == ("nnunet", 1.0, {})
    assert (found.images, found.labels) == tuple(map(str, folders))
    assert (found.predictions, found.file_ending) == ("predictions", ".nii.gz")
    assert sorted(found.versions) == ["monai", "nnunetv2", "nnunetv2_missmod", "torch"]


def test_every_score_is_that_of_the_mask_on_disk(scored, folders):
    expected = []
    for case, channels in CHANNELS.items():
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(folders[1] / f"{case}.nii.gz")))
        truth = Truth(label, SPACING[::-1], REGIONS)
        subsets = SUBSETS if len(channels) == 2 else ["mod1"]
        of_subset = {subset: score(mask_of(scored["0"], subset, case), truth, ScoringRules()) for subset in subsets}
        expected.append(case_table(case, of_subset, SUBSETS))
    table = read_scores(scored["0"]).table
    seen = list(SEEN)  # without a truth: not of the score
    assert_frame_equal(
        table.drop(columns=seen), pd.concat(expected, ignore_index=True).drop(columns=seen), check_exact=True
    )
    np.testing.assert_allclose(table["predicted_volume"], table["num_predicted"] * np.prod(SPACING))
    assert table["mean_probability"][table["num_predicted"] > 0].between(0, 1).all()
    assert table["dice"].nunique() > 6
    assert_frame_equal(pd.read_parquet(scored["0"] / "scores.parquet"), table, check_exact=True)


def test_a_case_that_lacks_channels_has_the_rows_of_its_subsets_alone(scored):
    table = read_scores(scored["0"]).table
    assert table.groupby("case")["subset"].unique().map(list).to_dict() == {
        **{case: list(SUBSETS) for case in "ab"},
        "c": ["mod1"],
    }


def test_the_summary_of_a_subset_is_what_nnunet_computes_from_its_folder(scored, folders, tmp_path, monkeypatch):
    context = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setattr(evaluate_predictions, "multiprocessing", context)
    for subset in SUBSETS:
        masks, theirs = scored["0"] / "predictions" / subset, tmp_path / f"{subset}.json"
        compute_metrics_on_folder(str(folders[1]), str(masks), str(theirs), SimpleITKIO(), ".nii.gz", [1, 2], None, 1)
        ours = json.loads((masks / "summary.json").read_text())
        assert ours == json.loads(theirs.read_text())
        assert len(ours["metric_per_case"]) == (3 if subset == "mod1" else 2)


def test_the_means_are_printed_with_dots_for_what_is_there(choice, folders, tmp_path, capsys):
    settings = EvaluationSettings("mod0+mod1,mod1", save=False)
    assert evaluate_model(choice, QUICK, settings, tmp_path, *folders) == 0
    printed = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    of_cells = read_scores(tmp_path).table.groupby(["subset", "region"])["dice"]
    means, counts = of_cells.mean(), of_cells.count()
    for dots, subset in ((["●", "●"], "mod0+mod1"), (["○", "●"], "mod1")):
        fewest, most = (bound(counts[subset, region] for region in REGIONS) for bound in (min, max))
        cases = str(most) if fewest == most else f"{fewest}–{most}"
        assert [*dots, *(f"{means[subset, region]:.3f}" for region in REGIONS), cases] in printed


# --- settings ---------------------------------------------------------------------------------------------------------


def test_without_saving_the_scores_are_the_same_and_no_mask_is_kept(scored, choice, folders, tmp_path):
    assert evaluate_model(choice, QUICK, EvaluationSettings(save=False), tmp_path, *folders) == 0
    assert_frame_equal(table_of(tmp_path), table_of(scored["0"]), check_exact=True)
    assert read_scores(tmp_path).provenance.predictions is None
    assert not (tmp_path / "predictions").exists()


def test_small_regions_are_removed_from_masks_and_scores(scored, choice, folders, tmp_path):
    settings = EvaluationSettings("mod1", min_voxels={"tumor": 10**6})
    assert evaluate_model(choice, QUICK, settings, tmp_path, *folders) == 0
    assert read_scores(tmp_path).provenance.min_voxels == {"tumor": 10**6}
    found = table_of(tmp_path).set_index(["region", "case"])
    before = table_of(scored["0"]).query("subset == 'mod1'").set_index(["region", "case"])
    assert (before.loc["tumor"]["num_predicted"] > 0).all()
    assert (found.loc["tumor"]["num_predicted"] == 0).all()
    assert (found.loc["tumor"]["dice"] == 0).all()
    assert_frame_equal(found.loc["edema"], before.loc["edema"])
    for case in CHANNELS:
        mask = mask_of(scored["0"], "mod1", case)
        np.testing.assert_array_equal(mask_of(tmp_path, "mod1", case), np.where(mask == 2, 0, mask))


def test_rules_and_subsets_are_those_asked_for(choice, folders, tmp_path):
    settings = EvaluationSettings("singles", ScoringRules("brats", 2.5, "medpy"), {"tumor": 10**6}, save=False)
    assert evaluate_model(choice, QUICK, settings, tmp_path, *folders) == 0
    table, provenance = read_scores(tmp_path)
    assert (provenance.empty_policy, provenance.nsd_tolerance_mm) == ("brats", 2.5)
    assert provenance.hd95_convention == "medpy"
    assert list(provenance.subsets) == ["mod0", "mod1"]
    assert set(table["subset"]) == {"mod0", "mod1"}
    assert (table.query("region == 'tumor'")["hd95"] == 374).all()


# --- held-out cases ---------------------------------------------------------------------------------------------------


def test_the_cases_that_a_fold_held_out_are_predicted_by_that_fold(scored, folds, folders, tmp_path):
    assert evaluate_model(folds, QUICK, EvaluationSettings(), tmp_path) == 0
    found, by_fold = table_of(tmp_path), {fold: table_of(scored[fold]) for fold in folds.folds}
    assert_frame_equal(rows_of(found, ["a", "c"]), rows_of(by_fold["0"], ["a", "c"]), check_exact=True)
    assert_frame_equal(rows_of(found, ["b"]), rows_of(by_fold["1"], ["b"]), check_exact=True)
    assert not by_fold["0"].equals(by_fold["1"])
    np.testing.assert_array_equal(mask_of(tmp_path, "mod1", "b"), mask_of(scored["1"], "mod1", "b"))
    provenance = read_scores(tmp_path).provenance
    assert (provenance.folds, len(set(provenance.weights))) == ([0, 1], 2)
    assert (provenance.images, provenance.labels) == tuple(map(str, folders))


def test_given_cases_are_predicted_by_all_folds_together(scored, folds, folders, tmp_path):
    assert evaluate_model(folds, QUICK, EvaluationSettings("mod1"), tmp_path, *folders) == 0
    found = table_of(tmp_path)["num_predicted"].tolist()
    assert len(found) == 6
    for fold in folds.folds:
        assert found != table_of(scored[fold]).query("subset == 'mod1'")["num_predicted"].tolist()
