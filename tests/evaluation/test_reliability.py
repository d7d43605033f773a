import math

import numpy as np
import pandas as pd
import pytest
from small_scores import REGIONS, calibration_table, subset_names

from nnunetv2_missmod.evaluation.reliability import agreement, coverage, reliability_bins

pytestmark = pytest.mark.filterwarnings("error")


def undefined_somewhere():
    """Some masks have no true Dice, and of some nothing was foreseen."""
    table = calibration_table(cases=6)
    rng = np.random.default_rng(7)
    for column in ("dice", "expected_dice", "bound", "subset_mean"):
        table[column] = table[column].mask(rng.uniform(size=len(table)) < 0.1)
    return table


def rows_of(table, region, *columns):
    rows = [row for row in table.to_dict("records") if row["region"] == region]
    return [row for row in rows if not any(math.isnan(row[column]) for column in columns)]


def mean(values):
    return sum(values) / len(values)


def test_coverage_is_the_share_of_the_masks_that_reach_the_bound():
    table = undefined_somewhere()
    found = coverage(table)
    assert list(found.index) == [(region, size) for region in REGIONS for size in (1, 2, 3, 4, "all")]
    for (region, size), row in found.iterrows():
        rows = [r for r in rows_of(table, region, "dice", "bound") if size in (r["num_present"], "all")]
        assert row["share"] == pytest.approx(mean([r["dice"] >= r["bound"] for r in rows]))
        assert (row["masks"], row["cases"]) == (len(rows), len({r["case"] for r in rows}))


def test_a_dice_on_the_bound_reaches_it():
    table = calibration_table(cases=2).assign(dice=0.5, bound=0.5)
    assert (coverage(table)["share"] == 1).all()
    assert (coverage(table.assign(dice=0.4999))["share"] == 0).all()


def test_without_a_true_dice_there_is_no_coverage():
    found = coverage(calibration_table(cases=2).assign(dice=math.nan))
    assert found["share"].isna().all()
    assert (found[["masks", "cases"]] == 0).all(axis=None)


def test_the_errors_are_over_the_same_masks_and_the_correlation_is_within_the_subsets():
    table = undefined_somewhere()
    found = agreement(table)
    assert list(found.index) == list(REGIONS)
    for region in REGIONS:
        rows = rows_of(table, region, "dice", "expected_dice", "subset_mean")
        assert found.loc[region, "error"] == pytest.approx(mean([abs(r["expected_dice"] - r["dice"]) for r in rows]))
        assert found.loc[region, "naive_error"] == pytest.approx(
            mean([abs(r["subset_mean"] - r["dice"]) for r in rows])
        )
        assert (found.loc[region, "masks"], found.loc[region, "cases"]) == (len(rows), len({r["case"] for r in rows}))
        expected, true = [], []
        for subset in subset_names():
            of_subset = [r for r in rows if r["subset"] == subset]
            for values, column in ((expected, "expected_dice"), (true, "dice")):
                middle = mean([r[column] for r in of_subset]) if of_subset else 0
                values += [r[column] - middle for r in of_subset]
        assert found.loc[region, "correlation"] == pytest.approx(np.corrcoef(expected, true)[0, 1])


def test_a_rule_that_knows_the_subset_alone_has_no_correlation_within_it():
    table = calibration_table(cases=8)
    means = table.groupby(["subset", "region"])["dice"].transform("mean")
    assert agreement(table.assign(expected_dice=means))["correlation"].isna().all()
    assert agreement(table.assign(expected_dice=table["dice"]))["correlation"].to_list() == pytest.approx([1] * 3)


def test_without_a_true_dice_there_is_no_agreement():
    found = agreement(calibration_table(cases=2).assign(dice=math.nan))
    assert found[["correlation", "error", "naive_error"]].isna().all(axis=None)
    assert (found[["masks", "cases"]] == 0).all(axis=None)


def test_a_bin_has_the_means_of_what_was_expected_and_is_true():
    expected = [0.0, 0.05, 0.1, 0.19, 0.95, 1.0, math.nan, 0.5]
    true = [0.2, 0.4, 0.1, 0.3, 0.9, 0.7, 0.5, math.nan]
    found = reliability_bins(pd.DataFrame({"expected_dice": expected, "dice": true}))
    assert found["expected_dice"].to_list() == pytest.approx([0.025, 0.145, 0.975])
    assert found["dice"].to_list() == pytest.approx([0.3, 0.2, 0.8])
    assert found["masks"].to_list() == [2, 2, 2]


def test_nothing_has_no_bins():
    assert reliability_bins(calibration_table(cases=1).assign(dice=math.nan)).empty
