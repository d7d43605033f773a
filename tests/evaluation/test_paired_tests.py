import math
import subprocess
import sys
from collections import defaultdict
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon
from small_scores import REGIONS, constant_table, long_table, subset_names

from nnunetv2_missmod.evaluation.paired_tests import (
    ALL_SUBSETS,
    COMPARISON,
    check_comparable,
    compare,
    holm,
)
from nnunetv2_missmod.evaluation.summary import BETTER

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error")]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def three_models(cases=12, undefined=0.1):
    return {name: long_table(cases=cases, undefined=undefined, seed=seed) for seed, name in enumerate("abc")}


def looped_differences(a, b, metric, subsets):
    """a - b by region and case, in plain Python: mean over the subsets in which both have a score."""
    magnitude = abs if BETTER[metric] == "zero" else float
    scores = [
        {(row["case"], row["subset"], row["region"]): magnitude(row[metric]) for row in table.to_dict("records")}
        for table in (a, b)
    ]
    gathered = defaultdict(lambda: defaultdict(list))
    for key in scores[0].keys() & scores[1].keys():
        case, subset, region = key
        difference = scores[0][key] - scores[1][key]
        if subset in subsets and not math.isnan(difference):
            gathered[region][case].append(difference)
    by_region = {region: {case: mean(d) for case, d in cases.items()} for region, cases in gathered.items()}
    return by_region


def looped_holm(p_values):
    """Reject in order while p <= alpha / (hypotheses left): the smallest such alpha, by its definition."""
    defined = sorted(p for p in p_values if not math.isnan(p))
    return [
        math.nan if math.isnan(p) else min(1.0, max((len(defined) - i) * q for i, q in enumerate(defined) if q <= p))
        for p in p_values
    ]


# --- the test ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "per_subset"), [*((metric, False) for metric in BETTER), ("hd95", True), ("volume_error", True)]
)
def test_every_row_is_wilcoxons_test_on_the_means_by_case(metric, per_subset):
    cases = 12 if per_subset else 20
    models = three_models(cases)
    result = compare(models, metric, per_subset)
    subsets = {name: [name] for name in subset_names()} if per_subset else {ALL_SUBSETS: subset_names()}
    assert len(result) == 3 * 3 * len(subsets)
    assert list(result.columns) == list(COMPARISON)
    by_region = {
        (a, b, name): looped_differences(models[a], models[b], metric, of_name)
        for a, b in combinations(models, 2)
        for name, of_name in subsets.items()
    }
    for row in result.to_dict("records"):
        differences = list(by_region[row["model_a"], row["model_b"], row["subset"]][row["region"]].values())
        assert row["pairs"] == len(differences)
        assert row["left_out"] == cases - len(differences)
        assert row["median_difference"] == pytest.approx(np.median(differences))
        assert row["p"] == pytest.approx(wilcoxon(differences).pvalue)
        assert row["smallest_p"] == pytest.approx(wilcoxon(range(1, len(differences) + 1)).pvalue)
        favoured = row["model_a"] if (row["median_difference"] > 0) == (BETTER[metric] == "higher") else row["model_b"]
        assert row["better"] == (favoured if row["p_holm"] < 0.05 else "")
    for p in ("p", "smallest_p"):
        corrected = result[{"p": "p_holm", "smallest_p": "smallest_p_holm"}[p]]
        assert corrected.to_list() == pytest.approx(looped_holm(result[p].to_list()))


def test_rows_are_every_two_models_by_region():
    rows = compare(three_models(), "dice")
    expected = [(*pair, region, ALL_SUBSETS) for pair in combinations("abc", 2) for region in REGIONS]
    found = rows[["model_a", "model_b", "region", "subset"]]
    assert list(found.itertuples(index=False, name=None)) == expected


def test_against_a_reference_the_family_is_smaller():
    models = three_models()
    rows, every_two = compare(models, "dice", reference="b"), compare(models, "dice")
    assert list(rows[["model_a", "model_b"]].drop_duplicates().itertuples(index=False, name=None)) == [
        ("a", "b"),
        ("c", "b"),
    ]
    assert rows["p_holm"].to_list() == pytest.approx(looped_holm(rows["p"].to_list()))
    assert rows["p"].iloc[:3].to_list() == pytest.approx(every_two["p"].iloc[:3].to_list())
    assert (rows["smallest_p_holm"] == 6 * 2 / 2**12).all()
    assert (every_two["smallest_p_holm"] == 9 * 2 / 2**12).all()


