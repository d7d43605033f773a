import csv
import itertools
import json
import re
import shutil

import pytest
from report_page import read_markdown, read_page
from small_folders import REGIONS, change_provenance, write_data, write_model, write_provenance

from nnunetv2_missmod.evaluation.report.page import render, write_report

NASTY = ["<script>alert(1)</script>", "a_b&c%", "$x^2$ \\\"'|#{}~`*"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two models and their long tables; the second is better."""
    root = tmp_path_factory.mktemp("cohort")
    truths = write_data(root)
    first = write_model(root / "dcseg", root, truths, trainer="DCSegTrainer", strength=0.5)
    second = write_model(root / "m3ae", root, truths, trainer="M3AETrainer", strength=0.3, seed=1)
    return root, {"DCSeg": first, "M3AE": second}


@pytest.fixture(scope="module")
def report(cohort):
    root, _ = cohort
    return write_report([root / "dcseg", root / "m3ae"], root / "report")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A model of two modalities, one case, and no figures, which are slow."""
    monkeypatch.setattr(
        "nnunetv2_missmod.evaluation.report.page.draw_all", lambda *_: {"heat": [], "curves": [], "dots": []}
    )
    truths = write_data(tmp_path, num_modalities=2, cases=("case",))
    write_model(tmp_path / "model", tmp_path, truths, modalities=("FLAIR", "T1c"))
    return tmp_path


def expected_cell(table, metric, subset, region):
    """Mean over the cases by a plain loop; None where no case has a value."""
    values = []
    for row in table.to_dict("records"):
        if row["subset"] == subset and row["region"] == region and row[metric] == row[metric]:
            values.append(row[metric])
    return sum(values) / len(values) if values else None


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "scale"), [("dice", 100), ("hd95", 1), ("nsd", 100), ("volume_error", 100)])
def test_the_cells_of_the_page_are_the_means_of_the_long_tables(cohort, report, metric, scale):
    _, tables = cohort
    rows = read_page(report).tables[metric][2:]
    subsets = list(dict.fromkeys(tables["DCSeg"]["subset"]))
    assert [row[0]["title"] for row in rows[:-1]] == subsets
    columns = list(itertools.product(REGIONS, tables))
    for subset, row in zip(subsets, rows[:-1], strict=True):
        for (region, model), cell in zip(columns, row[4:], strict=True):
            value = expected_cell(tables[model], metric, subset, region)
            assert cell["text"] == ("–" if value is None else f"{value * scale:.2f}"), (subset, region, model)


def test_the_dots_are_filled_for_the_modalities_present(cohort, report):
    rows = read_page(report).texts("dice")
    assert rows[0][:4] == ["FLAIR", "T1", "T1c", "T2"]
    assert rows[2][:4] == ["●", "○", "○", "○"]
    assert rows[-2][:4] == ["●"] * 4
    for row in read_page(report).tables["dice"][2:-1]:
        present = [name for name, cell in zip(rows[0], row, strict=False) if cell["text"] == "●"]
        assert "+".join(present) == row[0]["title"]


def test_the_best_of_a_row_and_region_is_bold_and_the_other_underlined(report):
    for metric, best in (("dice", max), ("hd95", min), ("volume_error", lambda pair: min(pair, key=abs))):
        for row in read_page(report).tables[metric][2:]:
            cells = [cell for cell in row if cell.get("class", "").startswith("score")]
            for pair in zip(cells[::2], cells[1::2], strict=True):
                values = [float(cell["text"]) for cell in pair]
                if abs(values[0]) == abs(values[1]):
                    assert {cell["mark"] for cell in pair} == {"strong"}
                else:
                    assert [cell["mark"] for cell in pair] == ["strong" if v == best(values) else "u" for v in values]


def test_the_last_row_is_the_mean_over_the_subsets(cohort, report):
    _, tables = cohort
    subsets = list(dict.fromkeys(tables["DCSeg"]["subset"]))
    columns = list(itertools.product(REGIONS, tables))
    for (region, model), cell in zip(columns, read_page(report).texts("dice")[-1][1:], strict=True):
        values = [expected_cell(tables[model], "dice", subset, region) for subset in subsets]
        assert cell == f"{100 * sum(values) / len(values):.2f}"


