import math
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from looped_scores import mean, undefined_somewhere
from small_scores import MODALITIES, REGIONS, constant_table, long_table, subset_names

from nnunetv2_missmod.evaluation.gains import (
    contribution,
    contribution_counts,
    gain_counts,
    gains_given,
    modality_pairs,
    shapley_counts,
    shapley_values,
    why_no_shapley_values,
)
from nnunetv2_missmod.evaluation.summary import BETTER, subset_means

pytestmark = pytest.mark.filterwarnings("error")


def goodness(metric, value):
    return {"higher": value, "lower": -value, "zero": -abs(value)}[BETTER[metric]]


# --- gains given what is there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", BETTER)
def test_a_gain_given_a_subset_is_the_mean_difference_within_the_cases_that_have_both_scores(metric):
    table = undefined_somewhere(seed=3)
    gains, counts = gains_given(table, metric), gain_counts(table, metric)
    scores = {(r["case"], r["region"], r["subset"]): goodness(metric, r[metric]) for r in table.to_dict("records")}
    expected_rows = []
    for subset in subset_names():
        for added in (m for m in MODALITIES if m not in subset.split("+")):
            expected_rows.append((subset, added))
            union = "+".join(m for m in MODALITIES if m in (*subset.split("+"), added))
            for region in REGIONS:
                found = [scores[c, region, union] - scores[c, region, subset] for c in table["case"].unique()]
                assert gains.loc[(subset, added), region] == pytest.approx(mean(found), nan_ok=True)
                assert counts.loc[(subset, added), region] == sum(not math.isnan(gain) for gain in found)
    assert list(gains.index) == list(counts.index) == expected_rows
    assert math.isnan(gains.loc[("FLAIR+T2", "T1"), "core"])
    assert counts.loc[("FLAIR+T2", "T1"), "core"] == 0
    assert (gains.index.names, gains.columns.name) == (["subset", "modality"], "region")


def test_a_case_without_the_modality_says_nothing_of_its_gain():
    both = constant_table(lambda _, subset, __: 0.5 + 0.1 * subset.count("+"), cases=1, modalities=("a", "b"))
    alone = constant_table(lambda *_: 0.0, cases=1, modalities=("a",)).assign(case="lacks b")
    table = pd.concat([both, alone])
    assert gains_given(table, "dice").loc[("a", "b")].to_list() == pytest.approx([0.1] * 3)
    assert gain_counts(table, "dice").loc[("a", "b")].to_list() == [1] * 3


def test_only_subsets_that_are_scored_have_a_gain():
    gains = gains_given(long_table(subsets=["FLAIR", "T1", "FLAIR+T1", "FLAIR+T1+T1c+T2"]), "dice")
    assert list(gains.index) == [("FLAIR", "T1"), ("T1", "FLAIR")]
    nothing = gains_given(long_table(modalities=("T1",)), "dice")
    assert (nothing.shape, list(nothing.columns), nothing.index.names) == (
        (0, 3),
        list(REGIONS),
        ["subset", "modality"],
    )


def test_adding_is_named_from_the_subset_that_is_there_and_in_the_order_of_the_channels():
    gains = gains_given(long_table(modalities=("T2", "DWI", "ADC")), "dice")
    assert list(gains.index)[:6] == [
        *(("T2", "DWI"), ("T2", "ADC"), ("DWI", "T2"), ("DWI", "ADC"), ("ADC", "T2"), ("ADC", "DWI"))
    ]


# --- contribution -----------------------------------------------------------------------------------------------------


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
    return contribution_counts(gain_counts(table, metric), table["subset"].unique(), of="fewest")


def most_cases(table, metric):
    return contribution_counts(gain_counts(table, metric), table["subset"].unique(), of="most")


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


# --- Shapley values ---------------------------------------------------------------------------------------------------

FROM_NOTHING = [metric for metric, better in BETTER.items() if better == "higher"]


def looped_shapley(table, metric, region):
    """By the definition: the mean over all orders of what a modality adds to those before it; and of how many cases."""
    rows = table[table["region"] == region]
    modalities = rows["subset"].iloc[-1].split("+")
    scores = {(row["case"], frozenset(row["subset"].split("+"))): row[metric] for row in rows.to_dict("records")}
    subsets = {subset for _, subset in scores}
    cases = [c for c in rows["case"].unique() if not any(math.isnan(scores.get((c, s), math.nan)) for s in subsets)]
    value = {s: sum(scores[case, s] for case in cases) / len(cases) for s in subsets} | {frozenset(): 0.0}
    orders = list(permutations(modalities))
    gains = dict.fromkeys(modalities, 0.0)
    for order in orders:
        for place, modality in enumerate(order):
            before = frozenset(order[:place])
            gains[modality] += (value[before | {modality}] - value[before]) / len(orders)
    return gains, len(cases)


