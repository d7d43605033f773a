"""The numbers on the page, recomputed by plain loops from the long tables."""

import itertools
import json
import math
from collections import defaultdict

import numpy as np
import pytest
from report_page import read_page
from scipy.stats import wilcoxon
from small_scores import MODALITIES, REGIONS, long_table, provenance, subset_names

from nnunetv2_missmod.evaluation.provenance import write_provenance
from nnunetv2_missmod.evaluation.scores import write_scores
from nnunetv2_missmod.report.page import write_report

pytestmark = pytest.mark.slow

COLUMNS = list(itertools.product(REGIONS, ["DCSeg", "M3AE"]))


def looped_means(table, metric):
    """Mean over the cases by (subset, region), a plain loop; None where no case has a value."""
    values = defaultdict(list)
    for row in table.to_dict("records"):
        values[row["subset"], row["region"]].append(row[metric])
    return {key: mean_of(scores) for key, scores in values.items()}


def mean_of(values):
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "scale"), [("dice", 100), ("hd95", 1), ("nsd", 100), ("volume_error", 100)])
def test_the_cells_of_the_page_are_the_means_of_the_long_tables(cohort, page, metric, scale):
    _, tables = cohort
    rows = page.tables["scores"][metric][2:-3]
    assert [row[0]["title"] for row in rows] == subset_names()
    means = {model: looped_means(table, metric) for model, table in tables.items()}
    for subset, row in zip(subset_names(), rows, strict=True):
        for (region, model), cell in zip(COLUMNS, row[4:-1], strict=True):
            value = means[model][subset, region]
            assert cell["text"] == ("–" if value is None else f"{value * scale:.2f}"), (subset, region, model)


def test_a_cell_says_over_how_many_cases_its_mean_is(cohort, page):
    _, tables = cohort
    for subset in subset_names():
        for (region, model), cell in zip(COLUMNS, page.row(subset, "hd95"), strict=True):
            rows = [
                row for row in tables[model].to_dict("records") if (row["subset"], row["region"]) == (subset, region)
            ]
            count = sum(not math.isnan(row["hd95"]) for row in rows)
            assert cell["title"] == ("1 case" if count == 1 else f"{count} cases")


def test_the_dots_are_filled_for_the_modalities_present(page):
    rows = page.texts("dice")
    assert rows[0][:4] == ["FLAIR", "T1", "T1c", "T2"]
    assert rows[2][:4] == ["●", "○", "○", "○"]
    assert rows[-4][:4] == ["●"] * 4
    for row in page.tables["scores"]["dice"][2:-3]:
        present = [name for name, cell in zip(rows[0], row, strict=False) if cell["text"] == "●"]
        assert "+".join(present) == row[0]["title"]


def test_the_best_of_a_row_and_region_is_bold_and_the_other_underlined(page):
    for metric, best in (("dice", max), ("hd95", min), ("volume_error", lambda pair: min(pair, key=abs))):
        for row in page.tables["scores"][metric][2:]:
            cells = [cell for cell in row if cell.get("class", "").startswith("score")]
            for pair in zip(cells[::2], cells[1::2], strict=True):
                values = [float(cell["text"]) for cell in pair]
                if abs(values[0]) == abs(values[1]):
                    assert {cell["mark"] for cell in pair} == {"strong"}
                else:
                    assert [cell["mark"] for cell in pair] == ["strong" if v == best(values) else "u" for v in values]


def looped_summaries(table, metric, region):
    """Mean over the subsets, area under the curve and its mean height, by plain loops; NaN where one is undefined."""
    means = {subset: mean for (subset, where), mean in looped_means(table, metric).items() if where == region}
    curve = {}
    for size in range(1, 5):
        values = [m for subset, m in means.items() if len(subset.split("+")) == size and m is not None]
        curve[size] = sum(values) / len(values) if values else math.nan
    known = [value for value in means.values() if value is not None]
    area = curve[1] / 2 + curve[2] + curve[3] + curve[4] / 2
    return {"mean": sum(known) / len(known), "area": area, "area / 3": area / 3}


