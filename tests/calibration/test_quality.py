"""Expected Dice, lower bounds and chances against plain loops, and against what they promise."""

import numpy as np
import pandas as pd
import pytest

from nnunetv2_missmod.calibration.quality import MAX_FOLDS, RegionQuality, spread
from nnunetv2_missmod.calibration.signs import SIGNS, Signs

SUBSETS = {"A": 0.5, "B": 0.6, "A+B": 0.8}  # mean Dice


def masks_of(cases, seed=0, telling=0.0, absent=0.0):
    """Masks whose Dice varies about their subset's mean, ``telling`` of it as the probability does."""
    rng, rows = np.random.default_rng(seed), []
    for case in range(cases):
        is_there = rng.uniform() >= absent
        for subset, mean in SUBSETS.items():
            seen, unseen = rng.normal(0, 0.1, 2)
            dice = float(np.clip(mean + telling * seen + (1 - telling) * unseen, 0, 1))
            signs = {"probability": 0.7 + seen, "log_volume": 3 + rng.normal()}
            rows.append(
                {
                    "case": case,
                    "subset": subset,
                    "num_present": subset.count("+") + 1,
                    "dice": dice if is_there else 0.0,
                    "is_there": is_there,
                    "is_predicted": True,
                    **signs,
                }
            )
    return pd.DataFrame(rows)


def empty(rows):
    """The same masks, empty."""
    return rows.assign(is_predicted=False, dice=np.nan, probability=np.nan, log_volume=0.0)


# --- signs ------------------------------------------------------------------------------------------------------------


def test_signs_are_a_probability_and_the_order_of_magnitude_of_a_volume():
    assert Signs(0.8, 999.0).columns == {"probability": 0.8, "log_volume": pytest.approx(3.0)}
    assert Signs(np.nan, 0.0).columns["log_volume"] == 0.0
    assert tuple(Signs(0.8, 1.0).columns) == SIGNS


# --- expected Dice ----------------------------------------------------------------------------------------------------


def test_signs_that_tell_nothing_leave_the_mean_of_the_subset():
    rows = masks_of(60)
    found = RegionQuality(rows).expected(rows)
    means = rows.groupby("subset")["dice"].transform("mean")
    assert np.abs(found - means).max() < 0.03


def test_signs_that_tell_are_used():
    rows, new = masks_of(60, telling=0.9), masks_of(200, seed=1, telling=0.9)
    means = new["subset"].map(rows.groupby("subset")["dice"].mean())
    expected = RegionQuality(rows).expected(new)
    assert (new["dice"] - expected).abs().mean() < 0.3 * (new["dice"] - means).abs().mean()


def test_an_unknown_subset_is_expected_as_others_of_its_size():
    rows = masks_of(30)
    mean = rows[rows["num_present"] == 1]["dice"].mean()
    other = rows[rows["subset"] == "A"].head(1).assign(subset="C", log_volume=rows["log_volume"].mean())
    assert RegionQuality(rows).expected(other)[0] == pytest.approx(mean, abs=0.05)
    larger = other.assign(subset="A+B+C", num_present=3)
    assert RegionQuality(rows).expected(larger)[0] == pytest.approx(rows["dice"].mean(), abs=0.05)  # no such size


def test_of_an_empty_mask_no_dice_is_expected():
    quality, rows = RegionQuality(masks_of(10)), empty(masks_of(1))
    assert np.isnan(quality.expected(rows)).all()
    assert np.isnan(quality.bounds(rows, 0.9)).all()
    nothing = RegionQuality(empty(masks_of(10)))
    assert np.isnan(nothing.expected(masks_of(1))).all()


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("telling", [0.0, 0.9])
def test_bounds_hold_as_often_as_they_promise(telling):
    """For cases like those of the calibration; the mean over 20 calibrations of 30 cases, each for 60 new ones."""
    held = []
    for seed in range(20):
        quality, new = RegionQuality(masks_of(30, seed, telling)), masks_of(60, 100 + seed, telling)
        held.append(np.mean(new["dice"] >= quality.bounds(new, 0.9)))
    assert 0.88 <= np.mean(held) <= 0.97  # 28 of 31 ranks: 0.903; ties at 0 and 1 hold as well


def test_a_bound_is_the_rank_of_leaving_cases_out_in_a_loop():
    rows, new = masks_of(12, telling=0.5), masks_of(3, seed=1, telling=0.5)
    found = RegionQuality(rows).bounds(new, 0.8)
    for place, (_, mask) in enumerate(new.iterrows()):
        candidates = []
        for case in range(12):
            others = RegionQuality(rows[rows["case"] != case].reset_index(drop=True))
            own = rows[(rows["case"] == case) & (rows["subset"] == mask["subset"])]
            expected_own, expected = others.expected(own), others.expected(new.iloc[[place]])
            off = (own["dice"].to_numpy() - expected_own) / spread(expected_own)
            candidates.append((expected + spread(expected) * off).item())
        assert found[place] == pytest.approx(max(0.0, sorted(candidates)[int(0.2 * 13) - 1]))
    assert MAX_FOLDS > 12


def test_too_few_cases_promise_nothing():
    new = masks_of(1, seed=1)
    assert (RegionQuality(masks_of(8)).bounds(new, 0.9) == 0).all()
    assert (RegionQuality(masks_of(9)).bounds(new, 0.9) > 0).all()
    assert (RegionQuality(masks_of(1)).bounds(new, 0.5) == 0).all()


def test_an_unknown_subset_is_bound_by_the_worst_of_its_size():
    rows = masks_of(40)
    known, other = masks_of(1, seed=1).head(1), masks_of(1, seed=1).head(1).assign(subset="C")
    quality = RegionQuality(rows)
    assert quality.bounds(other, 0.9)[0] < quality.bounds(known, 0.9)[0] + 0.05


# --- the chance that a region is there --------------------------------------------------------------------------------


def test_the_chance_of_a_region_that_is_always_there_follows_the_rule_of_succession():
    rows = masks_of(10)
    assert RegionQuality(rows).chances(rows.head(1))[0] == pytest.approx(31 / 32)
    assert RegionQuality(rows).chances(empty(rows.head(1)))[0] == pytest.approx(1 / 2)


def test_an_empty_mask_makes_a_region_less_likely():
    rows = masks_of(60, absent=0.4)
    found = pd.concat([rows[rows["is_there"]], empty(rows[~rows["is_there"]])], ignore_index=True)
    quality = RegionQuality(found)
    assert quality.chances(rows.head(1))[0] > 0.8
    assert quality.chances(empty(rows.head(1)))[0] < 0.2
