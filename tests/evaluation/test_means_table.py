from math import isnan, nan

import pandas as pd
import pytest
from small_scores import provenance

from nnunetv2_missmod.evaluation.means_table import print_means
from nnunetv2_missmod.evaluation.scores import RegionScores, Scores, case_table

SUBSETS = {"T1": ["T1"], "T1c": ["T1c"], "T1+T1c": ["T1", "T1c"]}
DICE = {  # by case, subset and region
    "a": {
        "T1": {"whole": 0.5, "core": nan},
        "T1c": {"whole": 0.25, "core": 0.125},
        "T1+T1c": {"whole": 0.75, "core": 1},
    },
    "b": {"T1": {"whole": 0.7, "core": nan}, "T1c": {"whole": 0.35, "core": nan}, "T1+T1c": {"whole": 0.75, "core": 0}},
}


def scores(of_case=DICE):
    rows = [
        case_table(
            case,
            {
                s: [RegionScores(r, dice, *[nan] * 5, 1, 1, 1, 9) for r, dice in of.items()]
                for s, of in of_subset.items()
            },
            SUBSETS,
        )
        for case, of_subset in of_case.items()
    ]
    return Scores(pd.concat(rows), provenance(["T1", "T1c"], trainer="MyTrainer"))


def printed_rows(capsys):
    lines = capsys.readouterr().out.splitlines()
    return [line.replace("│", " ").replace("┃", " ").split() for line in lines]


@pytest.mark.filterwarnings("error")
def test_the_table_has_dots_and_means(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    print_means(scores())
    rows = printed_rows(capsys)
    assert ["T1", "T1c", "whole", "core", "cases"] in rows
    assert [row for row in rows if row and row[0] in "●○"] == [
        ["●", "○", "0.600", "nan", "0–2"],
        ["○", "●", "0.300", "0.125", "1–2"],
        ["●", "●", "0.750", "0.500", "2"],
    ]
    whole, core = (0.6 + 0.3 + 0.75) / 3, (0.125 + 0.5) / 2
    assert ["mean", f"{whole:.3f}", f"{core:.3f}", "1–2"] in rows
    assert ["MyTrainer:", "mean", "Dice", "of", "2", "cases"] in rows


@pytest.mark.filterwarnings("error")
def test_a_region_that_no_case_has_is_nan(capsys):
    one = {"a": {subset: {"whole": 0.5, "core": nan} for subset in SUBSETS}}
    assert isnan(one["a"]["T1"]["core"])
    print_means(scores(one))
    assert sum(row.count("nan") for row in printed_rows(capsys)) == len(SUBSETS) + 1


def test_the_mean_is_over_the_cases_that_have_every_subset(capsys):
    lacks_t1c = {"T1": {"whole": 0.1, "core": 0.1}}
    print_means(scores({"a": DICE["b"], "b": DICE["b"], "lacks T1c": lacks_t1c}))
    rows = printed_rows(capsys)
    assert ["●", "○", f"{(0.7 + 0.7 + 0.1) / 3:.3f}", "0.100", "1–3"] in rows
    assert ["mean", f"{(0.7 + 0.35 + 0.75) / 3:.3f}", "0.000", "2"] in rows
    assert not any("†" in cell for row in rows for cell in row)


def test_where_no_case_has_every_subset_the_mean_is_marked(capsys):
    print_means(scores({"a": {"T1": DICE["a"]["T1"]}, "b": {"T1c": DICE["b"]["T1c"]}}))
    rows = printed_rows(capsys)
    assert ["mean", f"{(0.5 + 0.35) / 2:.3f}†", "nan†", "0–1"] not in rows  # an undefined mean compares nothing
    assert ["mean", f"{(0.5 + 0.35) / 2:.3f}†", "nan", "0–1"] in rows
    assert "† No case has every subset" in " ".join(" ".join(row) for row in rows)
