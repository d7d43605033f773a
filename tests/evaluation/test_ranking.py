"""Shares of the ranks over resampled cases, against plain loops."""

import numpy as np
import pytest
from looped_scores import mean
from small_scores import REGIONS, long_table

from nnunetv2_missmod.evaluation.ranking import rank_shares
from nnunetv2_missmod.evaluation.summary import BETTER

pytestmark = pytest.mark.filterwarnings("error")
SUBSETS = ["FLAIR", "T1", "FLAIR+T1"]


def table(seed, **changes):
    return long_table(cases=5, modalities=("FLAIR", "T1"), subsets=SUBSETS, seed=seed).assign(**changes)


@pytest.mark.parametrize("metric", ["dice", "hd95", "volume_error"])
def test_shares_are_those_of_loops_over_resamples_of_the_same_cases(metric):
    models = {name: table(seed) for seed, name in enumerate("abc")}
    shares = rank_shares({name: [scores] for name, scores in models.items()}, metric, resamples=40, seed=3)
    cases = sorted(set(models["a"]["case"]))
    drawn = np.random.default_rng(3).multinomial(5, [0.2] * 5, size=40)
    for region in REGIONS:
        counts = {name: [0, 0, 0] for name in models}
        for times in drawn:
            worth = {}
            for name, scores in models.items():
                of_case = {
                    case: mean(scores[(scores["case"] == case) & (scores["region"] == region)][metric])
                    for case in cases
                }
                value = mean(of_case[case] for case, n in zip(cases, times, strict=True) for _ in range(n))
                worth[name] = {"higher": value, "lower": -value, "zero": -abs(value)}[BETTER[metric]]
            for name in models:
                counts[name][sum(other > worth[name] for other in worth.values())] += 1
        for name in models:
            assert shares.loc[(region, name)].to_list() == pytest.approx([n / 40 for n in counts[name]])


def test_the_model_that_is_better_in_every_case_is_always_first_and_equals_share_the_place():
    good = table(0, dice=0.9)
    shares = rank_shares({"bad": [table(1)], "good": [good], "again": [good]}, "dice", resamples=20)
    assert shares.loc["core"].to_numpy().tolist() == [[0, 0, 1], [1, 0, 0], [1, 0, 0]]


def test_a_model_without_a_score_has_no_rank():
    shares = rank_shares({"a": [table(0)], "b": [table(1, dice=np.nan)]}, "dice", resamples=5)
    assert shares.isna().all(axis=None)
