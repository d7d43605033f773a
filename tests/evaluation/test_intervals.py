"""Bootstrap intervals of summaries, against loops and what is known of them."""

import numpy as np
import pandas as pd
import pytest
from looped_scores import mean
from small_scores import REGIONS, constant_table, long_table

from nnunetv2_missmod.evaluation.intervals import bootstrap_intervals
from nnunetv2_missmod.evaluation.summary import (
    mean_over_subsets,
    robustness_area,
    robustness_curve,
    subset_means,
)
from nnunetv2_missmod.evaluation.trainings import mean_over_trainings, spread_over_trainings

pytestmark = pytest.mark.filterwarnings("error")


def looped_bootstrap(table, metric, summary, resamples, confidence, seed):
    """Build every resample as a long table, a case drawn twice standing there under two names."""
    cases = sorted(set(table["case"]))
    times_drawn = np.random.default_rng(seed).multinomial(len(cases), [1 / len(cases)] * len(cases), size=resamples)
    results = []
    for times in times_drawn:
        drawn = [
            table[table["case"] == case].assign(case=f"{case} #{n}")
            for case, count in zip(cases, times, strict=True)
            for n in range(count)
        ]
        results.append(summary(subset_means(pd.concat(drawn), metric)))
    tail = (1 - confidence) / 2
    return np.nanquantile(results, [tail, 1 - tail], axis=0)


@pytest.mark.parametrize("metric", ["dice", "hd95"])
@pytest.mark.parametrize("summary", [mean_over_subsets, robustness_area, robustness_curve])
def test_intervals_are_the_percentiles_over_resampled_cases(metric, summary):
    table = long_table(cases=6, undefined=0.1, seed=3)
    intervals = bootstrap_intervals(table, metric, summary, resamples=20, confidence=0.8, seed=5)
    low, high = looped_bootstrap(table, metric, summary, 20, 0.8, seed=5)
    np.testing.assert_allclose(intervals["low"], low.T.ravel())
    np.testing.assert_allclose(intervals["high"], high.T.ravel())
    np.testing.assert_allclose(intervals["estimate"], summary(subset_means(table, metric)).to_numpy().T.ravel())


def looped_trainings(tables, metric, region, resamples, seed):
    """Mean over the subsets of resampled cases and trainings, in plain loops."""
    cases = sorted(set(tables[0]["case"]))
    rows = [t[t["region"] == region].pivot(index="case", columns="subset", values=metric).loc[cases] for t in tables]
    generator = np.random.default_rng(seed)
    of_cases = generator.multinomial(len(cases), [1 / len(cases)] * len(cases), size=resamples)
    of_trainings = generator.multinomial(len(tables), [1 / len(tables)] * len(tables), size=resamples)
    for times_cases, times_trainings in zip(of_cases, of_trainings, strict=True):
        means = []
        for subset in rows[0]:
            scores = [
                mean([t[subset].iloc[c] for t, n in zip(rows, times_trainings, strict=True) for _ in range(n)])
                for c, n in enumerate(times_cases)
                for _ in range(n)
            ]
            means.append(mean(scores))
        yield np.mean(means)


@pytest.mark.parametrize("undefined", [0, 0.1])
def test_of_several_trainings_cases_and_trainings_are_drawn(undefined):
    subsets = ["FLAIR", "T1", "FLAIR+T1"]
    tables = [
        long_table(cases=5, modalities=("FLAIR", "T1"), subsets=subsets, undefined=undefined, seed=seed)
        for seed in range(3)
    ]
    found = bootstrap_intervals(tables, "dice", mean_over_subsets, resamples=30, confidence=0.8, seed=2)
    averaged = mean_over_trainings([tables[0].sample(frac=1, random_state=0), *tables[1:]])
    estimates = mean_over_subsets(subset_means(averaged, "dice"))
    for region in REGIONS:
        draws = list(looped_trainings(tables, "dice", region, 30, seed=2))
        expected = [estimates[region], *np.quantile(draws, [0.1, 0.9])]
        assert found.loc[region].to_list() == pytest.approx(expected)
    one = bootstrap_intervals(tables[:1], "dice", mean_over_subsets, resamples=30)
    pd.testing.assert_frame_equal(one, bootstrap_intervals(tables[0], "dice", mean_over_subsets, resamples=30))


