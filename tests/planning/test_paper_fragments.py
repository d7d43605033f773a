"""The fragments of plans/: settings that trainers accept, each number with its source."""

import importlib
import json
import re

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer, subset_for

from nnunetv2_missmod.host.doors import door_names, plans_folder
from nnunetv2_missmod.methods.ccsd.network import CCSDNet
from nnunetv2_missmod.methods.dcseg.network import DCSegNet
from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer
from nnunetv2_missmod.methods.m2ftrans.network import M2FTransNet
from nnunetv2_missmod.methods.mmformer.network import MmFormerNet
from nnunetv2_missmod.methods.mstkdnet.network import MSTKDNet
from nnunetv2_missmod.methods.rfnet.network import RFNet
from nnunetv2_missmod.methods.shaspec.network import ShaSpecNet
from nnunetv2_missmod.planning.fragments import load_fragment, load_sources, merge_fragment

SIX_STAGES = (32, 64, 128, 256, 320, 320)
DEMO = plans_folder() / "demo.json"
EMBEDDED = plans_folder() / "embedded.json"
OF_OTHER_NAME = {DEMO: "DCSegTrainer", plans_folder() / "RAHVED.json": "UHVEDTrainer"}  # a trainer that takes it
PAPERS = [file for file in sorted(plans_folder().glob("*.json")) if file not in (*OF_OTHER_NAME, EMBEDDED)]
FRAGMENTS = [*OF_OTHER_NAME, *PAPERS]


# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]


def merged(plans, fragment, name="newPlans"):
    return merge_fragment(plans, CONFIGURATION, fragment, name)["configurations"][CONFIGURATION]


def arch_kwargs(configuration):
    return configuration["architecture"]["arch_kwargs"]


def settings_in(fragment, trainer):
    """What a fragment sets for one trainer: for all, and under its name."""
    block = fragment["missmod"]["trainer"]
    return {**{name: value for name, value in block.items() if not isinstance(value, dict)}, **block.get(trainer, {})}


def trainer_of(file, plans, folder, monkeypatch):
    """The trainer that a fragment is named for, or of a variant."""
    return initialised(OF_OTHER_NAME.get(file, file.stem), plans, folder, monkeypatch)


def initialised(name, plans, folder, monkeypatch):
    """A door's trainer on a plan, which gets a subset where that trainer needs one."""
    door = getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)
    settings = plans["configurations"][CONFIGURATION]["missmod"]["trainer"]
    settings.setdefault(name, {}).update(subset_for(door))
    return small_trainer(door, plans, small_dataset_json(), folder, monkeypatch)


@pytest.mark.parametrize("file", PAPERS, ids=lambda file: file.stem)
def test_the_paper_s_settings_are_the_trainer_s_own_or_their_source_gives_both(file, tmp_path, monkeypatch):
    settings = trainer_of(file, small_plans(), tmp_path, monkeypatch).settings()
    paper = settings_in(load_fragment(file), file.stem)
    sources = load_sources(file)
    defaults = {name: re.search(r"the trainer's default is ([\d.e-]+)", text) for name, text in sources.items()}
    other = {name: float(default[1]) for name, default in defaults.items() if default}
    assert {"initial_lr", "weight_decay", "num_epochs"} < set(paper)
    assert {**paper, **other} == {name: settings[name] for name in paper}


@pytest.mark.parametrize(
    ("trainer", "network_class"),
    [
        ("RFNetTrainer", RFNet),
        ("ShaSpecTrainer", ShaSpecNet),
        ("DCSegTrainer", DCSegNet),
        ("CCSDTrainer", CCSDNet),
        ("MSTKDNetTrainer", MSTKDNet),
        ("MmFormerTrainer", MmFormerNet),
        ("M2FTransTrainer", M2FTransNet),
    ],
)
def test_the_paper_s_constants_are_the_network_s_own(trainer, network_class):
    block = load_fragment(plans_folder() / f"{trainer}.json")["missmod"]["network"]
    constants = block.get(trainer, block)
    assert constants == {name: network_class.constants()[name] for name in constants}


@pytest.mark.parametrize("file", FRAGMENTS, ids=lambda file: file.stem)
def test_a_trainer_accepts_every_fragment(file, tmp_path, monkeypatch):
    """All but the patch, which would be too large for a test."""
    fragment = {key: value for key, value in load_fragment(file).items() if key != "patch_size"}
    plans = merge_fragment(small_plans(), CONFIGURATION, fragment, "newPlans")
    trainer = trainer_of(file, plans, tmp_path, monkeypatch)
    settings = settings_in(fragment, type(trainer).__name__)
    assert settings
    assert {name: getattr(trainer, name) for name in settings} == settings


