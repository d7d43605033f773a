"""Before a release: every trainer stands in the tables of README and docs, with the costs that benchmarks measured.

`make release` runs them; `make check` leaves them out, so that a method can be added in one folder and one door.
"""

import pytest
from pages import README, REPOSITORY

from nnunetv2_missmod.host.doors import door_names

pytestmark = pytest.mark.release


def unnamed_in(text):
    return [name for name in door_names() if f"`{name}`" not in text]


def test_the_readme_lists_every_trainer():
    assert unnamed_in(README.read_text(encoding="utf-8").partition("## Methods")[2]) == []


@pytest.mark.parametrize("section", ["# Which", "## What each needs", "## What each costs"])
def test_every_trainer_is_in_the_tables_to_choose_from(section):
    page = REPOSITORY / "docs" / "which_trainer.md"
    assert unnamed_in(page.read_text(encoding="utf-8").partition(section)[2]) == []


def test_the_costs_of_every_trainer_are_measured():
    rows = (REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert [name for name in door_names() if f"| {name} | step |" not in rows] == []