def test_the_spread_over_trainings_is_their_standard_deviation():
    tables = [long_table(cases=4, seed=seed) for seed in range(3)]
    spread = spread_over_trainings(tables, lambda table: subset_means(table, "dice"))
    means = [subset_means(table, "dice").loc["T1+T2", "core"] for table in tables]
    centre = sum(means) / 3
    assert spread.loc["T1+T2", "core"] == pytest.approx((sum((m - centre) ** 2 for m in means) / 2) ** 0.5)
    assert spread_over_trainings(tables[:1], lambda table: subset_means(table, "dice")).isna().all(axis=None)
    assert mean_over_trainings(tables[:1]) is tables[0]


def test_intervals_of_the_subset_means_are_indexed_by_region_and_subset():
    table = long_table(cases=8)
    intervals = bootstrap_intervals(table, "dice", resamples=100)
    assert intervals.index.names == ["region", "subset"]
    assert len(intervals) == 45
    means = subset_means(table, "dice")
    for (region, subset), row in intervals.iterrows():
        assert row["low"] < row["estimate"] < row["high"]
        assert row["estimate"] == means.loc[subset, region]
    assert list(bootstrap_intervals(table, "dice", mean_over_subsets, resamples=5).index) == list(REGIONS)


def test_a_large_cohort_has_the_interval_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    table = long_table(cases=400, modalities=("T1",), regions=("lesion",)).assign(dice=rng.normal(0.5, 0.1, 400))
    interval = bootstrap_intervals(table, "dice", resamples=4000).iloc[0]
    half = 1.96 * table["dice"].std(ddof=0) / 20
    assert interval["low"] == pytest.approx(table["dice"].mean() - half, abs=0.05 * half)
    assert interval["high"] == pytest.approx(table["dice"].mean() + half, abs=0.05 * half)


def test_cases_are_resampled_and_not_rows():
    table = constant_table(lambda case, *_: float(case == "case_000"), cases=2)
    intervals = bootstrap_intervals(table, "dice", mean_over_subsets, resamples=200)
    assert intervals[["low", "high"]].to_numpy().tolist() == [[0, 1]] * 3


def test_a_seed_gives_the_same_bounds_whatever_the_order_of_the_rows():
    table = long_table(cases=6, undefined=0.2)
    one = bootstrap_intervals(table, "dice", resamples=50, seed=1)
    same = bootstrap_intervals(table.sample(frac=1, random_state=0), "dice", resamples=50, seed=1)
    other = bootstrap_intervals(table, "dice", resamples=50, seed=2)
    pd.testing.assert_frame_equal(one, same.reindex(one.index), check_exact=True)
    assert not one["low"].equals(other["low"])


def test_bounds_contain_each_other_as_the_confidence_grows():
    table = long_table(cases=9)
    narrow, wide = (bootstrap_intervals(table, "dice", resamples=200, confidence=c) for c in (0.5, 0.99))
    assert (wide["low"] < narrow["low"]).all()
    assert (wide["high"] > narrow["high"]).all()


def test_one_case_has_no_bounds():
    for summary in (pd.DataFrame.copy, mean_over_subsets, robustness_area):
        intervals = bootstrap_intervals(long_table(cases=1), "dice", summary, resamples=10)
        assert intervals["estimate"].notna().all()
        assert intervals[["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("cases", [2, 3, 50])
def test_a_score_defined_in_one_case_alone_has_no_bounds(cases):
    table = long_table(cases=cases)
    table.loc[(table["case"] != "case_001") & (table["region"] == "core"), "dice"] = np.nan
    intervals = bootstrap_intervals(table, "dice", mean_over_subsets, resamples=1000)
    assert intervals["estimate"].notna().all()
    assert intervals["low"].isna().to_dict() == {"whole": False, "core": True, "enhancing": False}


def test_a_score_defined_nowhere_has_no_bounds():
    intervals = bootstrap_intervals(long_table().assign(dice=np.nan), "dice", resamples=10)
    assert intervals.isna().all(axis=None)


@pytest.mark.parametrize("wrong", [{"resamples": 0}, {"confidence": 0.0}, {"confidence": 95}])
def test_intervals_need_resamples_and_a_confidence(wrong):
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_intervals(long_table(), "dice", **wrong)
