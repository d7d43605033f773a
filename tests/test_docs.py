"""The pages of docs/: blocks are run, links lead somewhere, verbs and flags exist; test_end_to_end.py runs commands."""

import argparse
import importlib
import json
import re
import sys
from pathlib import Path

import nnunetv2
import pytest
import torch
from pages import (
    PAGES,
    README,
    REPOSITORY,
    anchors_of,
    blocks_of,
    code_in_text,
    each_of,
    each_with,
    links_of,
    missmod_commands,
    shows,
    texts_of,
)
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod import methods
from nnunetv2_missmod.cli.main import build_parser
from nnunetv2_missmod.host.doors import PRETRAINING, door_names
from nnunetv2_missmod.modalities import all_subsets
from nnunetv2_missmod.planning.fragments import merge_fragment

KINDS = {"bash", "text", "json", "python"}
WRITTEN = [README, *PAGES]
EVERY_SUBSET = ("Every subset", "Every subset of a case, whole commands")
LINKED = [*WRITTEN, *(REPOSITORY / folder / "README.md" for folder in ("benchmarks", "plans"))]
NNUNETS_PARSERS = (
    "run/run_training.py",
    "inference/predict_from_raw_data.py",
    "experiment_planning/plan_and_preprocess_entrypoints.py",
    "model_sharing/entry_points.py",
)


# --- blocks -----------------------------------------------------------------------------------------------------------


@each_of(PAGES)
def test_every_block_is_of_a_kind_that_is_run(page):
    blocks = blocks_of(page)
    assert [block for block in blocks if block.language not in KINDS] == []
    shown = [block.language for block in blocks if block.language in ("bash", "text")]
    assert shown[:1] != ["text"], "output of no command"


@each_with("json")
def test_every_json_block_is_a_fragment_that_its_trainers_accept(page, tmp_path, monkeypatch):
    for number, text in enumerate(texts_of(page, "json")):
        named = [name for name in door_names() if f'"{name}"' in text] or ["DCSegTrainer"]
        plans = merge_fragment(small_plans(), CONFIGURATION, json.loads(text), "myPlans")
        for name in named:
            trainer_class = getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)
            small_trainer(trainer_class, plans, small_dataset_json(), tmp_path / f"{number}{name}", monkeypatch)


