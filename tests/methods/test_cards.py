"""Each method's card has a table of its settings: all of them, and with the defaults that they have."""

import ast
import importlib
import inspect
import pkgutil
import re
from itertools import product, zip_longest

import pytest

from nnunetv2_missmod import methods
from nnunetv2_missmod.host.doors import door_names
from nnunetv2_missmod.training.settings import declared_settings

TITLE = re.compile(r"^Settings(?: of ``(\w+)``)? \(symbol in the paper / paper / released code / default\)")
COLUMNS = ["setting", "symbol", "paper", "released", "default"]


def folder_of(trainer):
    """The method whose folder a trainer's class stands in."""
    return trainer.__module__.rpartition(".")[0].rpartition(".")[2]


def trainers():
    """The trainers of the doors by their method."""
    found = {}
    for name in door_names():
        trainer = getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)
        found.setdefault(folder_of(trainer), []).append(trainer)
    return found


def settings_of(trainer):
    """What a plan may override of what the method's own modules declare: of the trainer and of its network."""
    own = [c for c in trainer.__mro__ if folder_of(c) == folder_of(trainer)]
    return {**declared_settings(own), **trainer.build_network.__self__.constants()}


def tables_of(card):
    """Tables (trainer or None, rows) of settings in a docstring; a row is a list of its cells, the head the first."""
    lines = inspect.cleandoc(card).splitlines()
    titles = {number: title[1] for number, line in enumerate(lines) if (title := TITLE.match(line))}
    return [(trainer, rows_below(lines[number:])) for number, trainer in titles.items()]


def rows_below(lines):
    """The rows of the first table of these lines."""
    rules = [number for number, line in enumerate(lines) if re.fullmatch(r" *=[ =]*", line)][:3]
    columns = [match.span() for match in re.finditer("=+", lines[rules[0]])]
    rows = [line for line in lines[rules[0] : rules[2]] if "=" not in line.split()[0]]
    for row, (_, end) in product(rows, columns[:-1]):
        assert row[end] == " ", f"Expected a cell that ends where its column does, got {row!r}."
    starts = [start for start, _ in columns]
    return [[row[a:b].strip() for a, b in zip_longest(starts, starts[1:])] for row in rows]


def documented(method):
    """Rows of a method's card by trainer: (setting, symbol, paper, released, default)."""
    card = importlib.import_module(f"nnunetv2_missmod.methods.{method}").__doc__
    return {name or trainers()[method][0].__name__: rows for name, rows in tables_of(card)}


def test_every_method_is_looked_at():
    assert set(trainers()) == {module.name for module in pkgutil.iter_modules(methods.__path__)}


@pytest.mark.parametrize("method", sorted(trainers()))
def test_the_card_has_every_setting_with_its_default(method):
    tables = documented(method)
    expected = {t.__name__: settings_of(t) for t in trainers()[method] if settings_of(t)}
    assert set(tables) == set(expected)
    for trainer, (head, *rows) in tables.items():
        assert head == COLUMNS
        defaults = {row[0].strip("`"): ast.literal_eval(row[4]) for row in rows}
        assert len(defaults) == len(rows)
        assert set(defaults) == set(expected[trainer])
        for name, value in expected[trainer].items():
            assert type(defaults[name]) is type(value), name
            assert defaults[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name


@pytest.mark.parametrize("method", sorted(trainers()))
def test_every_cell_says_something(method):
    for head, *rows in documented(method).values():
        assert all(len(row) == len(head) and all(row) for row in rows)


def test_a_table_is_read_as_it_stands():
    card = """One method.

    Settings of ``OneTrainer`` (symbol in the paper / paper / released code / default), ``-``: says nothing
        ============= ======== ======== ========== =========
        setting       symbol   paper    released   default
        ============= ======== ======== ========== =========
        ``alpha``     alpha    0.4      -          0.4
        ``word``      -        a few    1 / 0.07   "as it is"
        ============= ======== ======== ========== =========
        250 of them.
    """
    rows = [COLUMNS, ["``alpha``", "alpha", "0.4", "-", "0.4"], ["``word``", "-", "a few", "1 / 0.07", '"as it is"']]
    assert tables_of(card) == [("OneTrainer", rows)]
    with pytest.raises(AssertionError, match="a cell that ends where its column does"):
        tables_of(card.replace("a few    ", "a few ones"))