@pytest.mark.parametrize("name", door_names())
def test_every_trainer_accepts_the_demo_with_constants_for_two_of_them(name, tmp_path, monkeypatch):
    plans = merge_fragment(small_plans(), CONFIGURATION, load_fragment(DEMO), "newPlans")
    trainer = initialised(name, plans, tmp_path, monkeypatch)
    if name == "MSTKDNetTrainer":
        networks = (trainer.network, trainer.teacher.network)
        assert [len(network.transformer.blocks) for network in networks] == [8, 8]
    elif name == "MmFormerTrainer":
        assert trainer.network.position.shape[1] == 128
    else:
        assert not hasattr(trainer.network, "transformer")


def test_both_stages_of_m3ae_share_one_plan(tmp_path, monkeypatch):
    plans = small_plans()
    files = [plans_folder() / f"{name}.json" for name in ("M3AEPretrainTrainer", "M3AETrainer")]
    for file in files:
        fragment = {key: value for key, value in load_fragment(file).items() if key != "patch_size"}
        plans = merge_fragment(plans, CONFIGURATION, fragment, "bothPlans")
    pretraining, finetuning = (trainer_of(file, plans, tmp_path, monkeypatch) for file in files)
    assert (pretraining.num_epochs, finetuning.num_epochs) == (264, 263)
    assert (pretraining.weight_decay, finetuning.weight_decay) == (0, 1e-4)


@pytest.mark.parametrize("file", FRAGMENTS, ids=lambda file: file.stem)
def test_every_fragment_fits_a_plan_for_mri(file):
    plans = small_plans(features=SIX_STAGES, patch=[128] * 3)
    configuration = merged(plans, load_fragment(file))
    assert configuration["batch_size"] == load_fragment(file)["batch_size"]
    assert len(arch_kwargs(configuration)["features_per_stage"]) == arch_kwargs(configuration)["n_stages"]
    assert json.loads(json.dumps(configuration)) == configuration


@pytest.mark.parametrize("file", [file for file in FRAGMENTS if file != DEMO], ids=lambda file: file.stem)
def test_every_number_of_a_paper_has_a_source_and_nothing_else_has(file):
    fragment, trainer = load_fragment(file), OF_OTHER_NAME.get(file, file.stem)
    constants = fragment["missmod"].get("network", {})
    numbers = {**fragment, **settings_in(fragment, trainer), **constants.get(trainer, constants)}
    assert set(load_sources(file)) == set(numbers) - {"missmod"}
    assert all(load_sources(file).values())


@pytest.mark.parametrize(
    ("text", "complaint"), [("{", "Expecting"), ("[1, 2]", r"got \[1, 2\]"), (None, "No such file")]
)
def test_a_file_that_is_no_fragment_is_named(text, complaint, tmp_path):
    file = tmp_path / "mine.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=rf"fragment of a plan.*mine\.json.*{complaint}"):
        load_fragment(file)


@pytest.mark.parametrize("residual", [False, True])
def test_dcseg_runs_on_a_refitted_small_patch(residual, tmp_path, monkeypatch):
    fragment = {**load_fragment(plans_folder() / "DCSegTrainer.json"), "patch_size": [24] * 3}
    plans = small_plans(features=(16, 16, 32, 32), residual=residual, patch=[32] * 3)
    plans = merge_fragment(plans, CONFIGURATION, fragment, "newPlans")
    configuration = PlansManager(plans).get_configuration(CONFIGURATION)
    assert configuration.patch_size == [24] * 3
    network = DCSegNet.from_plans(PlansManager(plans), configuration, 4, 3, enable_deep_supervision=False)
    assert len(network.fusions) == 3  # 24, 12, 6
    assert network.modality_encoders[0].code.out_features == 8
    images = torch.randn(1, 4, 24, 24, 24)
    present = torch.tensor([[True, False, True, False]])
    with torch.no_grad():
        assert network.eval()(images, present).shape == (1, 3, 24, 24, 24)
        out = network.train()(images, present)
    assert out.logits.shape == (1, 3, 24, 24, 24)
    assert out.reconstruction.shape == images.shape
    trainer = small_trainer(DCSegTrainer, plans, small_dataset_json(), tmp_path, monkeypatch)
    trainer.network.train()
    terms = trainer.train_step(random_batch(trainer))
    assert all(torch.isfinite(term) for term in terms.values())
