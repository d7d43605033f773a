import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from looped_scores import looped_curve, looped_means, mean, undefined_somewhere
from small_scores import MODALITIES, REGIONS, constant_table, long_table, subset_names

from nnunetv2_missmod.evaluation.intervals import bootstrap_intervals
from nnunetv2_missmod.evaluation.summary import (
    BETTER,
    case_counts,
    contribution,
    contribution_counts,
    mean_over_subsets,
    modalities_in,
    modality_pairs,
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


# --- contribution -----------------------------------------------------------------------------------------------------


def goodness(metric, value):
    return {"higher": value, "lower": -value, "zero": -abs(value)}[BETTER[metric]]


def looped_gains(table, metric, modality, region):
    """The gains of the cases that have both scores, a list for each pair of subsets with such a case."""
    scores = {
        (row["case"], frozenset(row["subset"].split("+"))): goodness(metric, row[metric])
        for row in table[table["region"] == region].to_dict("records")
    }
    for without in {subset for _, subset in scores if modality not in subset}:
        pairs = [
            (scores[case, without], scores[case, without | {modality}])
            for case in sorted({case for case, _ in scores})
            if (case, without) in scores and (case, without | {modality}) in scores
        ]
        gains = [after - before for before, after in pairs if not math.isnan(after - before)]
        if gains:
            yield gains


@pytest.mark.parametrize("metric", BETTER)
def test_the_contribution_is_the_mean_over_pairs_of_subsets_of_the_gain_within_a_case(metric):
    table = undefined_somewhere(seed=2)
    gains, fewest, most = (f(table, metric) for f in (contribution, fewest_cases, most_cases))
    assert list(gains.index) == list(fewest.index) == list(most.index) == list(MODALITIES)
    for modality in MODALITIES:
        for region in REGIONS:
            by_pair = list(looped_gains(table, metric, modality, region))
            expected = mean(sum(of_pair) / len(of_pair) for of_pair in by_pair)
            assert gains.loc[modality, region] == pytest.approx(expected)
            assert fewest.loc[modality, region] == min(map(len, by_pair))
            assert most.loc[modality, region] == max(map(len, by_pair))


def fewest_cases(table, metric):
    return contribution_counts(table, metric, of="fewest")


def most_cases(table, metric):
    return contribution_counts(table, metric, of="most")


def test_a_modality_that_harms_the_one_case_that_has_it_is_no_gain():
    """The case that lacks T1c is hard, so that over all cases the subsets with T1c look better."""
    hard, easy = (
        constant_table(lambda _, subset, __, dice=dice: dice - 0.06 * ("T1c" in subset.split("+")), cases=1)
        for dice in (0.4, 0.9)
    )
    lacks_t1c = hard[~hard["subset"].str.contains("T1c")].assign(case="lacks T1c")
    table = pd.concat([easy, lacks_t1c])
    assert subset_means(table, "dice").loc["FLAIR+T1c", "core"] > subset_means(table, "dice").loc["FLAIR", "core"]
    assert contribution(table, "dice").loc["T1c"].to_list() == pytest.approx([-0.06] * 3)
    assert (fewest_cases(table, "dice")["core"].to_dict(), most_cases(table, "dice")["core"].to_dict()) == (
        {"FLAIR": 1, "T1": 1, "T1c": 1, "T2": 1},
        {"FLAIR": 2, "T1": 2, "T1c": 1, "T2": 2},
    )


def test_additive_scores_give_back_what_each_modality_adds():
    adds = dict(zip(MODALITIES, (0.1, 0.02, 0.2, 0.04), strict=True))
    table = constant_table(lambda _, subset, __: sum(adds[m] for m in subset.split("+")))
    assert contribution(table, "dice")["core"].to_dict() == pytest.approx(adds)
    worse = table.assign(hd95=table["dice"], volume_error=-table["dice"])
    for metric in ("hd95", "volume_error"):
        assert contribution(worse, metric)["core"].to_dict() == pytest.approx({m: -gain for m, gain in adds.items()})


def test_every_modality_has_as_many_pairs_as_there_are_non_empty_subsets_of_the_others():
    pairs = modality_pairs(subset_names())
    assert {modality: len(p) for modality, p in pairs.items()} == dict.fromkeys(MODALITIES, 7)
    assert ("T1+T2", "T1+T1c+T2") in pairs["T1c"]


def test_a_modality_without_a_pair_has_no_contribution():
    gains = contribution(long_table(subsets=["FLAIR", "T1", "FLAIR+T1", "FLAIR+T1+T1c+T2"]), "dice")
    assert gains.notna().all(axis=1).to_dict() == {"FLAIR": True, "T1": True, "T1c": False, "T2": False}
    alone = contribution(long_table(modalities=("T1",)), "dice")
    assert list(alone.index) == ["T1"]
    assert alone.isna().all(axis=None)
    assert (most_cases(long_table(modalities=("T1",)), "dice") == 0).all(axis=None)


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
    assert set(BETTER) == set(long_table().select_dtypes("float").columns)
    assert {metric for metric, better in BETTER.items() if better != "higher"} == {"hd95", "volume_error"}


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["dcie", "case", "num_present"])
def test_an_unknown_metric_names_the_known_ones(metric):
    with pytest.raises(ValueError, match=f"dice, hd95, nsd.*got '{metric}'"):
        subset_means(long_table(), metric)


def test_a_contribution_needs_to_know_what_is_better():
    with pytest.raises(ValueError, match=r"num_predicted.*Add it to BETTER"):
        contribution(long_table(), "num_predicted")


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


def test_pairs_of_subsets_come_from_the_table_alone():
    rng = np.random.default_rng(0)
    for _ in range(20):
        names = list(rng.permutation(subset_names())[: rng.integers(1, 15)])
        found = {(a, b) for pairs in modality_pairs(names).values() for a, b in pairs}
        expected = {
            tuple(sorted((a, b), key=len))
            for a, b in combinations(names, 2)
            if len(set(a.split("+")) ^ set(b.split("+"))) == 1
        }
        assert found == expected
