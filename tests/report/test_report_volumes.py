from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from small_folders import SHAPE, change_provenance, write_data, write_model, write_volume

from nnunetv2_missmod.report.case_volumes import (
    Case,
    background_of,
    foreground,
    grey,
    read_cropped_case,
    read_in_lps,
    read_prediction,
)
from nnunetv2_missmod.report.inputs import load_comparison
from nnunetv2_missmod.report.shown_cases import cases_to_show

CASES = ("good", "middling", "poor")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("volumes")
    truths = write_data(root, num_modalities=2, cases=CASES)
    table = write_model(root / "model", root, truths, modalities=("FLAIR", "T1c"))
    table["dice"] = table["case"].map({"good": 0.9, "middling": 0.5, "poor": 0.1})
    table.to_csv(root / "model" / "scores.csv", index=False)
    return root, truths


@pytest.fixture
def comparison(cohort):
    return load_comparison([cohort[0] / "model"])


def test_the_median_case_comes_first_then_the_worst_and_the_best(comparison):
    cases = cases_to_show(comparison)
    assert list(cases) == ["middling", "poor", "good"]
    assert cases["middling"] == "median case, mean Dice 50.00 %"


@pytest.mark.parametrize(("names", "shown"), [(["good"], ["good"]), (["good", "poor"], ["poor", "good"])])
def test_fewer_than_three_cases_are_each_shown_once(comparison, names, shown):
    kept = comparison.scores[comparison.scores["case"].isin(names)]
    comparison.scores.drop(comparison.scores.index.difference(kept.index), inplace=True)
    assert list(cases_to_show(comparison)) == shown
    assert next(iter(cases_to_show(comparison).values())).startswith("median case")


def test_cases_without_any_dice_come_last(comparison):
    comparison.scores.loc[comparison.scores["case"] == "good", "dice"] = np.nan
    assert list(cases_to_show(comparison)) == ["poor", "middling"]
    comparison.scores["dice"] = np.nan
    assert len(cases_to_show(comparison)) == 1


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (["1"], ["middling"]),
        (["2"], ["middling", "poor"]),
        (["99"], ["middling", "poor", "good"]),
        (["good", "poor", "good"], ["good", "poor"]),
    ],
)
def test_cases_are_chosen_by_their_number_or_by_names(comparison, wanted, shown):
    assert list(cases_to_show(comparison, wanted)) == shown


def test_after_median_worst_and_best_the_next_worst_follow(comparison):
    scores = comparison.scores
    more = [scores[scores["case"] == "good"].assign(case=f"{n}", dice=n / 100) for n in range(4)]
    undefined = scores[scores["case"] == "good"].assign(case="empty", dice=np.nan)
    comparison = replace(comparison, scores=pd.concat([scores, *more, undefined]))
    assert list(cases_to_show(comparison, ["5"])) == ["3", "0", "good", "1", "2"]
    assert cases_to_show(comparison, ["5"])["2"] == "case 3 of 8 from the worst, mean Dice 2.00 %"
    assert list(cases_to_show(comparison, ["99"])) == ["3", "0", "good", "1", "2", "poor", "middling"]
    assert cases_to_show(comparison, ["3", "empty"])["empty"] == "no Dice"
    assert list(cases_to_show(comparison, ["3"])) == ["3"]  # a case of that name
    assert list(cases_to_show(comparison)) == ["3", "0", "good"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [(["0"], "at least 1, got 0"), (["good", "bad"], "got bad. Scored are, the worst first, poor, middling, good.")],
)
def test_a_case_that_was_not_scored_is_an_error_that_lists_them(comparison, wanted, message):
    with pytest.raises(ValueError, match=message):
        cases_to_show(comparison, wanted)


def test_a_case_is_cropped_alike_in_images_truth_and_prediction(cohort, comparison):
    _, truths = cohort
    case = read_cropped_case(comparison, "good", "")
    assert isinstance(case, Case)
    assert list(case.images) == ["FLAIR", "T1c"]
    prediction = read_prediction(comparison.first, "FLAIR", case)
    assert prediction is not None
    sizes = {volume.GetSize() for volume in (*case.images.values(), case.truth, prediction)}
    assert len(sizes) == 1
    assert np.prod(case.truth.GetSize()) < np.prod(SHAPE)
    assert (sitk.GetArrayFromImage(case.truth) > 0).sum() == (truths["good"] > 0).sum()


def test_a_case_that_lacks_a_channel_has_the_other_images(cohort, comparison):
    root, _ = cohort
    file = root / "imagesTs" / "poor_0000.nii.gz"
    content = file.read_bytes()
    file.unlink()
    try:
        case = read_cropped_case(comparison, "poor", "")
    finally:
        file.write_bytes(content)
    assert isinstance(case, Case)
    assert list(case.images) == ["T1c"]


def test_data_elsewhere_are_a_note(cohort):
    root, _ = cohort
    change_provenance(root / "model", images="/elsewhere/imagesTs")
    try:
        note = read_cropped_case(load_comparison([root / "model"]), "good", "")
    finally:
        change_provenance(root / "model", images=str(root / "imagesTs"))
    assert isinstance(note, str)
    assert "provenance.json" in note