def test_a_reference_that_is_no_model_is_an_error_that_names_them():
    with pytest.raises(ValueError, match="one of the models a, b, c, got 'd'"):
        compare(three_models(), "dice", reference="d")


@pytest.mark.parametrize(("cases", "better"), [(6, ""), (7, "better")])
def test_cases_that_all_improve_have_the_smallest_p_and_a_better_model_if_it_is_significant(cases, better):
    base = long_table(cases=cases)
    gain = base["case"].str[-1].astype(int) + 1
    rows = compare({"base": base, "better": base.assign(dice=base["dice"] + gain / 100)}, "dice")
    for p, of_six in (("p", 2 / 2**cases), ("p_holm", 3 * 2 / 2**cases)):
        assert rows[p].to_list() == rows[f"smallest_{p}"].to_list() == pytest.approx([of_six] * 3)
    assert rows["median_difference"].to_list() == pytest.approx([-(cases + 1) / 200] * 3)
    assert set(rows["better"]) == {better}


@pytest.mark.parametrize(("metric", "scale"), [("dice", 1.1), ("hd95", 0.9), ("volume_error", 0.9)])
def test_the_better_model_is_the_one_that_the_metric_favours(metric, scale):
    table = long_table(cases=7)
    rows = compare({"good": table.assign(**{metric: table[metric] * scale}), "bad": table}, metric)
    assert set(rows["better"]) == {"good"}
    assert ((rows["median_difference"] > 0) == (metric == "dice")).all()


def test_swapping_the_models_swaps_the_sign_alone():
    a, b, _ = three_models().values()
    rows, swapped = compare({"a": a, "b": b}, "dice"), compare({"b": b, "a": a}, "dice")
    pd.testing.assert_series_equal(rows["median_difference"], -swapped["median_difference"])
    pd.testing.assert_frame_equal(rows[["p", "p_holm", "better", "pairs"]], swapped[["p", "p_holm", "better", "pairs"]])


def test_the_order_of_the_rows_and_the_names_of_the_cases_change_nothing():
    models = three_models()
    names = {f"case_{i:03d}": f"{(7 * i) % 12:02d}" for i in range(12)}
    changed = {
        name: table.sample(frac=1, random_state=i).assign(case=lambda t: t["case"].map(names))
        for i, (name, table) in enumerate(models.items())
    }
    for per_subset in (False, True):
        rows, same = (
            compare(m, "hd95", per_subset).set_index(["model_a", "model_b", "region", "subset"])
            for m in (models, changed)
        )
        pd.testing.assert_frame_equal(rows, same.reindex(rows.index))


# --- what is left out -------------------------------------------------------------------------------------------------


def test_cases_missing_in_one_model_are_left_out_and_counted():
    a, b, _ = three_models(undefined=0).values()
    fewer_a, fewer_b = a[a["case"] != "case_003"], b[~b["case"].isin(["case_000", "case_005"])]
    rows = compare({"a": fewer_a, "b": fewer_b}, "dice")
    assert rows["pairs"].to_list() == [9] * 3
    assert rows["left_out"].to_list() == [3] * 3
    both = set(fewer_a["case"]) & set(fewer_b["case"])
    common = compare({"a": a[a["case"].isin(both)], "b": b[b["case"].isin(both)]}, "dice")
    pd.testing.assert_frame_equal(rows.drop(columns="left_out"), common.drop(columns="left_out"))


def test_a_score_undefined_in_one_model_counts_in_neither():
    a, b, _ = three_models(undefined=0).values()
    gone = (a["subset"] == "T1") & (a["case"] == "case_001")
    rows = compare({"a": a.assign(dice=a["dice"].mask(gone)), "b": b}, "dice")
    without = compare({"a": a[~gone], "b": b[~gone]}, "dice")
    pd.testing.assert_frame_equal(rows, without)


def test_a_case_undefined_in_a_region_is_left_out_of_that_region():
    a, b, _ = three_models(undefined=0).values()
    gone = (a["region"] == "enhancing") & (a["case"] == "case_001")
    rows = compare({"a": a.assign(dice=a["dice"].mask(gone)), "b": b}, "dice").set_index("region")
    assert rows["left_out"].to_dict() == {"whole": 0, "core": 0, "enhancing": 1}


def test_models_on_different_samples_of_the_subsets_are_compared_on_the_common_ones():
    a, b, _ = three_models().values()
    rows = compare({"a": a[a["subset"] != "T1"], "b": b[b["subset"] != "FLAIR+T2"]}, "dice")
    common = [table[~table["subset"].isin(["T1", "FLAIR+T2"])] for table in (a, b)]
    pd.testing.assert_frame_equal(rows, compare(dict(zip("ab", common, strict=True)), "dice"))


