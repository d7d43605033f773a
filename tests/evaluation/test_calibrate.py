"""`missmod calibrate` and what `missmod predict` then says, on a model with random weights."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_models import SPACING, small_images, two_folds, write_case, write_cohort

from nnunetv2_missmod import Segmenter
from nnunetv2_missmod.calibration.file import CALIBRATION, read_calibration
from nnunetv2_missmod.calibration.sequence_model import SequenceModel
from nnunetv2_missmod.calibration.suspicions import Suspicion
from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.evaluation.calibrate import calibrate
from nnunetv2_missmod.evaluation.calibration_table import read_calibration as read_table
from nnunetv2_missmod.evaluation.evaluate import EvaluationSettings, evaluate_model
from nnunetv2_missmod.evaluation.scores import read_scores
from nnunetv2_missmod.prediction.case_check import check_cases
from nnunetv2_missmod.prediction.mask_table import read_masks, to_be_checked
from nnunetv2_missmod.prediction.masks import predict_masks
from nnunetv2_missmod.prediction.model import PredictionSettings
from nnunetv2_missmod.prediction.trust import TrustSettings

pytestmark = pytest.mark.slow

QUICK = PredictionSettings(device="cpu", step_size=1.0, mirroring=False, num_processes=0)
CASES = [f"case{number:02d}" for number in range(12)]
CHANNELS = {case: [0, 1] for case in CASES} | {CASES[-1]: [1]}
HELD_OUT = [{"train": CASES[6:], "val": CASES[:6]}, {"train": CASES[:6], "val": CASES[6:]}]
REGIONS, SUBSETS = ("edema", "tumor"), ("mod0", "mod1", "mod0+mod1")


@pytest.fixture(scope="module")
def choice(tmp_path_factory):
    with two_folds(tmp_path_factory.mktemp("nnunet"), CHANNELS, HELD_OUT) as found:
        yield found


@pytest.fixture(scope="module")
def scores(choice, tmp_path_factory):
    """Each case by the fold that held it out."""
    out = tmp_path_factory.mktemp("scores") / "held_out"
    assert evaluate_model(choice, QUICK, EvaluationSettings(), out) == 0
    return out


@pytest.fixture(scope="module")
def calibrated(choice, scores):
    return calibrate(scores, None, False, 0.8, 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two new cases, the second without its first modality."""
    folder = tmp_path_factory.mktemp("new")
    write_case(folder, "both", small_images(2, (16, 18, 16), 90))
    write_case(folder, "one", small_images(2, (16, 18, 16), 91), [1])
    return folder


@pytest.fixture
def predicted(calibrated, choice, images, tmp_path):
    assert predict_masks(choice, QUICK, images, tmp_path / "out", settings=TrustSettings(confidence=0.8)) == 0
    return tmp_path / "out"


# --- calibration ------------------------------------------------------------------------------------------------------


def test_what_is_observed_is_what_was_scored(calibrated, scores):
    table, found = read_scores(scores).table, calibrated.calibration.masks
    assert len(found) == len(table) == 11 * 3 * 2 + 2
    merged = found.assign(case=read_scores(scores).table["case"].unique()[found["case"]])
    merged = merged.merge(table, on=["case", "subset", "region"], suffixes=("", "_scored"))
    np.testing.assert_allclose(merged["dice"], merged["dice_scored"])  # nnU-Net's policy: NaN where both are empty
    assert (merged["is_there"] == (merged["num_reference"] > 0)).all()
    np.testing.assert_allclose(merged["probability"], merged["mean_probability"], atol=1e-4)
    volumes = merged["num_predicted"] * np.prod(SPACING)
    np.testing.assert_allclose(merged["log_volume"], np.log10(1 + volumes), atol=1e-4)
    assert merged["probability"][merged["num_predicted"] > 0].between(0, 1).all()