def looped_bounds(table, metric, region, resamples=1000):
    """Bounds of the mean over the subsets, a plain loop over resamples of the cases."""
    cases = sorted(set(table["case"]))
    rows = table[table["region"] == region].pivot(index="case", columns="subset", values=metric).loc[cases].to_numpy()
    drawn = np.random.default_rng(0).multinomial(len(cases), [1 / len(cases)] * len(cases), size=resamples)
    means = []
    for times in drawn:
        chosen = [rows[i] for i, count in enumerate(times) for _ in range(count)]
        means.append(mean_of(mean for mean in map(mean_of, zip(*chosen, strict=True)) if mean is not None))
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize(("metric", "scale"), [("dice", 100), ("hd95", 1), ("volume_error", 100)])
def test_below_the_subsets_are_their_mean_and_the_areas(cohort, page, metric, scale):
    _, tables = cohort
    for name in ("mean", "area", "area / 3"):
        for (region, model), cell in zip(COLUMNS, page.row(name, metric), strict=True):
            expected = looped_summaries(tables[model], metric, region)[name]
            assert float(cell["text"]) == pytest.approx(expected * scale, abs=0.0051), (name, region, model)


def test_the_small_print_under_the_mean_is_its_bootstrap_interval(cohort, page):
    _, tables = cohort
    for (region, model), cell in zip(COLUMNS, page.row("mean", "dice"), strict=True):
        low, high = looped_bounds(tables[model], "dice", region)
        assert cell["interval"] == f"[{100 * low:.2f}, {100 * high:.2f}]"


def test_the_interval_of_the_area_is_three_times_that_of_its_mean_height(page):
    for area, height in zip(page.row("area", "dice"), page.row("area / 3", "dice"), strict=True):
        (low, high), thirds = (json.loads(cell["interval"]) for cell in (area, height))
        assert low < float(area["text"]) < high
        assert [low / 3, high / 3] == pytest.approx(thirds, abs=0.01)


def test_a_single_case_has_no_intervals(small):
    page = read_page(write_report([small / "model"], small / "report"))
    for name in ("mean", "area", "area / 1"):
        assert {cell["interval"] for cell in page.row(name, "dice")} == {""}
        assert all(float(cell["text"]) for cell in page.row(name, "dice"))


@pytest.mark.parametrize(("metric", "scale"), [("dice", 100), ("hd95", -1)])
def test_the_contribution_of_a_modality_is_the_mean_gain_from_adding_it(cohort, page, metric, scale):
    _, tables = cohort
    assert [row[0] for row in page.texts(metric, "contribution")[2:]] == list(MODALITIES)
    for modality in MODALITIES:
        for (region, model), cell in zip(COLUMNS, page.row(modality, metric, "contribution"), strict=True):
            gains = list(looped_gains(tables[model], metric, modality, region))
            expected = scale * sum(map(mean_of, gains)) / len(gains)
            assert float(cell["text"]) == pytest.approx(expected, abs=0.0051)
            assert cell["title"] == words_of({len(of_pair) for of_pair in gains})


def looped_gains(table, metric, modality, region):
    """Gains within the cases where both scores are defined, a list for each pair of subsets with such a case."""
    return (gains for _, gains in looped_gains_given(table, metric, modality, region))


def looped_gains_given(table, metric, modality, region):
    """The same with the subset that the modality is added to."""
    rows = table[table["region"] == region]
    scores = {(row["case"], row["subset"]): row[metric] for row in rows.to_dict("records")}
    for without in (subset for subset in subset_names() if modality not in subset.split("+")):
        added = "+".join(m for m in MODALITIES if m in (*without.split("+"), modality))
        gains = [scores[case, added] - scores[case, without] for case in sorted(set(rows["case"]))]
        if known := [gain for gain in gains if not math.isnan(gain)]:
            yield without, known


def words_of(counts):
    least, most = min(counts), max(counts)
    return f"{most if least == most else f'{least}–{most}'} {'case' if most == 1 else 'cases'}"


