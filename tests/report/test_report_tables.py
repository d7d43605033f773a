import math

import pytest

from nnunetv2_missmod.evaluation.summary import BETTER
from nnunetv2_missmod.report.exports import escape_latex, escape_markdown
from nnunetv2_missmod.report.metric_names import METRICS
from nnunetv2_missmod.report.tables import print_p, rank

DICE, HD95, NSD, SENSITIVITY, VOLUME_ERROR, LESION_DICE = METRICS


@pytest.mark.parametrize(
    ("badness", "places"),
    [
        ([1.0], [""]),
        ([1.0, 2.0], ["best", "second"]),
        ([3.0, 1.0, 2.0], ["", "best", "second"]),
        ([1.0, 1.0, 2.0], ["best", "best", "second"]),
        ([1.0, 2.0, 2.0, 3.0], ["best", "second", "second", ""]),
        ([1.0, 1.0], ["best", "best"]),
        ([math.nan, 2.0], ["", "best"]),
        ([math.nan, math.nan], ["", ""]),
    ],
)
def test_ties_share_a_place_and_the_undefined_have_none(badness, places):
    assert rank(badness) == places


def test_what_is_printed_alike_is_equally_good():
    assert DICE.badness(DICE.text(0.812341)) == DICE.badness(DICE.text(0.812339))


def test_more_overlap_is_better_less_distance_is_better_and_the_smaller_error_is_better():
    assert DICE.badness("80.00") < DICE.badness("79.99")
    assert HD95.badness("3.00") < HD95.badness("4.00")
    assert VOLUME_ERROR.badness("-1.00") < VOLUME_ERROR.badness("2.00")


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (DICE, 0.81234, "81.23"),
        (HD95, 4.5, "4.50"),
        (VOLUME_ERROR, -0.1, "-10.00"),
        (VOLUME_ERROR, -0.00001, "0.00"),
        (DICE, math.nan, "–"),
    ],
)
def test_how_a_value_is_printed(metric, value, text):
    assert metric.text(value) == text


def test_every_metric_has_a_title():
    assert [metric.column for metric in METRICS] == list(BETTER)


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0004, "< 0.001"), (0.001, "0.001"), (0.04567, "0.046"), (1.0, "1.000"), (math.nan, "too few cases")],
)
def test_how_a_p_value_is_printed(p, text):
    assert print_p(p) == text


def test_latex_knows_every_special_character():
    text = escape_latex('\\{}$&#^_%~<>|"\n')
    assert text == (
        r"\textbackslash{}\{\}\$\&\#\textasciicircum{}\_\%\textasciitilde{}\textless{}\textgreater{}\textbar{}"
        r"\textquotedbl{} "
    )


def test_a_name_that_starts_a_row_of_latex_is_no_option_of_the_row_before():
    assert escape_latex("[T1]*") == "{[}T1]{*}"


def test_markdown_keeps_a_name_in_one_cell():
    assert escape_markdown("a|b\n*c* <d>") == r"a\|b \*c\* &lt;d&gt;"