def test_the_models_folder_holds_it_without_names_of_cases(calibrated, choice):
    file = choice.folder / CALIBRATION
    assert calibrated.file == file
    found = read_calibration(file)
    assert found.modalities == ("mod0", "mod1")
    assert found.regions == REGIONS
    assert not any(case in file.read_text() for case in CASES)
    assert set(found.gains["subset"]) == {"mod0", "mod1"}


def test_what_was_foretold_lies_beside_the_scores(calibrated, scores):
    known = read_scores(scores)
    found = read_table(scores, known.provenance)
    keys = ["case", "subset", "region"]
    assert set(map(tuple, found[keys].to_numpy())) <= set(map(tuple, known.table[keys].to_numpy()))
    assert set(found["case"]) == set(CASES)
    assert (found["bound"] <= found["expected_dice"] + 1e-9).mean() > 0.9


def test_a_case_is_foretold_from_the_others(choice, scores, tmp_path):
    """Its own Dice changes nothing."""
    own = tmp_path / "scores"
    shutil.copytree(scores, own)
    table = pd.read_csv(own / "scores.csv")
    rows = (table["case"] == CASES[3]) & (table["num_reference"] > 0)
    table.loc[rows, "num_true_positive"] = 0
    table.to_csv(own / "scores.csv", index=False)
    before, after = calibrate(scores, None, False, 0.8, 1).table, calibrate(own, None, False, 0.8, 1).table
    foretold = ["expected_dice", "bound", "subset_mean"]
    same, other = before["case"] == CASES[3], before["case"] == CASES[4]
    pd.testing.assert_frame_equal(before[same][foretold], after[same][foretold])
    assert not before[other][foretold].equals(after[other][foretold])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"held_out": False}, "not trained on"),
        ({"held_out": None}, "not trained on"),
        ({"held_out": False, "folds": ["all"]}, "not trained on"),
        ({"weights": ["0" * 64, "1" * 64]}, "other weights"),
    ],
)
def test_scores_that_promise_too_much_are_refused(change, words, scores, choice, tmp_path):
    own = tmp_path / "scores"
    shutil.copytree(scores, own)
    content = json.loads((own / "provenance.json").read_text())
    if change.get("folds") == ["all"]:
        shutil.copytree(choice.folder, tmp_path / "model")
        (tmp_path / "model" / "fold_0").rename(tmp_path / "model" / "fold_all")
        content["weights"] = content["weights"][:1]
    (own / "provenance.json").write_text(json.dumps(content | change))
    model = tmp_path / "model" if (tmp_path / "model").exists() else None
    with pytest.raises(ValueError, match=words):
        calibrate(own, model, False, 0.8, 1)


def test_where_no_split_is_known_somebody_has_to_vouch(scores, choice, tmp_path, monkeypatch):
    own = tmp_path / "scores"
    shutil.copytree(scores, own)
    content = json.loads((own / "provenance.json").read_text()) | {"held_out": False}
    (own / "provenance.json").write_text(json.dumps(content))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    with pytest.raises(ValueError, match="--held_out"):
        calibrate(own, None, False, 0.8, 1)
    assert len(calibrate(own, None, True, 0.8, 1).table)


def test_the_command_says_how_well_it_works_and_fills_a_zip(scores, choice, tmp_path, capsys):
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for each in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth"):
            archive.write(choice.folder / each, f"{choice.dataset}/{choice.folder.name}/{each}")
    for _ in range(2):  # the second replaces what the first put there
        assert main(["calibrate", str(scores), "--zip", str(file), "-np", "1", "--confidence", "0.8"]) == 0
    said = capsys.readouterr().out
    assert "off by" in said
    assert str(choice.folder / CALIBRATION) in said
    with zipfile.ZipFile(file) as archive:
        assert len(archive.namelist()) == len(set(archive.namelist())) == 5
    segmenter = Segmenter.from_folder(file, device="cpu")
    assert segmenter.trust.judge is not None


# --- prediction -------------------------------------------------------------------------------------------------------


