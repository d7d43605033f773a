import itertools
import json
import re
import shutil
import subprocess
import sys
from itertools import zip_longest

import pandas as pd
import pytest
from report_page import read_page
from small_folders import change_provenance, write_data, write_model
from small_scores import NASTY, REGIONS

from nnunetv2_missmod.evaluation.hausdorff import HD95_CONVENTIONS
from nnunetv2_missmod.evaluation.metrics import EMPTY_POLICIES
from nnunetv2_missmod.evaluation.scores import read_scores, write_scores
from nnunetv2_missmod.report import page as page_module
from nnunetv2_missmod.report.inputs import load_comparison
from nnunetv2_missmod.report.page import facts, render, write_report

pytestmark = pytest.mark.slow

COLUMNS = list(itertools.product(REGIONS, ["DCSeg", "M3AE"]))

# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_no_network(report, page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("#", "data:")), (tag, name, value[:80])
    assert not any("src" in attributes for attributes in page.attributes("script"))
    styles = re.findall(r"<style.*?</style>", report.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not any(re.search(r"@import|url\((?!#)", style) for style in styles)


def test_the_page_forbids_itself_the_network(page):
    (policy,) = [m["content"] for m in page.attributes("meta") if "Security" in m.get("http-equiv", "")]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_no_id_stands_twice(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert sorted({i for i in ids if ids.count(i) > 1}) == []


def test_every_reference_within_the_page_is_met(page):
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {a.get("href") or a.get("xlink:href") or "" for _, a in page.tags}
    assert {link[1:] for link in links if link.startswith("#")} <= ids


def test_every_picture_has_a_text(page):
    for attributes in page.attributes("svg"):
        assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"


def test_figures_of_every_metric_model_and_region(page):
    labels = [a["aria-label"] for a in page.attributes("svg") if "aria-label" in a]
    assert sum("(rows)" in label for label in labels) == 6 * 2
    assert sum("by number of modalities present" in label for label in labels) == 6 * 3
    assert sum("a dot for each case" in label for label in labels) == 6 * 3
    assert sum("from adding a modality" in label for label in labels) == 6 * 3


def test_the_page_says_what_was_measured_on_what(page):
    text = " ".join(page.text)
    for fact in ("DCSegTrainer__nnUNetPlans__3d_fullres", "Dataset501_Phantom", "checkpoint_final.pth", "nnUNetPlans",
                 "nnunetv2 2.8.0", "whole: labels 1, 2, 3", "1.0 mm", "nnU-Net's: where", "cropped to"):  # fmt: skip
        assert fact in text, fact


def test_a_sample_of_the_subsets_and_post_processing_are_said(small):
    change_provenance(small / "model", sampled=True, min_voxels={"enhancing": 200}, empty_policy="brats")
    text = " ".join(read_page(write_report([small / "model"], small / "report")).text)
    assert "The 3 subsets are a sample of the 3 that there are" in text
    assert "a sample; all would be too many" in text
    assert "enhancing: dropped below 200 voxels" in text
    assert "374 mm" in text


def test_every_convention_is_said_in_words(small):
    assert list(page_module.POLICIES) == list(EMPTY_POLICIES)
    assert list(page_module.HD95_CONVENTIONS) == list(HD95_CONVENTIONS)
    told = set()
    for hd95, empty in zip_longest(HD95_CONVENTIONS, EMPTY_POLICIES, fillvalue="surface"):
        change_provenance(small / "model", hd95_convention=hd95, empty_policy=empty)
        said = {title: text for title, (text,) in facts(load_comparison([small / "model"]))}
        told |= {said["HD95"], said["Empty masks"]}
    assert len(told) == len(HD95_CONVENTIONS) + len(EMPTY_POLICIES)
    assert min(map(len, told)) > 30


def test_a_report_may_be_written_again(small):
    first = write_report([small / "model"], small / "report").read_bytes()
    assert write_report([small / "model"], small / "report").read_bytes() == first


# --- what is not there ------------------------------------------------------------------------------------------------


def test_without_predictions_there_are_no_overlays_and_the_page_says_so(small):
    shutil.rmtree(small / "model" / "predictions")
    file = write_report([small / "model"], small / "report")
    page = read_page(file)
    assert "no predictions (none in model/predictions)" in " ".join(page.text)
    assert not {"overlays", "viewer"} & {a.get("id") for _, a in page.tags}
    assert file.stat().st_size < 200_000


def test_of_predictions_that_were_not_kept_the_page_says_so(small):
    change_provenance(small / "model", predictions=None)
    page = read_page(write_report([small / "model"], small / "report"))
    assert "DCSeg: no predictions (evaluated with --no-save)" in " ".join(page.text)


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
    assert "Other: no predictions (none in other/predictions)" in " ".join(page.text)
    assert {"overlays", "viewer"} <= {a.get("id") for _, a in page.tags}


def test_the_viewer_opens_on_a_subset_that_its_case_has(small):
    """The case lacks T1c, so that it has neither rows nor masks of the subsets with it."""
    table = read_scores(small / "model").table
    hard = table.assign(case="other")  # has all subsets, and is not the one that is shown first
    write_scores(small / "model", pd.concat([table[table["subset"] == "FLAIR"], hard.assign(dice=0.99)]))
    for subset in ("T1c", "FLAIR+T1c"):
        (small / "model" / "predictions" / subset / "case.nii.gz").unlink()
    (small / "imagesTs" / "case_0001.nii.gz").unlink()
    page = read_page(write_report([small / "model"], small / "report"))
    options = [a for a in page.attributes("option") if a["value"] in ("FLAIR", "T1c", "FLAIR+T1c")]
    boxes = [a for a in page.attributes("input") if a.get("type") == "checkbox" and "value" in a]
    assert [(box["value"], "checked" in box) for box in boxes] == [("0", True), ("1", False)]
    assert [("selected" in a, "disabled" in a) for a in options] == [(True, False), (False, True), (False, True)]


def test_the_case_list_has_the_worst_case_first_and_links_to_the_overlays(page, cohort):
    _, tables = cohort
    dice = pd.concat(tables.values()).groupby(["case", "region"])["dice"].mean()
    rows = page.tables["caselist"]["dice"][1:]
    names = [row[0]["text"] for row in rows]
    overall = {name: [] for name in names}
    for name, cells in zip(names, rows, strict=True):
        assert cells[1]["text"] == "15"
        for place, ((region, model), cell) in enumerate(zip(COLUMNS, cells[2:], strict=True)):
            of_model = tables[model]
            chosen = of_model[(of_model["case"] == name) & (of_model["region"] == region)]["dice"].dropna()
            assert cell["text"] == (f"{100 * chosen.mean():.2f}" if len(chosen) else "–"), place
            overall[name] += [chosen.mean()] if len(chosen) else []
    means = [sum(values) / len(values) for values in overall.values()]
    assert means == sorted(means)
    assert set(names) == set(dice.index.get_level_values("case"))
    options = [a["data-name"] for a in page.attributes("option") if "data-name" in a][:3]
    links = {a["data-overlay"] for a in page.attributes("a") if "data-overlay" in a}
    assert links == {str(place) for place in range(len(options))}


def test_the_page_shows_the_cases_that_are_asked_for_and_says_how_many_there_are(tmp_path, no_figures):
    truths = write_data(tmp_path, num_modalities=2, cases=("one", "two"))
    write_model(tmp_path / "model", tmp_path, truths, modalities=("FLAIR", "T1c"))
    page = read_page(write_report([tmp_path / "model"], tmp_path / "report", cases=["two"]))
    assert {a["data-name"] for a in page.attributes("option") if "data-name" in a} == {"two"}
    links = [a["data-overlay"] for a in page.attributes("a") if "data-overlay" in a]
    assert links == ["0"] * len(page.tables["caselist"])
    assert sorted(row[0] for row in page.texts("dice", "caselist")[1:]) == ["one", "two"]
    assert " ".join("".join(page.text).split()).count("1 of 2 cases (missmod report --cases shows others)") == 2


def test_the_folder_to_write_to_may_not_be_a_file(small):
    (small / "report").write_text("")
    with pytest.raises(ValueError, match=r"got the file .*report"):
        write_report([small / "model"], small / "report")


# --- escaping ---------------------------------------------------------------------------------------------------------


def test_names_cannot_break_the_page(nasty):
    file = write_report([nasty / "model"], nasty / "report")
    page = read_page(file)
    assert page.texts("dice")[0][:3] == NASTY
    assert page.texts("dice")[0][4] == NASTY[0]
    assert [row[0] for row in page.texts("dice", "contribution")[2:]] == NASTY
    assert page.texts("dice")[1][0] == "</script><!--"
    assert "alert(1)" not in "".join(re.findall(r"<script>.*?</script>", file.read_text(), flags=re.DOTALL))
    assert len(page.attributes("script")) == 1


def test_names_cannot_break_the_viewer(small):
    """With predictions; a subset's name is a folder's, so that only these characters are possible in it."""
    change_provenance(small / "model", trainer="</script><script>alert(1)//", regions=["whole", "core", "enhancing"])
    html = write_report([small / "model"], small / "report").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="viewer-data">(.*?)</script>', html, flags=re.DOTALL)
    assert json.loads(data)["cases"][0]["masks"][0]["model"] == "</script><script>alert(1)//"
    assert "<script>alert" not in html


def test_a_name_that_only_the_template_sees_is_escaped(small):
    text = "<img src=x onerror=alert(1)>"
    assert text not in render("facts.html", comparison={"models": [text]}, facts=[(text, [text])], viewer=None)


# --- imports ----------------------------------------------------------------------------------------------------------


def test_the_page_loads_no_network_not_even_through_others():
    code = (
        "import sys, nnunetv2_missmod.report.page\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "sys.exit(', '.join(sorted(loaded & {'torch', 'nnunetv2', 'monai'})) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
