"""docs/methods.md, made from the cards: `make pages` writes it, and methods/test_methods_page.py holds it equal."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

from pages import REPOSITORY
from sources import ROOT

PAGE = REPOSITORY / "docs" / "methods.md"
METHODS = ROOT / "nnunetv2_missmod" / "methods"
TITLE = "At a glance\n\n"
HEAD = """# The methods

| method | genre | shared by the modalities | a missing modality becomes | loss terms | step | 15 subsets | paper |
|---|---|---|---|---|---|---|---|
"""
CARDS = """
*Genre*: **catch-all**, one model for every subset; **dedicated**, a model for each; **pretrained**, with a stage before
that needs no labels. *Step*: CPU time of a training step in steps of stock nnU-Net on the same plan. *15 subsets*: time
of a prediction from all subsets of four modalities, or from those that contain a dedicated model's own, in forward
passes of the same network ([which trainer](which_trainer.md#what-each-costs) has memory and conditions). `make pages`
writes this page from the cards.

## The cards

What each method is, the paper, every deviation from paper and released code, and what it can be used for. Each card
stands at the top of the method's own folder.
"""
BIBTEX = """
## BibTeX

[methods.bib](methods.bib) has nnU-Net and the papers of the methods; of most papers the first author alone, so fill
them up from the publisher's page.
"""


class Glance(NamedTuple):
    """What a card says of its method at a glance."""

    method: str  # the folder
    name: str
    genre: str
    shared: str
    missing: str
    losses: str
    step: str
    subsets: str
    paper: str

    @property
    def year(self):
        return int(self.paper[-4:])


def glances():
    """What every card says, the earliest paper first."""
    folders = [file.parent for file in METHODS.glob("*/__init__.py")]
    return sorted((glance_of(folder.name, card_of(folder)) for folder in folders), key=lambda g: (g.year, g.name))


def card_of(folder: Path):
    return ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))


def glance_of(method, card):
    """Read the table below "At a glance"; its rows stand in the order of the fields."""
    title, found, after = card.partition(TITLE)
    assert found, f"Expected {TITLE.strip()!r} in the card of {method}"
    table = after.partition("\n\n")[0].splitlines()
    rows = [re.split(r"  +", line.strip(), maxsplit=1) for line in table if not line.strip().startswith("=")]
    wanted = ("genre", "shared", "missing", "losses", "step", "15 subsets", "paper")
    assert [name for name, _ in rows] == [*wanted], f"Expected the rows {wanted} in the card of {method}"
    return Glance(method, title.partition(":")[0], *(value for _, value in rows))


def methods_page():
    """The whole page."""
    found = glances()
    cards = [f"\n::: nnunetv2_missmod.methods.{glance.method}\n    options: {{members: false}}\n" for glance in found]
    return HEAD + "".join(map(row, found)) + CARDS + "".join(cards) + BIBTEX


def row(glance):
    link = f"[{glance.name}](../nnunetv2_missmod/methods/{glance.method}/__init__.py)"
    return f"| {' | '.join([link, *glance[2:]])} |\n"


if __name__ == "__main__":
    PAGE.write_text(methods_page(), encoding="utf-8")