def test_masks_come_with_what_is_expected_of_them(predicted):
    table = read_masks(predicted).set_index("case")
    expected = [json.loads((predicted / f"{case}_trust.json").read_text()) for case in ("both", "one")]
    for case, of_mask in zip(("both", "one"), expected, strict=True):
        assert of_mask["confidence"] == 0.8
        for region in REGIONS:
            values = of_mask["regions"][region]
            for name, value in values.items():
                assert table.loc[case, f"{name} ({region})"] == ("" if value is None else f"{value:.3f}")
            if values["expected_dice"] is not None:
                assert 0 <= values["dice_at_least"] <= 1
            assert 0 < values["chance_of_region"] < 1
    assert expected[0]["would_help"] == []
    assert [each["modality"] for each in expected[1]["would_help"]] == ["mod0"]


def test_the_masks_are_those_of_a_model_without_a_calibration(predicted, choice, images, tmp_path):
    plain = tmp_path / "plain"
    assert predict_masks(choice, QUICK, images, plain, settings=TrustSettings(use=False)) == 0
    for case in ("both", "one"):
        assert (plain / f"{case}.nii.gz").read_bytes() == (predicted / f"{case}.nii.gz").read_bytes()
    assert sorted(file.name for file in plain.glob("*_trust.json")) == []
    table, with_it = read_masks(plain), read_masks(predicted)
    assert list(table) == list(with_it)
    assert (table.filter(like="(") == "").all(axis=None)


def test_python_says_the_same(predicted, choice, images):
    segmenter = Segmenter.from_folder(choice.folder, device="cpu", mirroring=False, step_size=1.0, confidence=0.8)
    found = segmenter.segment({"mod1": images / "both_0001.nii.gz", "mod0": images / "both_0000.nii.gz"})
    row = read_masks(predicted).set_index("case").loc["both"]
    assert list(found.expected_dice) == list(REGIONS)
    for region in REGIONS:
        dice, bound = found.expected_dice[region], found.dice_at_least[region]
        assert row[f"expected_dice ({region})"] == ("" if dice is None else f"{dice:.3f}")
        assert row[f"dice_at_least ({region})"] == ("" if bound is None else f"{bound:.3f}")
    subsets = segmenter.segment_subsets({"mod0": images / "both_0000.nii.gz", "mod1": images / "both_0001.nii.gz"})
    assert set(subsets) == set(SUBSETS)
    assert subsets["mod0+mod1"].judgement == found.judgement


def test_every_subset_is_judged_by_itself(calibrated, predicted, choice, images, tmp_path):
    out = tmp_path / "all"
    assert predict_masks(choice, QUICK, images, out, "mod0+mod1,mod1", settings=TrustSettings(confidence=0.8)) == 0
    of_all = json.loads((out / "mod0+mod1" / "both_trust.json").read_text())
    assert of_all == json.loads((predicted / "both_trust.json").read_text())
    table = read_masks(out)
    assert table["subset"].tolist() == ["mod0+mod1", "mod1"] * 2
    assert table.query("case == 'one' and subset == 'mod0+mod1'")["mask"].item() == ""


def test_what_may_be_poor_is_listed_and_the_exit_code_says_so_if_asked(calibrated, choice, images, tmp_path, capsys):
    names = ["-d", choice.dataset, "-c", choice.configuration, "-tr", choice.trainer, "-p", choice.plans, "-f", "0"]
    command = ["predict", "-i", str(images), *names, "-device", "cpu", "--disable_tta", "-nps", "0", "-step_size", "1"]
    assert main([*command, "-o", str(tmp_path / "a"), "--flag_below", "1.01", "--fail_flagged"]) == 3
    listed = [line for line in capsys.readouterr().err.splitlines() if "to be checked" in line]
    assert [line.partition("to be checked: ")[2] for line in listed] == to_be_checked(tmp_path / "a", 1.01) != []
    assert main([*command, "-o", str(tmp_path / "b"), "--flag_below", "1.01"]) == 0
    assert main([*command, "-o", str(tmp_path / "c"), "--flag_below", "0", "--fail_flagged"]) == 0
    assert main([*command, "-o", str(tmp_path / "d"), "--fail_flagged"]) == 2
    assert main([*command, "-o", str(tmp_path / "e"), "--confidence", "1"]) == 2
    assert not (tmp_path / "e").exists()


