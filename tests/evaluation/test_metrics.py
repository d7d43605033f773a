from math import isnan, nan

import numpy as np
import pytest
from nnunetv2.evaluation.evaluate_predictions import compute_metrics

from nnunetv2_missmod.evaluation.metrics import EMPTY_POLICIES, ScoringRules, score
from nnunetv2_missmod.evaluation.scores import DTYPES
from nnunetv2_missmod.evaluation.truth import Truth

BRATS = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
ONE = {"lesion": (1,)}
MM = (1.0, 1.0, 1.0)


def labels(seed, shape=(12, 11, 10), values=(0, 1, 2, 3)):
    return np.random.default_rng(seed).choice(values, shape).astype(np.uint8)


def boxed(value, start=2, stop=5, shape=(9, 9, 9)):
    image = np.zeros(shape, dtype=np.uint8)
    image[tuple(slice(start, stop) for _ in shape)] = value
    return image


def only(prediction, truth, spacing=MM, **rules):
    """The score of the one region."""
    (found,) = score(prediction, Truth(truth, spacing, ONE), ScoringRules(**rules))
    return found


class Arrays:
    """nnU-Net's reader, for arrays in place of files."""

    def __init__(self, **arrays):
        self.arrays = arrays

    def read_seg(self, name):
        return self.arrays[name][None].astype(np.float32), {}


def nnunets(prediction, truth, regions, ignore_label=None):
    reader = Arrays(truth=truth, prediction=prediction)
    found = compute_metrics("truth", "prediction", reader, [tuple(r) for r in regions.values()], ignore_label)
    return list(found["metrics"].values())


# --- overlap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_dice_and_counts_are_nnunets_to_the_last_digit(seed):
    prediction, truth = labels(seed), labels(seed + 100)
    for found, theirs in zip(
        score(prediction, Truth(truth, MM, BRATS), ScoringRules()), nnunets(prediction, truth, BRATS), strict=True
    ):
        assert found.dice == theirs["Dice"]
        assert (found.num_predicted, found.num_reference) == (theirs["n_pred"], theirs["n_ref"])
        assert found.num_true_positive == theirs["TP"]
        assert found.num_voxels == theirs["TP"] + theirs["FP"] + theirs["FN"] + theirs["TN"]
        assert found.sensitivity == theirs["TP"] / theirs["n_ref"]


@pytest.mark.parametrize("empty", ["truth", "prediction", "both"])
def test_dice_of_empty_masks_is_nnunets(empty):
    truth = boxed(0 if empty in ("truth", "both") else 1)
    prediction = boxed(0 if empty in ("prediction", "both") else 1)
    (theirs,) = nnunets(prediction, truth, ONE)
    assert only(prediction, truth).dice == pytest.approx(theirs["Dice"], nan_ok=True, abs=0)


@pytest.mark.parametrize("seed", range(5))
def test_ignored_voxels_take_no_part(seed):
    prediction, truth = labels(seed), labels(seed + 100, values=(0, 1, 2, 3, 4))
    rules = ScoringRules()
    found = score(prediction, Truth(truth, MM, BRATS, ignore_label=4), rules)
    for ours, theirs in zip(found, nnunets(prediction, truth, BRATS, ignore_label=4), strict=True):
        assert (ours.dice, ours.num_true_positive) == (theirs["Dice"], theirs["TP"])
        assert ours.num_voxels == theirs["TP"] + theirs["FP"] + theirs["FN"] + theirs["TN"] < truth.size
    elsewhere = np.where(truth == 4, 3 - prediction, prediction)
    assert score(elsewhere, Truth(truth, MM, BRATS, ignore_label=4), rules) == found


def test_volume_error_is_relative_to_the_truth():
    assert only(boxed(1, 2, 4), boxed(1, 2, 5)).volume_error == (8 - 27) / 27
    assert only(boxed(1, 2, 6), boxed(1, 2, 5)).volume_error == (64 - 27) / 27
    assert only(boxed(0), boxed(1)).volume_error == -1


