"""Means that compare subsets rest on the cases that have all of them, against plain loops."""

import numpy as np
import pandas as pd
import pytest
from looped_scores import looped_curve, looped_means, mean
from small_scores import REGIONS, constant_table, long_table

from nnunetv2_missmod.evaluation.complete_cases import Cases, cases_of_subsets, on_complete_cases
from nnunetv2_missmod.evaluation.summary import mean_over_subsets, robustness_area, robustness_curve, subset_means

pytestmark = pytest.mark.filterwarnings("error")


def lacking(table, case, modality):
    """The table without the rows of a case that need a modality."""
    return table[~((table["case"] == case) & table["subset"].str.split("+").map(lambda names: modality in names))]


@pytest.mark.parametrize("metric", ["dice", "hd95"])
def test_curve_area_and_mean_are_over_the_cases_that_have_every_subset(metric):
    table = lacking(lacking(long_table(cases=6, undefined=0.1, seed=1), "case_001", "T1c"), "case_004", "T1")
    complete = on_complete_cases(table)
    rows = table[~table["case"].isin(["case_001", "case_004"])]
    assert complete.same_cases
    means = subset_means(complete.table, metric)
    for region in REGIONS:
        d = [looped_curve(rows, metric)[k, region] for k in (1, 2, 3, 4)]
        assert robustness_curve(means)[region].to_list() == pytest.approx(d)
        assert robustness_area(means)[region] == pytest.approx(d[0] / 2 + d[1] + d[2] + d[3] / 2)
        of_subsets = {subset: value for (subset, where), value in looped_means(rows, metric).items() if where == region}
        assert mean_over_subsets(means)[region] == pytest.approx(mean(of_subsets.values()))
        defined = rows[(rows["region"] == region) & rows[metric].notna()]
        counts = [(defined["subset"] == subset).sum() for subset in of_subsets]
        assert cases_of_subsets(complete, metric)[region] == Cases(min(counts), max(counts))


def test_a_case_that_lacks_a_modality_does_not_bend_the_curve():
    """Every case is the same with one modality as with four; the one that lacks T1c is a hard one."""
    table = lacking(constant_table(lambda case, *_: 0.2 if case == "case_000" else 0.8, cases=3), "case_000", "T1c")
    complete = on_complete_cases(table)
    assert robustness_curve(subset_means(complete.table, "dice")).to_numpy() == pytest.approx(0.8)
    assert robustness_curve(subset_means(table, "dice")).loc[1, "core"] < 0.7


def test_where_no_case_has_every_subset_all_stay_and_it_is_said():
    table = lacking(lacking(long_table(cases=2), "case_000", "T1"), "case_001", "T2")
    complete = on_complete_cases(table)
    pd.testing.assert_frame_equal(complete.table, table)
    assert not complete.same_cases
    assert cases_of_subsets(complete, "dice")["core"] == Cases(1, 2, same=False)


def test_it_is_said_even_where_every_subset_has_as_many_cases():
    table = lacking(lacking(long_table(cases=2, modalities=("a", "b")), "case_000", "a"), "case_001", "b")
    assert cases_of_subsets(on_complete_cases(table), "dice")["core"] == Cases(1, 1, same=False)


def test_an_undefined_score_leaves_its_case_in_and_is_counted():
    """A false positive on an empty region scores 0: a subset that finds nothing there must not take it away."""
    table = long_table(cases=3)
    gone = (table["case"] == "case_001") & (table["subset"] == "T1+T2") & (table["region"] == "core")
    complete = on_complete_cases(table.assign(dice=table["dice"].mask(gone)))
    assert complete.same_cases
    assert cases_of_subsets(complete, "dice") == {"whole": Cases(3, 3), "core": Cases(2, 3), "enhancing": Cases(3, 3)}


def test_a_subset_that_is_undefined_everywhere_is_not_counted():
    table = long_table(cases=3)
    complete = on_complete_cases(table.assign(dice=table["dice"].mask(table["subset"] == "T1")))
    assert set(cases_of_subsets(complete, "dice").values()) == {Cases(3, 3)}


def test_a_region_without_any_score_rests_on_no_case():
    table = long_table(cases=3)
    complete = on_complete_cases(table.assign(dice=table["dice"].mask(table["region"] == "core")))
    assert cases_of_subsets(complete, "dice")["core"] == Cases(0, 0)


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