def test_other_weights_are_not_judged_and_it_is_said(calibrated, choice, images, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(choice.folder, model)
    (model / CALIBRATION).write_text(
        (model / CALIBRATION).read_text().replace(calibrated.calibration.weights[0], "0" * 64)
    )
    other = replace(choice, model_folder=model)
    assert predict_masks(other, QUICK, images, tmp_path / "out") == 0
    assert "made of other checkpoints" in capsys.readouterr().err
    assert (read_masks(tmp_path / "out").filter(like="(") == "").all(axis=None)


# --- files that look exchanged ----------------------------------------------------------------------------------------


@pytest.fixture
def exchanged(monkeypatch):
    """Let the images of every case with both modalities look exchanged."""

    def suspicions(model, features):
        return [Suspicion(0, 1, 0.98), Suspicion(1, 0, 0.97)] if len(features) == 2 else []

    monkeypatch.setattr(SequenceModel, "suspicions_of", suspicions)
    monkeypatch.setattr(SequenceModel, "unfamiliar", lambda model, features: [1] if len(features) == 1 else [])


WORDS = "the file for mod0 looks like mod1 (0.98); the file for mod1 like mod0 (0.97): exchanged?"
UNKNOWN = "unlike every training file, so whether it is the right one is unknown: mod1"


@pytest.mark.usefixtures("exchanged")
def test_files_that_look_exchanged_are_named(calibrated, choice, images, tmp_path, capsys):
    assert calibrated.of_sequences == "Files that look like another modality will be named."
    assert predict_masks(choice, QUICK, images, tmp_path / "out") == 0
    assert f"case both: {WORDS}" in capsys.readouterr().err
    assert read_masks(tmp_path / "out").set_index("case")["suspicions"].to_dict() == {"both": WORDS, "one": UNKNOWN}
    refusing = TrustSettings(refuse_mixups=True)
    assert predict_masks(choice, QUICK, images, tmp_path / "refused", settings=refusing) == 1
    assert read_masks(tmp_path / "refused")["case"].tolist() == ["one"]
    assert f"both: failed. {WORDS}" in capsys.readouterr().out


@pytest.mark.usefixtures("exchanged", "calibrated")
def test_they_are_named_when_cases_are_scored_and_by_the_doctor(choice, tmp_path, capsys):
    images, labels = write_cohort(tmp_path / "new", {"x": [0, 1], "y": [1]})
    assert evaluate_model(choice, QUICK, EvaluationSettings(refuse_mixups=True), tmp_path / "s", images, labels) == 1
    assert set(read_scores(tmp_path / "s").table["case"]) == {"y"}
    assert [(case.name, case.seen.words) for case in check_cases(images, choice.dataset)] == [
        ("x", WORDS),
        ("y", UNKNOWN),
    ]
    (images / "y_0001.nii.gz").write_bytes(b"no image")
    assert main(["doctor", "-i", str(images), "-d", choice.dataset]) == 1
    said = capsys.readouterr().out
    assert f"WRONG x: {WORDS}" in said
    assert "WRONG y: " in said
    assert "2 to mend." in said


def test_the_doctor_needs_a_calibrated_model(choice, images, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    with pytest.raises(ValueError, match="missmod calibrate"):
        list(check_cases(images, choice.dataset))
    assert main(["doctor", "-i", str(images)]) == 2


@pytest.mark.usefixtures("calibrated")
def test_a_file_that_is_a_copy_of_another_is_named(choice, tmp_path, capsys):
    """Public datasets fill a missing sequence with a copy of another one."""
    image = small_images(2, (16, 18, 16), 90)[1]
    write_case(tmp_path / "new", "twice", np.stack([image, image]))
    assert predict_masks(choice, QUICK, tmp_path / "new", tmp_path / "out") == 0
    assert "case twice: the files for mod0 and mod1 hold the same image: a copy?" in capsys.readouterr().err
