"""The README and the pages of docs/, for the tests that run them."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
FIRST_STEPS = REPOSITORY / "docs" / "first_steps.md"  # on whose model the commands of the other pages run


class Block(NamedTuple):
    """A code block: its language, its text and the line of the page that it begins on."""

    language: str
    text: str
    line: int


def tokens_of(page):
    return MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))


def blocks_of(page):
    """The code blocks of a page, in order; one that is only indented has the language ``""``."""
    found = [token for token in tokens_of(page) if token.type in ("fence", "code_block")]
    return [Block(token.info.strip(), token.content, token.map[0] + 1) for token in found]


def texts_of(page, language):
    """The texts of a page's code blocks of one language, in order."""
    return [block.text for block in blocks_of(page) if block.language == language]


def each_of(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: f"{page.parent.name}/{page.stem}")


def each_with(language):
    """The pages of docs/ that have a block in the language."""
    return each_of([page for page in PAGES if texts_of(page, language)])


def shows(output, expected):
    """Whether an output has what a block expects: ``...`` stands for any words, blanks for any blanks."""
    rest = f" {' '.join(output.split())} "
    for part in f" {' '.join(expected.split())} ".split("..."):
        _, found, rest = rest.partition(part)
        if not found:
            return False
        rest = f" {rest}"
    return True


def code_in_text(page):
    """What stands between backticks in a page's paragraphs, headings and tables."""
    return [part.content for part in _inline(page) if part.type == "code_inline"]


def links_of(page):
    """Where the links and pictures of a page lead, without addresses on the web."""
    targets = [part.attrs.get("href", part.attrs.get("src")) for part in _inline(page)]
    return [target for target in targets if target and not re.match(r"\w+:", target)]


def anchors_of(page):
    """The anchors that GitHub gives the headings of a page."""
    tokens = tokens_of(page)
    headings = [text.content for opening, text in pairwise(tokens) if opening.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missmod_commands(script):
    """The words after every `missmod` that a script calls."""
    lines = script.replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:^|[\s(])missmod ([^)|&;>#]*)", line) for line in lines]
    return [shlex.split(match[1]) for match in found if match]


def _inline(page):
    return [part for token in tokens_of(page) if token.type == "inline" for part in token.children]
