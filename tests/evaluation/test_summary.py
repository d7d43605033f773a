import math

import numpy as np
import pandas as pd
import pytest
from looped_scores import looped_curve, looped_means, mean, undefined_somewhere
from small_scores import MODALITIES, REGIONS, constant_table, long_table, subset_names

from nnunetv2_missmod.evaluation.gains import contribution
from nnunetv2_missmod.evaluation.intervals import bootstrap_intervals
from nnunetv2_missmod.evaluation.scores import SEEN
from nnunetv2_missmod.evaluation.summary import (
    BETTER,
    case_counts,
    mean_over_subsets,
    modalities_in,
    robustness_area,
    robustness_curve,
    subset_means,
)

METRICS = [*BETTER, "num_predicted"]


pytestmark = pytest.mark.filterwarnings("error")


# --- means ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_subset_means_are_the_mean_over_cases(metric):
    table = undefined_somewhere()
    means = subset_means(table, metric)
    assert means.shape == (15, 3)
    for (subset, region), expected in looped_means(table, metric).items():
        assert means.loc[subset, region] == pytest.approx(expected, nan_ok=True)


def test_the_counts_are_of_the_cases_with_a_score():
    table = undefined_somewhere()
    counts = case_counts(table, "dice")
    assert counts.shape == (15, 3)
    assert counts.loc["FLAIR+T2", "core"] == 0
    for subset in subset_names():
        for region in REGIONS:
            rows = table[(table["subset"] == subset) & (table["region"] == region)]
            assert counts.loc[subset, region] == sum(not math.isnan(value) for value in rows["dice"])


def test_subset_means_are_in_the_order_of_a_paper():
    means = subset_means(
        long_table().sort_values("region", kind="stable", key=lambda r: r.map(list(REGIONS).index)), "dice"
    )
    assert list(means.index) == subset_names()
    assert list(means.columns) == list(REGIONS)
    unsorted = ("T2", "DWI", "ADC")
    assert list(subset_means(long_table(modalities=unsorted), "dice").index) == subset_names(unsorted)
    assert (means.index.name, means.columns.name) == ("subset", "region")


def test_a_subset_undefined_in_every_case_is_nan_and_left_out_of_the_average():
    table = undefined_somewhere()
    means = subset_means(table, "dice")
    assert math.isnan(means.loc["FLAIR+T2", "core"])
    expected = mean(value for (_, region), value in looped_means(table, "dice").items() if region == "core")
    assert mean_over_subsets(means)["core"] == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_the_robustness_curve_is_the_mean_by_number_of_modalities(metric):
    table = undefined_somewhere(seed=1)
    curve = robustness_curve(subset_means(table, metric))
    assert list(curve.index) == [1, 2, 3, 4]
    for (size, region), expected in looped_curve(table, metric).items():
        assert curve.loc[size, region] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("num_modalities", [1, 2, 3, 4, 5])
def test_the_area_is_the_sum_of_the_curve_with_its_ends_halved(num_modalities):
    table = long_table(modalities=tuple("abcde"[:num_modalities]), undefined=0.1)
    area, normalised = (robustness_area(subset_means(table, "hd95"), n) for n in (False, True))
    curve = looped_curve(table, "hd95")
    for region in REGIONS:
        d = [curve[k, region] for k in range(1, num_modalities + 1)]
        assert area[region] == pytest.approx(d[0] / 2 + sum(d[1:-1]) + d[-1] / 2)
        assert normalised[region] == pytest.approx(area[region] / max(num_modalities - 1, 1))


def test_a_constant_curve_has_its_height_as_normalised_area():
    for modalities in ("a", "ab", "abcd"):
        means = subset_means(constant_table(lambda *_: 0.25, modalities=tuple(modalities)), "dice")
        assert robustness_area(means, normalised=True).to_numpy() == pytest.approx(0.25)


def test_the_area_is_nan_where_a_size_is_undefined():
    table = long_table()
    table.loc[(table["num_present"] == 2) & (table["region"] == "core"), "dice"] = np.nan
    area = robustness_area(subset_means(table, "dice"))
    assert area.isna().to_dict() == {"whole": False, "core": True, "enhancing": False}


def test_a_sample_of_the_subsets_may_lack_some_of_a_size():
    table = long_table(subsets=[*MODALITIES, "FLAIR+T2", "FLAIR+T1+T2", "+".join(MODALITIES)])
    curve = looped_curve(table, "dice")
    area = robustness_area(subset_means(table, "dice"))
    for region in REGIONS:
        d = [curve[k, region] for k in (1, 2, 3, 4)]
        assert area[region] == pytest.approx(d[0] / 2 + d[1] + d[2] + d[3] / 2)