def test_a_region_is_scored_by_its_labels_as_a_binary_mask_would_be():
    prediction, truth = labels(1), labels(2)
    regions = score(prediction, Truth(truth, (3.0, 1.0, 0.7), BRATS), ScoringRules())
    for found, values in zip(regions, BRATS.values(), strict=True):
        alone = only(*(np.isin(each, values).astype(np.uint8) for each in (prediction, truth)), (3.0, 1.0, 0.7))
        assert found == alone._replace(region=found.region)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_any_type_of_label_map_scores_alike(dtype):
    prediction, truth = labels(1), labels(2)
    expected = score(prediction, Truth(truth, MM, BRATS), ScoringRules())
    assert score(prediction.astype(dtype), Truth(truth.astype(dtype), MM, BRATS), ScoringRules()) == expected


def test_a_row_has_the_columns_of_the_long_table():
    found = only(boxed(1), boxed(1))
    assert ["case", "subset", "num_present", *found._fields] == list(DTYPES)


def test_a_truth_scores_many_predictions_alike():
    truth = Truth(labels(3), MM, BRATS)
    first = score(labels(4), truth, ScoringRules())
    score(labels(5), truth, ScoringRules(nsd_tolerance_mm=3.0))
    assert score(labels(4), truth, ScoringRules()) == first


# --- empty masks ------------------------------------------------------------------------------------------------------

NNUNET_ONE = {"dice": 0, "hd95": nan, "nsd": 0, "lesion_dice": 0}
BRATS_ONE = {"dice": 0, "hd95": 374, "nsd": 0, "lesion_dice": 0}


@pytest.mark.parametrize(
    ("policy", "in_prediction", "in_truth", "expected"),
    [
        ("nnunet", 0, 0, {"dice": nan, "hd95": nan, "nsd": nan, "lesion_dice": nan}),
        ("nnunet", 1, 0, NNUNET_ONE | {"sensitivity": nan, "volume_error": nan}),
        ("nnunet", 0, 1, NNUNET_ONE | {"sensitivity": 0, "volume_error": -1}),
        ("brats", 0, 0, {"dice": 1, "hd95": 0, "nsd": 1, "lesion_dice": 1}),
        ("brats", 1, 0, BRATS_ONE | {"sensitivity": nan, "volume_error": nan}),
        ("brats", 0, 1, BRATS_ONE | {"sensitivity": 0, "volume_error": -1}),
        ("zero", 0, 0, {"dice": 1, "hd95": 0, "nsd": 1, "lesion_dice": 1}),
        ("zero", 1, 0, BRATS_ONE | {"hd95": 0, "sensitivity": nan, "volume_error": nan}),
        ("zero", 0, 1, BRATS_ONE | {"hd95": 0, "sensitivity": 0, "volume_error": -1}),
        ("one", 0, 0, {"dice": 1, "hd95": 0, "nsd": 1, "lesion_dice": 1}),
        ("one", 1, 0, BRATS_ONE | {"hd95": 1, "sensitivity": nan, "volume_error": nan}),
        ("one", 0, 1, BRATS_ONE | {"hd95": 1, "sensitivity": 0, "volume_error": -1}),
    ],
)
@pytest.mark.parametrize("shape", [(9, 9, 9), (1, 9, 9)])
def test_every_cell_of_the_policy_for_empty_masks(policy, in_prediction, in_truth, expected, shape):
    prediction, truth = np.zeros(shape), np.zeros(shape)
    prediction[0, 3:5, 3:5], truth[0, 2:5, 2:5] = in_prediction, in_truth
    found = only(prediction, truth, empty_policy=policy)._asdict()
    everything = {"sensitivity": nan, "volume_error": nan} | expected
    assert {name: found[name] for name in everything} == pytest.approx(everything, nan_ok=True, abs=0)
    assert (found["num_predicted"], found["num_reference"]) == (4 * in_prediction, 9 * in_truth)


