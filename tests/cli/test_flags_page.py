"""docs/flags.md has every flag of every verb, as the parsers have it."""

import pytest
from flags_page import PAGE, flags_page

from nnunetv2_missmod.cli.main import build_parsers

PARSERS = build_parsers()[1]


def test_the_page_is_what_the_parsers_say():
    assert PAGE.read_text(encoding="utf-8") == flags_page(), "`make pages` writes it anew"


@pytest.mark.parametrize("verb", PARSERS)
def test_no_flag_is_forgotten_and_each_says_what_it_is(verb):
    lines = PAGE.read_text(encoding="utf-8").partition(f"## missmod {verb}\n")[2].partition("\n## ")[0].splitlines()
    rows = [line.replace(r"\|", "").strip("|").split("|") for line in lines if line.startswith("| `")]
    actions = [action for action in PARSERS[verb]._actions if action.dest != "help"]
    for action, (name, meaning, choices, _) in zip(actions, rows, strict=True):
        assert [word for word in name.replace("`", "").split() if word.startswith("-")] == action.option_strings
        assert meaning.strip()
        assert choices.replace("`", "").strip() == ", ".join(action.choices or ())