def test_a_chord_spans_the_sizes_that_a_sample_lacks():
    modalities = tuple("abcdef")
    table = constant_table(lambda _, s, __: len(s.split("+")) / 10, modalities=modalities)
    everything = robustness_area(subset_means(table, "dice"))
    sample = table[table["num_present"].isin([1, 2, 6])]
    assert list(robustness_curve(subset_means(sample, "dice")).index) == [1, 2, 6]
    assert robustness_area(subset_means(sample, "dice")).to_numpy() == pytest.approx(everything.to_numpy())


@pytest.mark.parametrize("lacking", [1, 4])
def test_the_area_is_nan_without_the_ends_of_the_curve(lacking):
    table = long_table()
    means = subset_means(table[table["num_present"] != lacking], "dice")
    assert robustness_area(means).isna().all()
    assert mean_over_subsets(means).notna().all()


def test_modalities_are_in_the_order_of_the_full_set():
    assert modalities_in(["FLAIR", "T2", "FLAIR+T1c", "T2+FLAIR+T1c"]) == ["T2", "FLAIR", "T1c"]
    assert modalities_in(["T2", "FLAIR"]) == modalities_in(["FLAIR", "T2"])


# --- invariances ------------------------------------------------------------------------------------------------------


def everything(table, metric):
    means = subset_means(table, metric)
    summaries = [means, robustness_curve(means), contribution(table, metric)]
    averages = [mean_over_subsets(means), robustness_area(means), robustness_area(means, normalised=True)]
    return pd.concat([*summaries, *(series.to_frame().T for series in averages)], ignore_index=True)[list(REGIONS)]


@pytest.mark.parametrize("metric", BETTER)
def test_the_order_of_the_rows_changes_nothing(metric):
    table = undefined_somewhere(seed=4)
    shuffled = table.sample(frac=1, random_state=1)
    assert list(subset_means(shuffled, metric).index) == subset_names()
    pd.testing.assert_frame_equal(everything(table, metric), everything(shuffled, metric), check_exact=True)


def test_the_names_of_the_cases_change_nothing():
    table = undefined_somewhere(seed=5)
    names = {f"case_{i:03d}": name for i, name in enumerate(["z", "b", "y", "a", "m"])}
    pd.testing.assert_frame_equal(
        everything(table, "dice"), everything(table.assign(case=table["case"].map(names)), "dice")
    )


def test_every_case_twice_changes_nothing():
    table = undefined_somewhere(seed=6)
    twice = pd.concat([table, table.assign(case=table["case"] + " again")])
    pd.testing.assert_frame_equal(everything(table, "dice"), everything(twice, "dice"))


def test_a_table_is_not_changed():
    table = undefined_somewhere()
    before = table.copy()
    everything(table, "volume_error")
    bootstrap_intervals(table, "volume_error", resamples=3)
    pd.testing.assert_frame_equal(table, before)


def test_a_row_that_is_missing_is_like_one_that_is_undefined():
    table = long_table()
    undefined = table.assign(dice=table["dice"].mask(table.index % 7 == 3))
    pd.testing.assert_frame_equal(everything(undefined, "dice"), everything(undefined.dropna(subset="dice"), "dice"))


def test_every_metric_says_what_is_better():
    assert set(BETTER) == set(long_table().select_dtypes("float").columns) - set(SEEN)
    assert {metric for metric, better in BETTER.items() if better != "higher"} == {"hd95", "volume_error"}


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["dcie", "case", "num_present"])
def test_an_unknown_metric_names_the_known_ones(metric):
    with pytest.raises(ValueError, match=f"dice, hd95, nsd.*got '{metric}'"):
        subset_means(long_table(), metric)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda table: table.drop(columns="region"), r"without \['region'\]"),
        (lambda table: table.iloc[:0], "got 0 rows"),
        (lambda table: pd.concat([table, table.iloc[3:4]]), "second one for .*case_000.*T1.*whole"),
        (lambda table: table.assign(dice=np.inf), "finite"),
        (lambda table: table.replace({"subset": {"T1c": "T1+Gd"}}), r"'T1\+Gd' with num_present 1"),
    ],
    ids=["lacks a column", "is empty", "has a row twice", "is infinite", "has a plus in a name"],
)
def test_a_broken_table_is_an_error_that_says_what_came(broken, message):
    with pytest.raises(ValueError, match=message):
        subset_means(broken(long_table()), "dice")
