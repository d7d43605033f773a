import warnings

import numpy as np
import pytest
import torch

from nnunetv2_missmod.modalities import all_subsets
from nnunetv2_missmod.training.validation import dice_per_subset, nanmean, subset_schedule


def names(schedule):
    return ["".join(str(int(m)) for m in subset) for subset in schedule]


@pytest.mark.parametrize("num_modalities", [1, 2, 3, 4])
def test_a_long_schedule_goes_round_the_subsets_in_their_order(num_modalities):
    subsets = names(all_subsets(num_modalities))
    steps = 2 * len(subsets) + 1
    found = names(subset_schedule(num_modalities, steps))
    assert found == (subsets * 3)[:steps]


def test_a_schedule_of_exactly_the_subsets_visits_each_once():
    assert names(subset_schedule(4, 15)) == names(all_subsets(4))


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 14])
def test_a_short_schedule_is_spread_over_the_whole_list(steps):
    subsets = names(all_subsets(4))
    visited = [subsets.index(name) for name in names(subset_schedule(4, steps))]
    assert len(set(visited)) == steps
    assert visited == sorted(visited)
    gaps = np.diff([-1, *visited])
    assert visited[-1] == len(subsets) - 1  # the full set
    assert gaps.max() - gaps.min() <= 1  # evenly


def test_a_schedule_is_the_same_in_every_epoch_also_where_subsets_are_sampled():
    torch.manual_seed(0)
    first = names(subset_schedule(7, 50))
    torch.manual_seed(1)
    assert names(subset_schedule(7, 50)) == first


def test_the_subsets_of_a_schedule_are_rows():
    subset = subset_schedule(4, 3)[0]
    assert subset.shape == (4,)
    assert subset.dtype == torch.bool


def validation_outputs():
    rng = np.random.default_rng(0)
    steps = []
    for step in range(12):
        counts = {key: rng.integers(0, 50, 3) for key in ("tp_hard", "fp_hard", "fn_hard")}
        for count in counts.values():
            count[2] = 0  # a class that is never there
        steps.append({**counts, "subset": ("T2", "FLAIR", "FLAIR+T2")[step % 3], "loss": 0.0})
    steps[0]["fp_hard"][1] = steps[0]["fn_hard"][1] = steps[0]["tp_hard"][1] = 0  # one step without the class
    return steps


def test_dice_per_subset_pools_the_voxels_of_each_subset():
    steps = validation_outputs()
    dice = dice_per_subset(steps)
    assert list(dice) == ["T2", "FLAIR", "FLAIR+T2"]
    for name, values in dice.items():
        for k in range(3):
            tp = fp = fn = 0
            for step in steps:
                if step["subset"] == name:
                    tp += int(step["tp_hard"][k])
                    fp += int(step["fp_hard"][k])
                    fn += int(step["fn_hard"][k])
            if tp + fp + fn == 0:
                assert np.isnan(values[k])
            else:
                assert values[k] == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-15)
    assert all(np.isnan(values[2]) for values in dice.values())
    assert all(np.isfinite(values[:2]).all() for values in dice.values())


def test_dice_is_zero_where_nothing_was_hit():
    step = {"tp_hard": np.array([0]), "fp_hard": np.array([3]), "fn_hard": np.array([4]), "subset": "T2"}
    assert dice_per_subset([step])["T2"].tolist() == [0.0]


def test_dice_pools_more_voxels_than_single_precision_can_count():
    step = {"tp_hard": np.array([2.0**24], np.float32), "fp_hard": np.array([1.0], np.float32), "subset": "T2"}
    step["fn_hard"] = np.array([0.0], np.float32)
    assert dice_per_subset([step] * 2)["T2"][0] == pytest.approx(2**26 / (2**26 + 2), abs=1e-12)


def test_dice_does_not_warn_where_a_class_is_missing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dice_per_subset(validation_outputs())


def test_nanmean():
    nan = np.nan
    values = np.array([[1.0, nan, 3.0], [3.0, nan, nan]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(nanmean(values, axis=0), [2.0, nan, 3.0])
        np.testing.assert_array_equal(nanmean(values, axis=1), [2.0, 3.0])
        assert nanmean(values) == pytest.approx(7 / 3)
        assert np.isnan(nanmean(np.array([nan, nan])))
        assert float(nanmean(np.array([nan, 0.5]))) == 0.5
