"""What the modalities are worth where there is less of it: one modality, a sample of the subsets, undefined scores."""

import math

import pandas as pd
import pytest
from small_scores import MODALITIES, REGIONS, long_table, subset_names, subsets_of

from nnunetv2_missmod.report.gain_tables import build_gains
from nnunetv2_missmod.report.inputs import Comparison
from nnunetv2_missmod.report.metric_names import METRICS

DICE, HD95 = METRICS[:2]


def comparison(tables, modalities=MODALITIES):
    scores = pd.concat([table.assign(model=name) for name, table in tables.items()])
    subsets = {name: members for name, members in subsets_of(modalities).items() if name in set(scores["subset"])}
    return Comparison(dict.fromkeys(tables), list(modalities), list(REGIONS), subsets, scores, [])


def test_a_modality_alone_is_added_to_nothing_and_worth_all_of_the_score():
    table = long_table(modalities=("T1",))
    gains = build_gains(comparison({"A": table}, ("T1",)), DICE)
    assert gains.given == []
    assert gains.maps == {"A": []}
    means = [f"{100 * table[table['region'] == region]['dice'].mean():.2f}" for region in REGIONS]
    assert [cell.text for cell in gains.shapley[0].cells] == [cell.text for cell in gains.shapley_sum.cells] == means


def test_of_a_sample_of_the_subsets_only_the_pairs_in_it_have_a_gain():
    table = long_table(subsets=["FLAIR", "T1", "FLAIR+T1", "+".join(MODALITIES)])
    gains = build_gains(comparison({"A": table}), DICE)
    assert [(row.name, row.present) for row in gains.given] == [
        ("T1", [True, False, False, False]),
        ("FLAIR", [False, True, False, False]),
    ]
    assert [(row.subset, [bool(cell.text) for cell in row.cells]) for row in gains.maps["A"]] == [
        ("FLAIR", [False, True, False, False] * 3),
        ("T1", [True, False, False, False] * 3),
    ]
    assert (gains.shapley, gains.shapley_sum) == ([], None)
    assert gains.no_shapley == "they need a score from each of the 15 subsets, and 4 are scored"


@pytest.mark.filterwarnings("error")
def test_a_gain_that_is_undefined_is_a_dash_without_colour_and_without_cases():
    table = long_table()
    nothing = table.assign(dice=table["dice"].mask(table["region"] == "core"))
    gains = build_gains(comparison({"A": table, "B": nothing}), DICE)
    core = [cell for row in gains.maps["B"] for cell in row.cells[4:8] if cell.text]
    assert {(cell.text, cell.cases.most, cell.share) for cell in core} == {("–", 0, 0.0)}
    assert {row.cases.text for row in gains.maps["B"]} == {"0–5"}
    assert [cell.text == "–" for cell in gains.shapley_sum.cells] == [False, False, False, True, False, False]
    assert [cell.cases.text for cell in gains.shapley[0].cells] == ["5", "5", "5", "0", "5", "5"]


@pytest.mark.filterwarnings("error")
def test_scores_that_are_all_undefined_have_gains_of_dashes():
    gains = build_gains(comparison({"A": long_table().assign(hd95=math.nan)}), HD95)
    assert {cell.text for row in gains.given for cell in row.cells} == {"–"}
    assert len(gains.given) == sum(4 - name.count("+") - 1 for name in subset_names())


def test_a_model_without_shapley_values_has_dashes_beside_one_that_has_them():
    tables = {"A": long_table(), "B": long_table().assign(dice=math.nan)}
    gains = build_gains(comparison(tables), DICE)
    assert gains.no_shapley == ""
    assert [[cell.text == "–" for cell in row.cells] for row in gains.shapley] == [[False, True] * 3] * 4
