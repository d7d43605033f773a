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
    assert ["T1", "T1c", "whole", "core"] in rows
    assert [row for row in rows if row and row[0] in "●○"] == [
        ["●", "○", "0.600", "nan"],
        ["○", "●", "0.300", "0.125"],
        ["●", "●", "0.750", "0.500"],
    ]
    whole, core = (0.6 + 0.3 + 0.75) / 3, (0.125 + 0.5) / 2
    assert ["mean", f"{whole:.3f}", f"{core:.3f}"] in rows
    assert ["MyTrainer:", "mean", "Dice", "of", "2"] in rows  # the title is as wide as the table


@pytest.mark.filterwarnings("error")
def test_a_region_that_no_case_has_is_nan(capsys):
    one = {"a": {subset: {"whole": 0.5, "core": nan} for subset in SUBSETS}}
    assert isnan(one["a"]["T1"]["core"])
    print_means(scores(one))
    assert sum(row.count("nan") for row in printed_rows(capsys)) == len(SUBSETS) + 1
