"""docs/methods.md has every method, as its card has it."""

import re

import pytest
from methods_page import METHODS, PAGE, glance_of, glances, methods_page
from pages import REPOSITORY

WHICH = REPOSITORY / "docs" / "which_trainer.md"
CARD = """One: a method.

At a glance

    ==========  ============
    genre       catch-all
    shared      an encoder
    missing     zeros
    losses      segmentation
    step        1.5
    15 subsets  9.1
    paper       A et al., 2020
    ==========  ============

More.
"""


def test_the_page_is_what_the_cards_say():
    assert PAGE.read_text(encoding="utf-8") == methods_page(), "`make pages` writes it anew"


def test_no_method_is_forgotten():
    folders = sorted(file.parent.name for file in METHODS.glob("*/network.py"))
    assert sorted(glance.method for glance in glances()) == folders


def test_a_card_without_the_table_or_a_row_of_it_is_an_error():
    assert glance_of("one", CARD).paper == "A et al., 2020"
    with pytest.raises(AssertionError, match="At a glance"):
        glance_of("one", CARD.replace("At a glance", "In short"))
    with pytest.raises(AssertionError, match="Expected the rows"):
        glance_of("one", CARD.replace("    shared      an encoder\n", ""))


def test_costs_are_those_that_were_measured():
    """Of the same trainers on the page that says how they were."""
    rows = re.findall(
        r"^\| `(\w+)Trainer` \| ([\d.]+) \| [\d.]+ \|.*?\| ([\d.]+|predicts nothing) \| [^|]+ \|$",
        WHICH.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    measured = {trainer.lower(): (step, subsets) for trainer, step, subsets in rows}
    for glance in (glance for glance in glances() if glance.step != "not measured"):  # a release asks for it
        of_method = glance.method.replace("_", "")
        before, _, last = glance.step.rpartition(", then ")
        assert measured[of_method] == (last, glance.subsets)
        assert not before or measured[f"{of_method}pretrain"][0] == before