def test_a_single_model_has_no_best(small):
    page = read_page(write_report([small / "model"], small / "report"))
    assert {cell["mark"] for row in page.tables["dice"] for cell in row} == {""}
    assert "bold" not in "".join(page.text)


def numbers(texts):
    return [text for text in texts if re.fullmatch(r"-?\d+\.\d+", text)]


def test_the_files_beside_the_page_hold_its_numbers(report):
    html = [numbers(row) for row in read_page(report).texts("hd95")[2:]]
    assert {len(row) for row in html} == {6}
    with open(report.parent / "table.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "hd95"]
    assert [[value for key, value in row.items() if " / " in key] for row in rows] == html
    (markdown,) = [part for part in (report.parent / "table.md").read_text().split("## ") if part.startswith("HD95")]
    assert [numbers(row) for row in read_markdown(markdown).texts(None)[1:]] == html
    (latex,) = [part for part in (report.parent / "table.tex").read_text().split(r"\caption") if "{HD95" in part]
    rows = [re.findall(r"-?\d+\.\d+", line) for line in latex.splitlines() if r"\\" in line]
    assert [row for row in rows if row] == html


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_no_network(report):
    page = read_page(report)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("#", "data:")), (tag, name, value[:80])
    assert not any("src" in attributes for attributes in page.attributes("script"))
    styles = re.findall(r"<style.*?</style>", report.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not any(re.search(r"@import|url\((?!#)", style) for style in styles)


def test_the_page_forbids_itself_the_network(report):
    (policy,) = [m["content"] for m in read_page(report).attributes("meta") if "Security" in m.get("http-equiv", "")]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_no_id_stands_twice(report):
    ids = [attributes["id"] for _, attributes in read_page(report).tags if "id" in attributes]
    assert sorted({i for i in ids if ids.count(i) > 1}) == []


def test_every_reference_within_the_page_is_met(report):
    page = read_page(report)
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {a.get("href") or a.get("xlink:href") or "" for _, a in page.tags}
    assert {link[1:] for link in links if link.startswith("#")} <= ids


def test_every_picture_has_a_text(report):
    for attributes in read_page(report).attributes("svg"):
        assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"


def test_figures_of_every_metric_model_and_region(report):
    labels = [a["aria-label"] for a in read_page(report).attributes("svg") if "aria-label" in a]
    assert sum("(rows)" in label for label in labels) == 6 * 2
    assert sum("by number of modalities present" in label for label in labels) == 6 * 3
    assert sum("a dot for each case" in label for label in labels) == 6 * 3


def test_the_page_says_what_was_measured_on_what(report):
    text = " ".join(read_page(report).text)
    for fact in ("DCSegTrainer__nnUNetPlans__3d_fullres", "Dataset501_Phantom", "checkpoint_final.pth", "nnUNetPlans",
                 "nnunetv2 2.8.1", "whole: labels 1, 2, 3", "1.0 mm", "nnU-Net's: where", "cropped to"):  # fmt: skip
        assert fact in text, fact


def test_a_sample_of_the_subsets_and_post_processing_are_said(small):
    change_provenance(small / "model", sampled=True, min_voxels={"enhancing": 200}, empty_policy="brats")
    text = " ".join(read_page(write_report([small / "model"], small / "report")).text)
    assert "a sample" in text
    assert "enhancing: dropped below 200 voxels" in text
    assert "374 mm" in text


def test_a_report_may_be_written_again(small):
    first = write_report([small / "model"], small / "report").read_bytes()
    assert write_report([small / "model"], small / "report").read_bytes() == first


# --- what is not there ------------------------------------------------------------------------------------------------


def test_without_predictions_there_are_no_overlays_and_the_page_says_so(small):
    shutil.rmtree(small / "model" / "predictions")
    file = write_report([small / "model"], small / "report")
    page = read_page(file)
    assert "--no-save" in " ".join(page.text)
    assert not {"overlays", "viewer"} & {a.get("id") for _, a in page.tags}
    assert file.stat().st_size < 200_000


@pytest.mark.parametrize("folder", ["imagesTs", "labelsTs"])
def test_without_images_or_truth_there_are_no_overlays_and_the_page_says_so(small, folder):
    shutil.rmtree(small / folder)
    page = read_page(write_report([small / "model"], small / "report"))
    assert "are not where provenance.json says" in " ".join(page.text)
    assert not {"overlays", "viewer"} & {a.get("id") for _, a in page.tags}


def test_a_model_without_predictions_is_left_out_of_the_overlays_alone(small):
    shutil.copytree(small / "model", small / "other", ignore=shutil.ignore_patterns("predictions"))
    change_provenance(small / "other", trainer="OtherTrainer")
    page = read_page(write_report([small / "model", small / "other"], small / "report"))
    assert "Other: no predictions in other/predictions" in " ".join(page.text)
    assert {"overlays", "viewer"} <= {a.get("id") for _, a in page.tags}


def test_the_folder_to_write_to_may_not_be_a_file(small):
    (small / "report").write_text("")
    with pytest.raises(ValueError, match=r"got the file .*report"):
        write_report([small / "model"], small / "report")


# --- escaping ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def nasty(tmp_path, monkeypatch):
    """Modalities, a case, a model and a region with names that mean something in HTML, LaTeX and Markdown."""
    truths = write_data(tmp_path, num_modalities=3, cases=("a_b&c%",))
    table = write_model(tmp_path / "model", tmp_path, truths, modalities=("A", "B", "C"), save=False)
    names = dict(zip("ABC", NASTY, strict=True))
    subsets = {"+".join(names[m] for m in s.split("+")): [names[m] for m in s.split("+")] for s in table["subset"]}
    table["subset"] = ["+".join(names[m] for m in s.split("+")) for s in table["subset"]]
    table["region"] = table["region"].replace({"core": NASTY[0]})
    table.to_csv(tmp_path / "model" / "scores.csv", index=False)
    write_provenance(tmp_path / "model", tmp_path, "</script><!--", NASTY, subsets)
    regions = {NASTY[0] if name == "core" else name: labels for name, labels in REGIONS.items()}
    change_provenance(tmp_path / "model", regions=list(regions), region_labels=regions)
    return tmp_path


def test_names_cannot_break_the_page(nasty):
    file = write_report([nasty / "model"], nasty / "report")
    page = read_page(file)
    assert page.texts("dice")[0][:3] == NASTY
    assert page.texts("dice")[0][4] == NASTY[0]
    assert page.texts("dice")[1][0] == "</script><!--"
    assert "alert(1)" not in "".join(re.findall(r"<script>.*?</script>", file.read_text(), flags=re.DOTALL))
    assert len(page.attributes("script")) == 1


def test_names_cannot_break_the_viewer(small):
    """With predictions; a subset's name is a folder's, so that only these characters are possible in it."""
    change_provenance(small / "model", trainer="</script><script>alert(1)//", regions=["whole", "core", "enhancing"])
    html = write_report([small / "model"], small / "report").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="viewer-data">(.*?)</script>', html, flags=re.DOTALL)
    assert json.loads(data)["masks"][0]["model"] == "</script><script>alert(1)//"
    assert "<script>alert" not in html


def test_names_cannot_break_latex(nasty):
    latex = (write_report([nasty / "model"], nasty / "report").parent / "table.tex").read_text()
    assert r"a\_b\&c\%" in latex
    assert r"\textless{}script\textgreater{}" in latex
    assert r"\$x\textasciicircum{}2\$ \textbackslash{}" in latex
    body = re.search(r"\\toprule(.*?)\\bottomrule", latex, flags=re.DOTALL).group(1)
    rows = [line for line in body.splitlines() if line.endswith(r" \\")]
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows[1:-1]} == {3 + 3}
    bare = re.sub(r"\\[&%$#_{}]|\$\\(bullet|circ)\$|\$-\$", "", body)
    assert not re.search(r"[%#$_^~<>|]", bare)
    assert bare.count("{") == bare.count("}")


def test_names_cannot_break_markdown(nasty):
    text = (write_report([nasty / "model"], nasty / "report").parent / "table.md").read_text()
    page = read_markdown(text.split("## ")[1])
    (rows,) = page.tables.values()
    assert [cell["text"] for cell in rows[0][:3]] == [NASTY[0], NASTY[1], NASTY[2]]
    assert {len(row) for row in rows} == {6}
    assert "script" not in {tag for tag, _ in page.tags}


def test_a_name_that_only_the_template_sees_is_escaped(small):
    text = "<img src=x onerror=alert(1)>"
    assert text not in render("facts.html", comparison={"models": [text]}, facts=[(text, [text])], viewer=None)