@pytest.mark.parametrize(("metric", "scale"), [("dice", 100), ("hd95", -1)])
def test_what_a_modality_adds_given_each_subset_stands_in_a_map_of_each_model(cohort, page, metric, scale):
    _, tables = cohort
    rows = [row for row in page.tables["given"][metric] if "title" in row[0]]
    assert [row[0]["title"] for row in rows] == subset_names()[:-1] * 2
    of_row = [table for table in tables.values() for _ in range(14)]
    for table, row in zip(of_row, rows, strict=True):
        subset, cells = row[0]["title"], row[4:-1]
        for (region, added), cell in zip(itertools.product(REGIONS, MODALITIES), cells, strict=True):
            if added in subset.split("+"):
                assert (cell["text"], cell.get("title"), cell.get("style")) == ("", None, None)
                continue
            gains = dict(looped_gains_given(table, metric, added, region))[subset]
            assert float(cell["text"]) == pytest.approx(scale * mean_of(gains), abs=0.0051)
            assert cell["title"] == words_of({len(gains)})
            assert ("--better" in cell["style"]) == (scale * mean_of(gains) > 0)


def test_the_largest_gain_or_loss_has_the_full_colour(page):
    styles = [cell["style"] for row in page.tables["given"]["dice"] for cell in row if "style" in cell]
    shares = [float(style.rpartition(": ")[2]) for style in styles if "--better" in style or "--worse" in style]
    assert max(shares) == 1
    assert min(shares) >= 0


def test_the_shapley_values_are_the_mean_gain_over_all_orders_and_add_up_to_the_full_sets_mean(cohort, page):
    _, tables = cohort
    full = frozenset(MODALITIES)
    for place, (region, model) in enumerate(COLUMNS):
        value, count = means_with_every_score(tables[model][tables[model]["region"] == region])
        for modality in MODALITIES:
            orders = [order[: order.index(modality)] for order in itertools.permutations(MODALITIES)]
            gains = [value[frozenset((*before, modality))] - value[frozenset(before)] for before in orders]
            cell = page.row(modality, "dice", "shapley")[place]
            assert float(cell["text"]) == pytest.approx(100 * mean_of(gains), abs=0.0051)
            assert cell["title"] == words_of({count})
        assert float(page.row("sum", "dice", "shapley")[place]["text"]) == pytest.approx(100 * value[full], abs=0.0051)


def means_with_every_score(rows):
    """Mean Dice of every set of modalities over the cases that have all, that of none 0; and how many they are."""
    by_case = {}
    for row in rows.to_dict("records"):
        by_case.setdefault(row["case"], {})[frozenset(row["subset"].split("+"))] = row["dice"]
    scored = [scores for scores in by_case.values() if not any(map(math.isnan, scores.values()))]
    means = {subset: sum(scores[subset] for scores in scored) / len(scored) for subset in scored[0]}
    return means | {frozenset(): 0.0}, len(scored)


def test_a_distance_has_no_shapley_values_and_the_page_says_why(page):
    assert set(page.tables["shapley"]) == {"dice", "nsd", "sensitivity", "lesion_dice"}
    assert "HD95 has none: with no modality at all it is not 0." in page.text


# --- the comparison of models -----------------------------------------------------------------------------------------


def case_mean(table, metric, case, region):
    rows = table[(table["case"] == case) & (table["region"] == region)]
    return sum(map(abs if metric == "volume_error" else float, rows[metric])) / len(rows)


