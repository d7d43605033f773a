"""Trainings of one model, such as seeds, in one column of the report: mean, standard deviation, interval."""

import math
import statistics

import numpy as np
import pandas as pd
import pytest
from report_page import read_page
from small_scores import MODALITIES, REGIONS, long_table, provenance, subset_names

from nnunetv2_missmod.evaluation.paired_tests import compare
from nnunetv2_missmod.evaluation.provenance import write_provenance
from nnunetv2_missmod.evaluation.scores import write_scores
from nnunetv2_missmod.report.inputs import load_comparison
from nnunetv2_missmod.report.page import write_report


def write(folder, seed, trainer="DCSegTrainer", cases=7):
    folder.mkdir()
    table = long_table(cases=cases, seed=seed)
    write_scores(folder, table)
    write_provenance(folder, provenance(MODALITIES, tuple(REGIONS), trainer, predictions=None))
    return table


@pytest.fixture
def seeds(tmp_path):
    """Three trainings of one model and one of another, on the cases that all have."""
    tables = [write(tmp_path / f"dcseg_{seed}", seed, cases=7 + seed) for seed in range(3)]
    other = write(tmp_path / "m3ae", 9, "M3AETrainer")
    tables = [table[table["case"].isin(set(other["case"]))] for table in tables]
    return [tmp_path / f"dcseg_{seed}" for seed in range(3)], tables, tmp_path / "m3ae", other


def test_a_group_is_one_column_with_the_standard_deviation_over_its_trainings(seeds, tmp_path, no_figures):
    folders, tables, other_folder, other = seeds
    file = write_report([other_folder], tmp_path / "report", groups={"dcseg": folders})
    page = read_page(file)
    assert page.texts("dice")[1][:2] == ["M3AE", "dcseg"]
    for subset in ("T1", "FLAIR+T2"):
        for region, alone, cell in zip(REGIONS, *[iter(page.row(subset, "dice"))] * 2, strict=True):
            means = [
                100 * float(np.mean(t[(t["subset"] == subset) & (t["region"] == region)]["dice"]))
                for t in (*tables, other)
            ]
            assert cell["text"] == f"{statistics.mean(means[:3]):.2f}"
            assert cell["interval"] == f"± {statistics.stdev(means[:3]):.2f}"
            assert (alone["text"], alone["interval"]) == (f"{means[3]:.2f}", "")
    for name in ("mean", "area"):
        assert [cell["interval"].startswith("± ") for cell in page.row(name, "dice")] == [False, True] * 3
    overall = [t[t["region"] == "core"].groupby("subset")["dice"].mean().mean() * 100 for t in tables]
    cell = page.row("mean", "dice")[3]
    assert cell["interval"].startswith(f"± {statistics.stdev(overall):.2f}[")
    assert "standard deviation over the trainings of dcseg" in " ".join(page.text)
    assert "dcseg_0, dcseg_1, dcseg_2" in page.text
    for text in (f"{cell['text']}* ± " if cell["mark"] == "u" else f"{cell['text']}** ± ", " ± "):
        assert text in (file.parent / "table.md").read_text()
    assert r"$\pm$" in (file.parent / "table.tex").read_text()
    assert "mean, SD over trainings" in (file.parent / "table.csv").read_text()


def test_a_groups_case_has_its_mean_over_the_trainings_in_the_tests(seeds):
    folders, tables, other_folder, other = seeds
    comparison = load_comparison([other_folder], groups={"dcseg": folders})
    keys = ["case", "subset", "region", "num_present"]
    by_key = [table.set_index(keys)["dice"] for table in tables]
    averaged = pd.DataFrame({"dice": {key: sum(t[key] for t in by_key) / 3 for key in by_key[0].index}})
    averaged = averaged.rename_axis(keys).reset_index()
    expected = compare({"M3AE": other, "dcseg": averaged}, "dice").set_index("region")
    found = compare(comparison.tables, "dice").set_index("region")
    for region in REGIONS:
        assert found.loc[region, "p"] == pytest.approx(expected.loc[region, "p"])
    assert len(comparison.scores) == 2 * 7 * len(subset_names()) * len(REGIONS)


def test_a_score_undefined_in_one_training_is_averaged_over_the_others(seeds):
    folders, tables, *_ = seeds
    gone = tables[0].copy()
    gone.loc[gone.index[0], "dice"] = math.nan
    write_scores(folders[0], gone)
    comparison = load_comparison([], groups={"dcseg": folders})
    first = comparison.scores.iloc[0]
    assert first["dice"] == pytest.approx((tables[1].iloc[0]["dice"] + tables[2].iloc[0]["dice"]) / 2)


def test_groups_that_do_not_belong_together_are_errors(seeds):
    folders, _, other_folder, _ = seeds
    with pytest.raises(ValueError, match=r"one trainer in the group all, got DCSegTrainer in .*M3AETrainer in"):
        load_comparison([], groups={"all": [*folders, other_folder]})
    with pytest.raises(ValueError, match="names of their own, got M3AE"):
        load_comparison([other_folder], groups={"M3AE": folders})
    with pytest.raises(ValueError, match="2 times"):
        load_comparison([folders[0]], groups={"dcseg": folders})
    with pytest.raises(ValueError, match="in the group none, got none"):
        load_comparison([other_folder], groups={"none": []})