@pytest.fixture
def my_method(tmp_path, monkeypatch):
    """The files of extend.md, written below this package's folders for as long as a test runs."""
    for text in texts_of(REPOSITORY / "docs" / "extend.md", "python"):
        name = re.match(r"# (\S+\.py)\n", text)[1]
        file = tmp_path / name.removeprefix("nnunetv2_missmod/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "methods")])
    monkeypatch.syspath_prepend(str(tmp_path / "trainers"))
    yield importlib.import_module("MyTrainer").MyTrainer
    for name in [name for name in sys.modules if "my_method" in name or name == "MyTrainer"]:
        del sys.modules[name]


def test_the_method_of_extend_trains_and_what_is_absent_is_absent(my_method, tmp_path, monkeypatch):
    plans = small_plans(3, spread_weight=0.5)
    trainer = small_trainer(my_method, plans, small_dataset_json(3, regions=True), tmp_path, monkeypatch)
    assert trainer.spread_weight == 0.5
    batch = random_batch(trainer)
    assert set(trainer.train_step(batch)) == {"loss", "segmentation", "spread"}
    trainer.set_deep_supervision_enabled(False)
    network, images = trainer.network.eval(), batch["data"]
    with torch.no_grad():
        for subset in all_subsets(3):
            present, blank = subset.expand(2, -1), images.clone()
            blank[:, ~subset] = float("nan")
            assert torch.equal(network(blank, present), network(images, present))
            blank[:, ~subset] = 7
            assert torch.equal(network(blank), network(images, present))


# --- links, verbs and flags -------------------------------------------------------------------------------------------


@each_of(LINKED)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors_of(target), f"{page.name} links to {link}"


@each_of(LINKED)
def test_every_missmod_command_has_a_verb_and_flags_that_exist(page):
    verbs = verbs_of(build_parser())
    for words in [words for code in code_in_text(page) for words in missmod_commands(code)]:
        assert words[:1] == [] or words[0] in verbs, f"{page.name}: missmod {' '.join(words)}"
        known = verbs[words[0]] if words and words[0] != "run" else None
        unknown = [word for word in words[1:] if word.startswith("-") and known and word not in known]
        assert unknown == [], f"{page.name}: missmod {' '.join(words)}"


@each_of(WRITTEN)
def test_every_missmod_command_of_a_block_is_parsed(page):
    for script in texts_of(page, "bash"):
        for words in missmod_commands(script):
            build_parser().parse_args(words)


@each_of(WRITTEN)
def test_every_flag_that_the_text_names_is_one_of_missmod_or_nnunet(page):
    sources = [Path(nnunetv2.__file__).parent / name for name in NNUNETS_PARSERS]
    nnunets = {flag for file in sources for flag in re.findall(r"""['"](-[\w-]+)['"]""", file.read_text())}
    known = nnunets.union(*verbs_of(build_parser()).values())
    named = [code.split()[0] for code in code_in_text(page) if re.match(r"--?[a-z]", code)]
    assert [flag for flag in named if flag not in known] == []


def verbs_of(parser):
    """The flags of every verb."""
    (choices,) = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {verb: set(of_verb._option_string_actions) for verb, of_verb in choices.items()}


def test_the_parser_of_pages_finds_what_it_must(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# What? A `b`\n\n[x](a.md#b) [w](https://w.de) `--flag`\n\n```bash\nmissmod run \\\n  a  # no\n```\n"
    )
    assert anchors_of(page) == {"what-a-b"}
    assert links_of(page) == ["a.md#b"]
    assert code_in_text(page) == ["b", "--flag"]
    assert missmod_commands(texts_of(page, "bash")[0]) == [["run", "a"]]
    assert shows("a\n  x\nb c", "a\n...\nb")
    assert shows("a b", "a ... b")
    assert not shows("a x b", "a b")
    assert not shows("b a", "a ... b")
    assert not shows("ab", "a")


# --- figures ----------------------------------------------------------------------------------------------------------


def rows_of(page, section="", job=None):
    """Cells of the tables' rows that begin with a trainer's name, by name, of one section, of one job."""
    text = page.read_text(encoding="utf-8")
    text = text.partition(section)[2].partition("\n## ")[0] if section else text
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    rows = [row for row in rows if row[0].endswith("Trainer") and (job is None or row[1] == job)]
    return {row[0]: row[1:] for row in reversed(rows)}


def test_the_costs_are_those_of_the_benchmarks():
    benchmarks = REPOSITORY / "benchmarks" / "README.md"
    steps, predictions = (rows_of(benchmarks, job=job) for job in ("step", "prediction"))
    subsets, commands = (rows_of(benchmarks, f"## {title}\n") for title in EVERY_SUBSET)
    costs = rows_of(REPOSITORY / "docs" / "which_trainer.md", "## What each costs")
    assert set(costs) == set(steps) - {"nnUNetTrainer"}
    for name, (time, memory, of_prediction, parameters, passes, clock) in costs.items():
        assert [time, memory] == steps[name][1:3]
        if name.endswith(PRETRAINING):
            assert name not in predictions
            continue
        assert [of_prediction, parameters] == [predictions[name][1], predictions[name][8]]
        assert passes == subsets[name][2]
        measured = re.search(r"\((.*)\)", commands[name][2])[1] if name in commands else "not measured"
        assert clock == measured
    in_readme = rows_of(README, "## Methods")
    assert set(in_readme) == set(costs)
    for name, cells in in_readme.items():
        rounded = re.fullmatch(r"(.*) x time, (.*) x memory", cells[-1])
        assert [float(rounded[1]), float(rounded[2])] == pytest.approx(
            [float(steps[name][1]), float(steps[name][2])], abs=0.0501
        )