@pytest.mark.parametrize(("metric", "scale"), [("dice", 100), ("hd95", 1), ("volume_error", 100)])
def test_the_tests_are_wilcoxons_corrected_by_holm(many, metric, scale):
    tables, file = many
    expected = []
    for name in REGIONS:
        first, second = (
            np.array([case_mean(table, metric, f"case_{case:03d}", name) for case in range(8)])
            for table in tables.values()
        )
        differences = (first - second).round(12)
        p = wilcoxon(differences).pvalue if differences.any() else None
        median = float(np.median(differences))
        favoured = "DCSeg" if (median > 0) == (metric == "dice") else "M3AE"
        expected.append((name, median * scale, favoured, p))
    known = sorted(p for *_, p in expected if p is not None)
    rows = read_page(file).texts(metric, "tests")[1:]
    for row, (region, median, favoured, p) in zip(rows, expected, strict=True):
        p_values = ["too few cases"] * 2
        if p is not None:
            corrected = max((len(known) - i) * q for i, q in enumerate(known) if q <= p)
            p_values = [f"{p:.3f}", f"{min(corrected, 1):.3f}"]
        is_significant = p is not None and corrected < 0.05
        assert row == ["DCSeg − M3AE", region, "8", f"{median:.2f}", favoured if is_significant else "–", *p_values]


def test_too_few_cases_are_explained_where_there_are_any(many, page):
    parts = read_page(many[1]).text
    assert sum("differ in fewer than 6 of them" in part for part in parts) == 1  # the Dice of the core is all alike
    assert sum("differ in fewer than 6 of them" in part for part in page.text) == 6
    cells = [row[5:] for row in page.texts("dice", "tests")[1:]]
    assert cells == [["too few cases"] * 2] * 3


def test_the_ranking_says_how_often_each_model_is_first(many):
    tables, file = many
    rows = read_page(file).texts("hd95", "rankings")[1:]
    assert [row[:2] for row in rows] == [[region, model] for region, model in COLUMNS]
    shares = [[int(share) for share in row[2:]] for row in rows]
    for one, other in zip(shares[::2], shares[1::2], strict=True):
        assert one == other[::-1]
        assert sum(one) == 100
    assert [row[2:] for row in read_page(file).texts("dice", "rankings")[1:]][2:4] == [["100", "0"]] * 2  # all alike
    means = [looped_means(table, "hd95") for table in tables.values()]
    first = [
        int(sum(one[s, region] for s in subset_names()) > sum(other[s, region] for s in subset_names()))
        for one, other in [means]
        for region in REGIONS
    ]
    assert [of_first[1] > 50 for of_first in shares[::2]] == list(map(bool, first))


def test_the_smallest_p_that_the_cases_allow_is_said(many, page):
    text = "At best, if every case agreed, p would be 0.008, corrected for the 3 tests 0.023."
    assert sum(text in part for part in read_page(many[1]).text) == 3
    assert "At best" not in " ".join(page.text)  # three cases have no p


def test_a_test_that_cannot_be_significant_is_said_to_be_none(tmp_path, no_figures):
    tables, models = long_table(cases=6), ["DCSeg", "M3AE", "CCSD"]
    for name in models:
        (tmp_path / name).mkdir()
        write_scores(tmp_path / name, tables)
        write_provenance(tmp_path / name, provenance(MODALITIES, tuple(REGIONS), f"{name}Trainer", predictions=None))
    folders = [tmp_path / name for name in models]
    text = " ".join(read_page(write_report(folders, tmp_path / "every two")).text)
    assert "p would be 0.031, corrected for the 9 tests 0.281: too few cases for any difference" in text
    page = read_page(write_report(folders, tmp_path / "reference", reference="M3AE"))
    assert "each model against M3AE" in " ".join(page.text)
    assert [row[0] for row in page.texts("dice", "tests")[1:]] == ["DCSeg − M3AE"] * 3 + ["CCSD − M3AE"] * 3
    assert "corrected for the 6 tests 0.188" in (tmp_path / "reference" / "table.md").read_text()
    with pytest.raises(ValueError, match="one of the models DCSeg, M3AE, CCSD, got 'm3ae'"):
        write_report(folders, tmp_path / "reference", reference="m3ae")


def test_a_single_model_has_no_best(small):
    page = read_page(write_report([small / "model"], small / "report"))
    assert {cell["mark"] for row in page.tables["scores"]["dice"] for cell in row} == {""}
    assert "bold" not in "".join(page.text)
    assert page.tables["tests"] == {}
    assert "#comparison" not in {link.get("href") for link in page.attributes("a")}
    assert not (small / "report" / "comparison.csv").exists()