def test_an_image_that_cannot_be_read_is_an_error_that_names_it(tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.nii\.gz"):
        read_in_lps(tmp_path / "broken.nii.gz")


def test_an_image_that_is_cut_short_is_no_picture_of_zeros(tmp_path):
    write_volume(tmp_path / "a.nii.gz", np.ones((4, 5, 6), np.uint8))
    whole = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(whole[:-12])
    with pytest.raises(ValueError, match=r"readable image in .*a\.nii\.gz, but .*damaged"):
        read_in_lps(tmp_path / "a.nii.gz")


def test_a_prediction_of_another_size_is_an_error_that_names_it(tmp_path):
    truths = write_data(tmp_path, num_modalities=2, cases=("case",))
    write_model(tmp_path / "model", tmp_path, truths, modalities=("FLAIR", "T1c"))
    file = tmp_path / "model" / "predictions" / "T1c" / "case.nii.gz"
    write_volume(file, np.zeros((32, 32, 32), np.uint8))
    comparison = load_comparison([tmp_path / "model"])
    case = read_cropped_case(comparison, "case", "")
    assert isinstance(case, Case)
    with pytest.raises(ValueError, match=r"predictions/T1c/case\.nii\.gz.*\(32, 32, 32\)"):
        read_prediction(comparison.first, "T1c", case)
    write_volume(tmp_path / "imagesTs" / "case_0001.nii.gz", np.ones((32, 32, 32), np.float32))
    with pytest.raises(ValueError, match=r"case_0001\.nii\.gz"):
        read_cropped_case(comparison, "case", "")


def test_a_volume_is_turned_so_that_x_goes_left_and_y_back(tmp_path):
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # RAS, as most NIfTI files
    sitk.WriteImage(image, str(tmp_path / "volume.nii.gz"))
    array = sitk.GetArrayFromImage(read_in_lps(tmp_path / "volume.nii.gz"))
    np.testing.assert_array_equal(array, np.arange(24).reshape(2, 3, 4)[:, ::-1, ::-1])


def test_a_two_dimensional_image_is_a_volume_of_one_slice(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.uint8)), str(tmp_path / "image.png"))
    assert read_in_lps(tmp_path / "image.png").GetSize() == (6, 5, 1)


def test_the_foreground_is_all_that_any_image_or_the_truth_shows():
    one, two, truth = (np.full((8, 8, 8), fill, np.float32) for fill in (-1000, 0, 0))
    one[3, 3, 3], two[3, 5, 3], truth[2, 3, 3] = 1, 1, 1
    images = {name: sitk.GetImageFromArray(array) for name, array in (("one", one), ("two", two))}
    x, y, z = foreground(images, sitk.GetImageFromArray(truth))
    assert (x, y, z) == (slice(2, 5), slice(2, 7), slice(1, 5))  # one voxel of margin


def test_an_empty_case_is_kept_whole():
    empty = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.float32))
    assert foreground({"one": empty}, empty) == (slice(0, 6), slice(0, 5), slice(0, 4))
    assert not grey(empty).any()


def test_grey_values_span_the_foreground_and_survive_outliers_and_nan():
    array = np.zeros((10, 10, 10), np.float32)
    array[2:8, 2:8, 2:8] = np.random.default_rng(0).uniform(100, 200, (6, 6, 6))
    array[0, 0, 0], array[4, 4, 4] = np.nan, 1e6
    shown = grey(sitk.GetImageFromArray(array))
    assert shown.dtype == np.uint8
    assert shown[0, 0, 0] == 0
    assert np.median(shown[2:8, 2:8, 2:8]) > 120


@pytest.mark.parametrize("background", [0.0, -3.6, 40.0])
def test_the_background_is_that_of_most_corners_and_not_the_lowest_value(background):
    """Resampling overshoots, and z-scores are negative in half of the brain: both were taken for background."""
    rng = np.random.default_rng(0)
    array = np.full((20, 20, 20), background, np.float32)
    array[5:15, 5:15, 5:15] = rng.normal(background + 1, 1, (10, 10, 10))
    array[6:8, 6:8, 6:8] = background + 4  # a bright lesion, 0.8 % of the brain
    image, truth = sitk.GetImageFromArray(array), sitk.GetImageFromArray(np.zeros(array.shape, np.uint8))
    assert background_of(array) == np.float32(background)
    assert foreground({"one": image}, truth) == (slice(4, 16),) * 3
    shown = grey(image)
    assert not shown[array == np.float32(background)].any()
    assert shown[6:8, 6:8, 6:8].max() < 255
    assert 60 < np.median(shown[5:15, 5:15, 5:15]) < 190


def test_of_air_that_was_not_masked_the_background_is_the_lowest_value():
    array = np.random.default_rng(0).uniform(1, 9, (6, 6, 6)).astype(np.float32)
    assert background_of(array) == array.min()
    assert background_of(array[:1]) == array[:1].min()


def test_the_folder_of_predictions_is_read_from_provenance(cohort, comparison):
    root, _ = cohort
    change_provenance(root / "model", predictions="elsewhere")
    try:
        moved = load_comparison([root / "model"])
    finally:
        change_provenance(root / "model", predictions="predictions")
    case = read_cropped_case(comparison, "good", "")
    assert isinstance(case, Case)
    assert read_prediction(moved.first, "FLAIR", case) is None
