import itertools
import math
import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from nnunetv2_missmod.report.drawing import MOST_VECTORS
from nnunetv2_missmod.report.figures import dots_per_case, draw_all
from nnunetv2_missmod.report.inputs import Comparison
from nnunetv2_missmod.report.metric_names import METRICS

pytestmark = pytest.mark.slow

SUBSETS = {"A": ["A"], "B": ["B"], "A+B": ["A", "B"]}


def comparison(
    *, models=("One", "Two"), regions=("whole", "core"), cases=4, value=None, modalities=("A", "B"), subsets=None
):
    rng = np.random.default_rng(0)
    subsets = subsets or SUBSETS
    keys = itertools.product([f"case{i}" for i in range(cases)], subsets, regions, models)
    scores = pd.DataFrame(keys, columns=["case", "subset", "region", "model"])
    scores["num_present"] = scores["subset"].map(lambda subset: len(subsets[subset]))
    for metric in METRICS:
        scores[metric.column] = rng.uniform(size=len(scores)) if value is None else value
    return Comparison(dict.fromkeys(models), list(modalities), list(regions), subsets, scores, [])


@pytest.fixture(scope="module")
def dice():
    """The figures of Dice, drawn once, and what they are of."""
    made = comparison()
    return made, draw_all(made, METRICS[0])


def svgs(drawings):
    return [drawing.svg for kind in drawings.values() for drawing in kind]


def test_every_figure_is_well_formed_and_in_the_ink_of_the_page(dice):
    for svg in svgs(dice[1]):
        ElementTree.fromstring(svg)
        assert "currentColor" in svg
        assert "#010203" not in svg
        assert "aria-label=" in svg


def test_the_curves_text_says_the_means_by_number_of_modalities(dice):
    made, drawn = dice
    (curve, _) = drawn["curves"]
    scores = made.scores[(made.scores["region"] == "whole") & (made.scores["model"] == "One")]
    single, both = (scores[scores["subset"].isin(names)]["dice"].mean() * 100 for names in (["A", "B"], ["A+B"]))
    assert f"One: {single:.1f} with 1, {both:.1f} with 2" in curve.svg


def test_the_heat_map_shows_every_mean(dice):
    made, drawn = dice
    for model, drawing in zip(made.models, drawn["heat"], strict=True):
        for (_, _, name), mean in made.scores.groupby(["subset", "region", "model"])["dice"].mean().items():
            assert (f">{mean * 100:.2f}<" in drawing.svg) or name != model


def test_a_bar_is_as_long_as_the_gain_from_a_modality():
    rows = {"A": 0.2, "B": 0.7, "A+B": 0.6}
    made = comparison(models=["One"])
    made.scores["dice"] = made.scores["subset"].map(rows)
    drawing = draw_all(made, METRICS[0])["gains"][0]
    assert "One: A -10.0, B 40.0" in drawing.svg
    widths = sorted(bar_widths(drawing.svg))
    assert widths[1] == pytest.approx(4 * widths[0])


def bar_widths(svg):
    """Widths of what is filled in the model's colour."""
    for path in re.findall(r'<path d="([^"]+)"[^>]*style="fill: #0173b2"', svg):
        x = [float(point.split()[0]) for point in re.findall(r"[ML] ([\d.]+ [\d.]+)", path)]
        yield max(x) - min(x)


@pytest.mark.parametrize(
    ("metric", "value"), [(METRICS[0], 1.0), (METRICS[1], math.nan), (METRICS[4], math.nan), (METRICS[4], 0.0)]
)
def test_scores_all_alike_or_all_undefined_are_drawn_without_a_warning(metric, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(svgs(draw_all(comparison(models=["One"], regions=["whole"], value=value), metric))) == 4


def test_names_that_mean_something_to_matplotlib_or_html_are_shown_as_they_are():
    names = ["_hidden", "<b>&$x$"]
    subsets = {names[0]: [names[0]], names[1]: [names[1]], "+".join(names): names}
    for svg in svgs(
        draw_all(comparison(models=names, regions=["whole"], modalities=names, subsets=subsets), METRICS[0])
    ):
        texts = "".join(ElementTree.fromstring(svg).itertext())
        assert "<b>&$x$" in texts
        assert "_hidden" in texts


def test_every_dot_says_which_case_it_is_of(dice):
    made, drawn = dice
    for drawing, region in zip(drawn["dots"], ("whole", "core"), strict=True):
        root = ElementTree.fromstring(drawing.svg)
        found = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
        rows = made.scores[made.scores["region"] == region]
        expected = [f"{row['case']}, {row['subset']}: {100 * row['dice']:.2f}" for row in rows.to_dict("records")]
        assert sorted(found) == sorted(expected)


def test_very_many_dots_are_drawn_as_pixels():
    few, many = (dots_per_case(comparison(models=["One"], cases=n), METRICS[0], "whole").svg for n in (4, MOST_VECTORS))
    assert "data:image/png" in many
    assert "data:image/png" not in few
    assert len(many) < 300_000


def test_the_same_scores_give_the_same_figures(dice):
    assert svgs(dice[1]) == svgs(draw_all(comparison(), METRICS[0]))


def test_references_of_two_figures_do_not_meet(dice):
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in svgs(dice[1])]
    for one, other in itertools.combinations(ids, 2):
        assert not one & other