# --- degenerate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cases", [1, 2, 5])
def test_too_few_pairs_have_no_p(cases):
    rows = compare(three_models(cases=cases, undefined=0), "dice")
    assert rows[["p", "p_holm", "smallest_p", "smallest_p_holm"]].isna().all(axis=None)
    assert rows["median_difference"].notna().all()
    assert (rows["pairs"] == cases).all()


def test_a_model_against_itself_has_no_p_and_no_better_one():
    table = long_table(cases=30, undefined=0.2)
    rows = compare({"one": table, "again": table.sample(frac=1, random_state=0)}, "dice")
    assert rows["p"].isna().all()
    assert (rows["median_difference"] == 0).all()
    assert (rows["better"] == "").all()


def test_a_region_undefined_everywhere_has_no_pairs():
    models = {
        name: table.assign(dice=table["dice"].mask(table["region"] == "core"))
        for name, table in three_models(undefined=0).items()
    }
    rows = compare(models, "dice").set_index("region")
    assert (rows.loc["core", "pairs"] == 0).all()
    assert rows.loc["core", ["p", "p_holm", "median_difference"]].isna().all(axis=None)
    assert rows.loc["whole", "p_holm"].notna().all()


def test_a_single_model_has_nothing_to_be_compared_with():
    rows = compare({"alone": long_table()}, "dice")
    assert rows.empty
    assert list(rows.columns) == list(COMPARISON)


def test_one_modality_can_be_compared():
    models = {name: long_table(cases=9, modalities=("T1",), seed=i) for i, name in enumerate("ab")}
    assert compare(models, "dice")["p"].notna().all()


def test_differences_alike_up_to_rounding_are_ties():
    base = constant_table(lambda *_: 0.1, cases=6)
    other = constant_table(lambda *_: 0.3 - 0.2, cases=6)
    assert base["dice"].iloc[0] != other["dice"].iloc[0]
    assert compare({"a": base, "b": other}, "dice")["p"].isna().all()


# --- Holm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.01, math.nan, 0.02], [0.02, math.nan, 0.02]),
        ([0.5, 0.6, 0.7], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.03], [0.03]),
        ([math.nan], [math.nan]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values, expected):
    assert holm(np.array(p_values)).tolist() == pytest.approx(expected, nan_ok=True)


def test_holm_is_its_definition_whatever_the_order():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p_values = rng.uniform(0, 0.2, 10).round(2)
        p_values[rng.integers(10)] = np.nan
        order = rng.permutation(10)
        np.testing.assert_allclose(holm(p_values), looped_holm(p_values.tolist()))
        np.testing.assert_array_equal(holm(p_values)[order], holm(p_values[order]))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (long_table(modalities=("FLAIR", "T1")), r"same modalities, got .*'T2'\] in a and \['FLAIR', 'T1'\] in b"),
        (long_table(modalities=("T1", "FLAIR", "T1c", "T2")), r"same order of modalities.*T1\+FLAIR"),
        (long_table(regions=("whole", "core")), r"same regions, got .*\['core', 'whole'\] in b"),
        (long_table().assign(case="someone else").drop_duplicates(["case", "subset", "region"]), "common cases, got"),
    ],
    ids=["modalities", "order of modalities", "regions", "cases"],
)
def test_models_that_differ_cannot_be_compared(other, message):
    with pytest.raises(ValueError, match=message):
        compare({"a": long_table(), "b": other}, "dice")


def test_models_without_a_common_subset_cannot_be_compared():
    halves = [["FLAIR", "T1"], ["FLAIR+T1"]]
    models = {name: long_table(modalities=("FLAIR", "T1"), subsets=s) for name, s in zip("ab", halves, strict=True)}
    with pytest.raises(ValueError, match=r"common subsets, got none in a \(FLAIR, T1\) and b \(FLAIR\+T1\)"):
        check_comparable(models, "dice")


def test_a_comparison_needs_a_known_metric():
    with pytest.raises(ValueError, match="num_predicted"):
        compare({"a": long_table(), "b": long_table()}, "num_predicted")
    with pytest.raises(ValueError, match="got 'dice'"):
        compare({"a": long_table().drop(columns="dice"), "b": long_table()}, "dice")


def test_comparing_loads_no_network():
    code = (
        "import sys, nnunetv2_missmod.evaluation.paired_tests\n"
        "assert not {'torch', 'nnunetv2', 'monai'} & {name.split('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
