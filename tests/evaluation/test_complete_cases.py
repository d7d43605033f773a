"""Means that compare subsets rest on the cases that have all of them, against plain loops."""

import math

import numpy as np
import pandas as pd
import pytest
from looped_scores import looped_curve, looped_means, mean
from small_scores import REGIONS, constant_table, long_table, subset_names

from nnunetv2_missmod.evaluation.complete_cases import Cases, cases_of_subsets, on_complete_cases
from nnunetv2_missmod.evaluation.intervals import bootstrap_intervals
from nnunetv2_missmod.evaluation.summary import mean_over_subsets, robustness_area, robustness_curve, subset_means

pytestmark = pytest.mark.filterwarnings("error")


def lacking(table, case, modality):
    """The table without the rows of a case that need a modality."""
    return table[~((table["case"] == case) & table["subset"].str.split("+").map(lambda names: modality in names))]


def looped_complete(tables, metric, region):
    """Cases with a score in every subset, of every model, that any case has a score in."""
    kept = set(tables[0]["case"])
    for table in tables:
        rows = [row for row in table.to_dict("records") if row["region"] == region and not math.isnan(row[metric])]
        used = {row["subset"] for row in rows}
        for case in set(kept):
            if {row["subset"] for row in rows if row["case"] == case} != used:
                kept.discard(case)
    return kept


@pytest.mark.parametrize("metric", ["dice", "hd95"])
def test_curve_area_and_mean_are_over_the_cases_that_have_every_subset(metric):
    table = lacking(lacking(long_table(cases=6, undefined=0.004, seed=1), "case_001", "T1c"), "case_004", "T1")
    (complete,), same_cases = on_complete_cases([table], metric)
    assert same_cases.all()
    means = subset_means(complete, metric)
    for region in REGIONS:
        kept = looped_complete([table], metric, region)
        assert 0 < len(kept) < 6
        rows = table[table["case"].isin(kept)]
        d = [looped_curve(rows, metric)[k, region] for k in (1, 2, 3, 4)]
        assert robustness_curve(means)[region].to_list() == pytest.approx(d)
        assert robustness_area(means)[region] == pytest.approx(d[0] / 2 + d[1] + d[2] + d[3] / 2)
        expected = mean(value for (_, where), value in looped_means(rows, metric).items() if where == region)
        assert mean_over_subsets(means)[region] == pytest.approx(expected)
        assert cases_of_subsets(complete, metric, same_cases)[region] == Cases(len(kept), len(kept))


def test_a_case_that_lacks_a_modality_does_not_bend_the_curve():
    """Every case is the same with one modality as with four; the one that lacks T1c is a hard one."""
    table = lacking(constant_table(lambda case, *_: 0.2 if case == "case_000" else 0.8, cases=3), "case_000", "T1c")
    (complete,), _ = on_complete_cases([table], "dice")
    assert robustness_curve(subset_means(complete, "dice")).to_numpy() == pytest.approx(0.8)
    assert robustness_curve(subset_means(table, "dice")).loc[1, "core"] < 0.7


def test_where_no_case_has_every_subset_all_stay_and_it_is_said():
    table = lacking(lacking(long_table(cases=2), "case_000", "T1"), "case_001", "T2")
    (complete,), same_cases = on_complete_cases([table], "dice")
    pd.testing.assert_frame_equal(complete, table)
    assert not same_cases.any()
    assert cases_of_subsets(complete, "dice", same_cases)["core"] == Cases(1, 2, same=False)


def test_it_is_said_even_where_every_subset_has_as_many_cases():
    both = lacking(lacking(long_table(cases=2, modalities=("a", "b")), "case_000", "a"), "case_001", "b")
    (complete,), same_cases = on_complete_cases([both], "dice")
    assert cases_of_subsets(complete, "dice", same_cases)["core"] == Cases(1, 1, same=False)


def test_an_undefined_score_leaves_its_case_out_of_that_region_alone():
    table = long_table(cases=3)
    gone = (table["case"] == "case_001") & (table["subset"] == "T1+T2") & (table["region"] == "core")
    (complete,), same_cases = on_complete_cases([table.assign(dice=table["dice"].mask(gone))], "dice")
    cases = cases_of_subsets(complete, "dice", same_cases)
    assert cases == {"whole": Cases(3, 3), "core": Cases(2, 2), "enhancing": Cases(3, 3)}


def test_a_subset_that_no_case_has_a_score_of_asks_for_nothing():
    table = long_table(cases=3)
    nowhere = table.assign(dice=table["dice"].mask(table["subset"] == "T1"))
    (complete,), same_cases = on_complete_cases([nowhere], "dice")
    pd.testing.assert_frame_equal(complete, nowhere)
    assert same_cases.all()
    assert set(cases_of_subsets(complete, "dice", same_cases).values()) == {Cases(3, 3)}


def test_a_region_without_any_score_rests_on_no_case():
    table = long_table(cases=3)
    table["dice"] = table["dice"].mask(table["region"] == "core")
    (complete,), same_cases = on_complete_cases([table], "dice")
    assert cases_of_subsets(complete, "dice", same_cases)["core"] == Cases(0, 0)
    assert subset_means(complete, "dice")["core"].isna().all()


def test_models_are_left_with_the_cases_that_all_of_them_have_every_score_of():
    tables = [long_table(cases=8, undefined=0.02, seed=seed) for seed in range(2)]
    left, same_cases = on_complete_cases(tables, "hd95")
    assert same_cases.all()
    for region in REGIONS:
        kept = looped_complete(tables, "hd95", region)
        assert 0 < len(kept) < 8
        for table in left:
            rows = table[(table["region"] == region) & table["hd95"].notna()]
            assert set(rows["case"]) == kept


def test_the_interval_is_that_of_the_complete_cases_alone():
    table = lacking(lacking(long_table(cases=7), "case_002", "T1"), "case_006", "T2")
    (complete,), _ = on_complete_cases([table], "dice")
    alone = table[~table["case"].isin(["case_002", "case_006"])]
    pd.testing.assert_frame_equal(
        bootstrap_intervals(complete, "dice", robustness_area, resamples=50),
        bootstrap_intervals(alone, "dice", robustness_area, resamples=50),
    )


def test_tables_and_their_order_are_not_changed():
    table = long_table(undefined=0.1).sample(frac=1, random_state=0)
    before = table.copy()
    (complete,), _ = on_complete_cases([table], "dice")
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_frame_equal(complete.drop(columns="dice"), before.drop(columns="dice"))
    assert set(subset_means(complete, "dice").index) == set(subset_names())


@pytest.mark.parametrize(
    ("cases", "text", "words"),
    [
        (Cases(5, 5), "5", "5 cases"),
        (Cases(1, 1), "1", "1 case"),
        (Cases(0, 0), "0", "0 cases"),
        (Cases(3, 5), "3–5", "3–5 cases"),
        (Cases(3, 5, same=False), "3–5", "3–5 cases, different ones by subset"),
    ],
)
def test_how_a_number_of_cases_is_printed(cases, text, words):
    assert (cases.text, cases.in_words) == (text, words)
    assert cases.mark == ("" if cases.same else "†")


def test_several_values_rest_on_the_fewest_and_the_most():
    assert Cases.together([Cases(3, 4), Cases(2, 2), Cases(5, 5, same=False)]) == Cases(2, 5, same=False)
    assert Cases.together([Cases(np.int64(3), 3)]).text == "3"