@pytest.mark.parametrize("policy", EMPTY_POLICIES)
def test_the_policy_leaves_masks_that_are_not_empty_alone(policy):
    found = only(boxed(1, 2, 4), boxed(1, 6, 8), empty_policy=policy)
    assert (found.dice, found.nsd, found.lesion_dice, found.sensitivity) == (0, 0, 0, 0)
    assert 0 < found.hd95 < 12


def test_regions_are_empty_one_by_one():
    found = score(boxed(1), Truth(boxed(1), MM, BRATS), ScoringRules())
    assert [region.dice == 1 or isnan(region.dice) for region in found] == [True] * 3
    assert [isnan(region.dice) for region in found] == [False, True, True]


# --- shapes of images -------------------------------------------------------------------------------------------------


def test_one_voxel_is_scored():
    same = only(boxed(1, 4, 5), boxed(1, 4, 5))
    assert (same.dice, same.hd95, same.nsd, same.sensitivity, same.volume_error, same.lesion_dice) == (1, 0, 1, 1, 0, 1)
    beside = only(np.roll(boxed(1, 4, 5), 1, 0), boxed(1, 4, 5), spacing=(2.0, 1.0, 1.0))
    assert (beside.dice, beside.hd95, beside.lesion_dice) == (0, 2, 0)


def test_masks_that_fill_the_image_are_scored():
    full = np.ones((4, 5, 6), dtype=np.uint8)
    found = only(full, full)
    assert (found.dice, found.hd95, found.nsd, found.lesion_dice) == (1, 0, 1, 1)


def test_a_larger_background_changes_nothing():
    prediction, truth = labels(6, values=(0, 0, 1)), labels(7, values=(0, 0, 1))
    padded = only(np.pad(prediction, 3), np.pad(truth, 3), (3.0, 1.0, 0.7))
    expected = only(prediction, truth, (3.0, 1.0, 0.7))
    assert padded[1:-3] == pytest.approx(expected[1:-3], rel=1e-12)  # but for what is seen without a truth


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_an_axis_of_length_one_is_no_axis(flat):
    prediction, truth = labels(8, (30, 20), (0, 1)), labels(9, (30, 20), (0, 1))
    expected = only(prediction, truth, (2.0, 0.7))
    spacing = [2.0, 0.7]
    spacing.insert(flat, 999.0)
    assert only(np.expand_dims(prediction, flat), np.expand_dims(truth, flat), spacing) == expected


def test_a_2d_image_is_scored_by_its_contour():
    square = boxed(1, 2, 12, (20, 20))
    found = only(np.roll(square, 2, 0), square, (1.5, 1.0))
    assert found.hd95 == 3
    assert 0.4 < found.nsd < 0.7  # two of four sides


# --- errors -----------------------------------------------------------------------------------------------------------


def test_shapes_that_differ_are_an_error():
    with pytest.raises(ValueError, match=r"\(9, 9, 9\), got \(9, 9, 8\)"):
        only(boxed(1)[:, :, 1:], boxed(1))


def test_other_flat_axes_are_an_error():
    with pytest.raises(ValueError, match=r"\(1, 9, 9\), got \(9, 1, 9\)"):
        only(np.ones((9, 1, 9)), np.ones((1, 9, 9)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, nan), (1.0, 1.0, -1.0)])
def test_a_spacing_that_does_not_fit_is_an_error(spacing):
    with pytest.raises(ValueError, match="spacing in mm for each of the 3 axes"):
        Truth(boxed(1), spacing, ONE)


@pytest.mark.parametrize("shape", [(5,), (2, 2, 2, 2)])
def test_images_of_one_or_four_axes_are_an_error(shape):
    with pytest.raises(ValueError, match="2 or 3 axes"):
        Truth(np.ones(shape), [1.0] * len(shape), ONE)


def test_an_unknown_policy_is_an_error():
    with pytest.raises(ValueError, match="nnunet, brats, zero, one, got 'none'"):
        ScoringRules(empty_policy="none")


@pytest.mark.parametrize("tolerance", [-1.0, nan, float("inf")])
def test_a_tolerance_that_is_no_length_is_an_error(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        ScoringRules(nsd_tolerance_mm=tolerance)
