"""A report on cases that lack modalities says on how many cases each row rests, and compares no different ones."""

import csv
import re

import pandas as pd
import pytest
from report_page import read_markdown, read_page
from small_scores import long_table, provenance

from nnunetv2_missmod.evaluation.provenance import write_provenance
from nnunetv2_missmod.evaluation.scores import write_scores
from nnunetv2_missmod.report.page import write_report

MODALITIES = ("FLAIR", "T1c")
ROWS = ("FLAIR", "T1c", "FLAIR+T1c", "mean", "area", "area / 1")
NOTE = "No case has every subset: the means of different subsets rest on different cases."


def report_on(tmp_path, subsets):
    """Report on a model whose cases have these subsets."""
    tables = [
        long_table(cases=1, modalities=MODALITIES, regions=("whole",), subsets=of_case, seed=seed).assign(
            case=f"{seed}"
        )
        for seed, of_case in enumerate(subsets)
    ]
    (tmp_path / "model").mkdir()
    write_scores(tmp_path / "model", pd.concat(tables))
    write_provenance(tmp_path / "model", provenance(MODALITIES, ("whole",), predictions=None))
    return write_report([tmp_path / "model"], tmp_path / "report"), tables


def counts_of(file):
    """What page, CSV, Markdown and LaTeX say on the number of cases of each row of Dice, with marks at the values."""
    page = read_page(file)
    shown = [row[-1] for row in page.texts("dice")[2:]]
    with open(file.parent / "table.csv", newline="", encoding="utf-8") as csv_file:
        rows = {row["subset"]: row for row in csv.DictReader(csv_file) if row["metric"] == "dice"}
    of_csv = [(rows[name]["fewest cases"], rows[name]["most cases"], rows[name]["same cases"]) for name in ROWS]
    markdown = (file.parent / "table.md").read_text(encoding="utf-8")
    tables = [read_markdown(part).texts(None)[1:] for part in re.split("^##.*$", markdown, flags=re.M)[1:3]]
    return shown, of_csv, tables


@pytest.fixture
def one_complete(tmp_path, no_figures):
    return report_on(tmp_path, [["FLAIR", "T1c", "FLAIR+T1c"], ["FLAIR"], ["FLAIR"]])


@pytest.fixture
def none_complete(tmp_path, no_figures):
    return report_on(tmp_path, [["FLAIR"], ["T1c"], ["T1c", "FLAIR+T1c"]])


def test_every_row_says_on_how_many_cases_it_rests(one_complete):
    shown, of_csv, (subsets, summaries) = counts_of(one_complete[0])
    assert shown == ["3", "1", "1", "1", "1", "1"]
    assert of_csv == [(count, count, "1") for count in shown]
    assert [row[-1] for row in subsets] == ["3", "1", "1", "1"]
    assert [row[-1] for row in summaries] == ["1", "1", "1"]
    latex = (one_complete[0].parent / "table.tex").read_text(encoding="utf-8")
    assert re.findall(r"& (\d+) \\\\$", latex.split(r"\end{table}")[0], flags=re.M) == ["3", "1", "1", "1"]
    assert "†" not in latex + " ".join(cell for row in (*subsets, *summaries) for cell in row)


def test_the_mean_and_the_area_are_those_of_the_one_complete_case(one_complete):
    file, (complete, *_) = one_complete
    dice = complete.set_index("subset")["dice"] * 100
    page = read_page(file)
    assert page.row("mean", "dice")[0]["text"] == f"{dice.mean():.2f}"
    assert page.row("area", "dice")[0]["text"] == f"{(dice['FLAIR'] + dice['T1c']) / 4 + dice['FLAIR+T1c'] / 2:.2f}"
    assert NOTE not in " ".join(page.text)
    for modality, without in (("T1c", "FLAIR"), ("FLAIR", "T1c")):
        (cell,) = page.row(modality, "dice", "contribution")
        assert cell["text"] == f"{dice['FLAIR+T1c'] - dice[without]:.2f}"
        assert page.texts("dice", "contribution")[2 + MODALITIES.index(modality)][-1] == "1"


def test_where_no_case_is_complete_the_means_are_marked_everywhere(none_complete):
    shown, of_csv, (subsets, summaries) = counts_of(none_complete[0])
    assert shown == ["1", "2", "1", "1–2", "1–2", "1–2"]
    assert of_csv == [("1", "1", "1"), ("2", "2", "1"), ("1", "1", "1"), *[("1", "2", "0")] * 3]
    assert [row[-2].endswith("†") for row in subsets] == [False, False, False, True]
    assert all("†" in row[1] for row in summaries)
    page = read_page(none_complete[0])
    assert f"† {NOTE}" in page.text
    assert [page.row(name, "dice")[0]["text"].endswith("†") for name in ROWS] == [False] * 3 + [True] * 3
    assert page.row("mean", "dice")[0]["title"] == "1–2 cases, different ones by subset"
    for name, mark in (("table.md", "† "), ("table.tex", r"$^\dagger$ ")):
        text = (none_complete[0].parent / name).read_text(encoding="utf-8")
        assert text.count(mark + NOTE) == 2 * 6  # the table and that of the summaries, of every metric


def test_a_modality_that_no_case_has_beside_the_others_has_no_contribution(none_complete):
    page = read_page(none_complete[0])
    assert [row[1:] for row in page.texts("dice", "contribution")[2:]] == [
        [page.row("FLAIR", "dice", "contribution")[0]["text"], "1"],
        ["–", "0"],
    ]