@pytest.mark.parametrize("metric", FROM_NOTHING)
@pytest.mark.parametrize("num_modalities", [1, 2, 3, 4, 5])
def test_a_shapley_value_is_the_mean_gain_over_all_orders(metric, num_modalities):
    table = long_table(cases=6, modalities=tuple("cbaed"[:num_modalities]), undefined=0.01, seed=num_modalities)
    values, counts = shapley_values(table, metric), shapley_counts(table, metric)
    assert (list(values.index), list(values.columns)) == (list("cbaed"[:num_modalities]), list(REGIONS))
    for region in REGIONS:
        expected, cases = looped_shapley(table, metric, region)
        assert values[region].to_dict() == pytest.approx(expected)
        assert counts[region] == cases


def test_shapley_values_add_up_to_the_mean_of_the_full_set():
    table = long_table()
    total = shapley_values(table, "dice").sum()
    assert total.to_dict() == pytest.approx(subset_means(table, "dice").loc["+".join(MODALITIES)].to_dict())


def test_modalities_that_are_worth_the_same_have_the_same_value_and_one_that_adds_nothing_has_none():
    def score(_, subset, region):
        present = set(subset.split("+"))
        return 0.8 * bool(present & {"FLAIR", "T2"}) + 0.1 * ({"FLAIR", "T2"} <= present) + 0.05 * ("T1c" in present)

    values = shapley_values(constant_table(score), "dice")["core"]
    assert values.to_dict() == pytest.approx({"FLAIR": 0.45, "T1": 0.0, "T1c": 0.05, "T2": 0.45})


def test_additive_scores_give_back_what_each_modality_is_worth():
    adds = dict(zip(MODALITIES, (0.1, 0.02, 0.2, 0.04), strict=True))
    table = constant_table(lambda _, subset, __: sum(adds[m] for m in subset.split("+")))
    assert shapley_values(table, "dice")["core"].to_dict() == pytest.approx(adds)


def test_a_case_without_all_scores_has_no_say_in_the_shapley_values_of_that_region_alone():
    table = long_table()
    poorer = table.copy()
    poorer.loc[(poorer["case"] == "case_002") & (poorer["region"] == "core") & (poorer["subset"] == "T1"), "dice"] = (
        np.nan
    )
    without = shapley_values(table[table["case"] != "case_002"], "dice")
    found, counts = shapley_values(poorer, "dice"), shapley_counts(poorer, "dice")
    assert found["core"].to_list() == pytest.approx(without["core"].to_list())
    assert found["whole"].to_list() == pytest.approx(shapley_values(table, "dice")["whole"].to_list())
    assert counts.to_dict() == {"whole": 5, "core": 4, "enhancing": 5}
    dropped = poorer[~((poorer["case"] == "case_002") & (poorer["subset"] == "T1"))]
    assert shapley_counts(dropped, "dice").to_dict() == {"whole": 4, "core": 4, "enhancing": 4}


def test_a_region_without_a_case_of_all_scores_has_no_shapley_values():
    values = shapley_values(undefined_in_core(long_table()), "dice")
    assert values.isna().all().to_dict() == {"whole": False, "core": True, "enhancing": False}


def undefined_in_core(table):
    return table.assign(dice=table["dice"].mask((table["region"] == "core") & (table["subset"] == "T2")))


@pytest.mark.parametrize(
    ("table", "metric", "reason"),
    [
        (long_table(), "hd95", "with no modality at all it is not 0"),
        (long_table(), "volume_error", "with no modality at all it is not 0"),
        (
            long_table(subsets=subset_names()[:4] + subset_names()[-1:]),
            "dice",
            "each of the 15 subsets, and 5 are scored",
        ),
        (long_table(undefined=0.5), "dice", "no case has a score from every subset"),
    ],
)
def test_where_there_are_no_shapley_values_the_reason_is_said(table, metric, reason):
    assert reason in why_no_shapley_values(table, metric)
    with pytest.raises(ValueError, match=f"got {metric}: .*{reason}"):
        shapley_values(table, metric)


def test_where_there_are_shapley_values_there_is_no_reason_against_them():
    assert [why_no_shapley_values(long_table(), metric) for metric in FROM_NOTHING] == [""] * 4


# --- pairs and errors -------------------------------------------------------------------------------------------------


def test_a_contribution_needs_to_know_what_is_better():
    with pytest.raises(ValueError, match=r"num_predicted.*Add it to BETTER"):
        contribution(long_table(), "num_predicted")


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
