"""The section on trust: what was foreseen of the masks of the models that have a calibration.csv, beside the truth."""

import math
from xml.etree import ElementTree

import pytest
from report_page import Page
from small_scores import calibration_table, long_table, provenance

from nnunetv2_missmod.evaluation.calibration_table import write_calibration
from nnunetv2_missmod.evaluation.provenance import write_provenance
from nnunetv2_missmod.evaluation.reliability import agreement, coverage, reliability_bins
from nnunetv2_missmod.evaluation.scores import write_scores
from nnunetv2_missmod.report.drawing import MOST_VECTORS
from nnunetv2_missmod.report.inputs import load_comparison
from nnunetv2_missmod.report.page import render
from nnunetv2_missmod.report.trust import build_trust, reliability_plot

WAY = "This is not known yet: run missmod calibrate FOLDER on the folder of scores, then this report again."
MODALITIES, REGIONS = ("FLAIR", "T1c"), ("whole", "core")


def write(folder, trainer, cases=4, calibrated=None, seed=0):
    """A model's folder of scores, with the calibration of so many cases."""
    folder.mkdir()
    write_scores(folder, long_table(cases, MODALITIES, REGIONS, seed=seed))
    write_provenance(folder, provenance(MODALITIES, REGIONS, trainer, predictions=None))
    if calibrated is None:
        return None
    table = calibration_table(calibrated, MODALITIES, REGIONS, seed=seed)
    write_calibration(folder, table)
    return table


def section(comparison, trust):
    return Page(render("trust.html", comparison=comparison, trust=trust))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two models, each with calibration: their tables, the section and its parts."""
    root = tmp_path_factory.mktemp("trust")
    tables = {name: write(root / name, f"{name}Trainer", calibrated=4, seed=s) for s, name in enumerate(("A", "B"))}
    comparison = load_comparison([root / "A", root / "B"])
    trust = build_trust(comparison)
    return tables, section(comparison, trust), trust


def columns(tables):
    return [(region, model) for region in REGIONS for model in tables]


def test_the_coverage_stands_beside_the_confidence(two):
    tables, page, _ = two
    rows = page.tables["coverage"][None]
    assert [row[0]["text"] for row in rows[2:]] == ["1", "2", "all", "confidence"]
    found = {model: coverage(table) for model, table in tables.items()}
    for size, row in zip((1, 2, "all"), rows[2:-1], strict=True):
        assert [cell["text"] for cell in row[1:-2]] == [
            f"{100 * found[model].loc[(region, size), 'share']:.1f}" for region, model in columns(tables)
        ]
        masks = {1: 8, 2: 4, "all": 12}[size]
        assert [cell["text"] for cell in row[-2:]] == ["4", str(masks)]
        assert {cell["title"] for cell in row[1:-2]} == {f"{masks} masks of 4 cases"}
    assert [cell["text"] for cell in rows[-1][1:5]] == ["90.0"] * 4


def test_the_errors_of_what_was_expected_stand_beside_those_of_the_naive_rule(two):
    tables, page, _ = two
    found = {model: agreement(table) for model, table in tables.items()}
    for (region, model), row in zip(columns(tables), page.texts(None, "agreement")[1:], strict=True):
        of_region = found[model].loc[region]
        errors = [f"{100 * of_region[name]:.2f}" for name in ("error", "naive_error")]
        assert row == [region, model, f"{of_region['correlation']:.2f}", *errors, "4", "12"]
    assert "not known yet" not in " ".join(page.text)


def test_the_plot_has_a_dot_for_each_mask_and_says_the_means_of_the_bins(two):
    tables, _, trust = two
    drawings = trust.drawings
    assert [drawing.title for drawing in drawings] == list(REGIONS)
    svg = ElementTree.fromstring(drawings[0].svg)
    found = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}title")]
    rows = [row for table in tables.values() for row in table[table["region"] == "whole"].to_dict("records")]
    assert sorted(found) == sorted(
        f"{r['case']}, {r['subset']}: {100 * r['expected_dice']:.1f} expected, {100 * r['dice']:.1f} true" for r in rows
    )
    first = 100 * reliability_bins(tables["B"][tables["B"]["region"] == "whole"]).iloc[0]
    assert f"B: {first['expected_dice']:.1f}: {first['dice']:.1f}" in drawings[0].svg


@pytest.mark.filterwarnings("error")
def test_very_many_masks_and_none_are_drawn_as_well():
    table = calibration_table(MOST_VECTORS + 1, ("T1",), ("whole",))
    svg = reliability_plot({"$A$": table, "_B": table.assign(dice=math.nan)}, "whole").svg
    assert "data:image/png" in svg
    texts = "".join(ElementTree.fromstring(svg).itertext())
    assert "$A$" in texts
    assert "_B" in texts
    assert "_B: –." in svg


def test_where_no_model_is_calibrated_the_section_is_the_way_to_it(tmp_path):
    write(tmp_path / "A", "ATrainer")
    comparison = load_comparison([tmp_path / "A"])
    words = " ".join("".join(section(comparison, build_trust(comparison)).text).split())
    assert words == f"How far a mask can be trusted {WAY}"


@pytest.mark.slow
def test_the_page_has_the_section(page):
    assert WAY in " ".join("".join(page.text).split())


def test_a_model_without_calibration_is_named_and_the_others_are_shown(tmp_path):
    write(tmp_path / "A", "ATrainer", calibrated=4)
    write(tmp_path / "B", "BTrainer")
    trust = build_trust(load_comparison([tmp_path / "A", tmp_path / "B"]))
    assert (trust.models, trust.without) == (["A"], ["B"])
    assert trust.columns == [("whole", "A"), ("core", "A")]
    assert len(trust.drawings) == 2


def test_only_the_cases_that_are_compared_are_counted(tmp_path):
    write(tmp_path / "A", "ATrainer", calibrated=4)
    write(tmp_path / "B", "BTrainer", cases=3, calibrated=2)
    trust = build_trust(load_comparison([tmp_path / "A", tmp_path / "B"]))
    assert [(row.name, row.cases, row.masks) for row in trust.coverage] == [
        ("1", "2–3", "4–6"),
        ("2", "2–3", "2–3"),
        ("all", "2–3", "6–9"),
    ]
    assert [(row.model, row.cases) for row in trust.agreement] == [("A", 3), ("B", 2)] * 2


def test_of_several_trainings_the_first_ones_masks_are_shown(tmp_path):
    first = write(tmp_path / "A_0", "ATrainer", calibrated=4)
    write(tmp_path / "A_1", "ATrainer", calibrated=4, seed=5)
    comparison = load_comparison([], groups={"A": [tmp_path / "A_0", tmp_path / "A_1"]})
    assert build_trust(comparison).coverage[-1].shares[0].text == (
        f"{100 * coverage(first).loc[('whole', 'all'), 'share']:.1f}"
    )


def test_a_calibration_that_is_damaged_is_an_error_that_names_it(tmp_path):
    write(tmp_path / "A", "ATrainer", calibrated=4)
    (tmp_path / "A" / "calibration.csv").write_text("case,subset\n")
    with pytest.raises(ValueError, match=r"A/calibration.csv: .* it lacks num_present, .*Run missmod calibrate"):
        load_comparison([tmp_path / "A"])
