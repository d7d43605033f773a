"""What a plan's settings mean for each of the trainers that share it, and what is present in a validation step."""

import copy
import importlib
from itertools import product

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer, subset_for

from nnunetv2_missmod.host.doors import door_names, with_doors
from nnunetv2_missmod.host.plan_block import check_overrides, overrides_for
from nnunetv2_missmod.methods.m3ae.pretraining import M3AEPretrainTrainer
from nnunetv2_missmod.methods.m3ae.trainer import M3AETrainer
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.modalities import all_subsets
from nnunetv2_missmod.training.settings import HOST_SETTINGS, trainer_settings
from nnunetv2_missmod.training.trainer import MissingModalityTrainer
from nnunetv2_missmod.training.validation import present_of_subset

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")

TRAINERS = ["ATrainer", "BTrainer"]


# --- the block of a plan ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "of_a", "of_b"),
    [
        ({}, {}, {}),
        ({"epochs": 3, "lr": 0.1}, {"epochs": 3, "lr": 0.1}, {"epochs": 3, "lr": 0.1}),
        ({"ATrainer": {"epochs": 5}}, {"epochs": 5}, {}),
        ({"epochs": 3, "ATrainer": {"epochs": 5}}, {"epochs": 5}, {"epochs": 3}),
        ({"ATrainer": {"epochs": 5}, "epochs": 3}, {"epochs": 5}, {"epochs": 3}),  # whatever the order
        (
            {"epochs": 3, "ATrainer": {"lr": 1}, "BTrainer": {"epochs": 7}},
            {"epochs": 3, "lr": 1},
            {"epochs": 7},
        ),
        ({"epochs": 3, "ATrainer": {}}, {"epochs": 3}, {"epochs": 3}),
        ({"deep": False, "ATrainer": {"word": "x"}}, {"deep": False, "word": "x"}, {"deep": False}),
    ],
)
def test_a_trainer_s_own_settings_go_before_those_for_all(block, of_a, of_b):
    before = copy.deepcopy(block)
    assert overrides_for("ATrainer", block, TRAINERS) == of_a
    assert overrides_for("BTrainer", block, TRAINERS) == of_b
    assert block == before


def test_settings_under_a_name_that_is_no_trainer_s_are_an_error():
    block = {"epochs": 3, "CTrainer": {"epochs": 5}, "ATrainer": {"lr": 1}}
    with pytest.raises(ValueError, match=r"settings under \['CTrainer'\].*Known are: ATrainer, BTrainer\."):
        overrides_for("ATrainer", block, TRAINERS)


def test_a_block_in_place_of_a_value_is_an_error():
    with pytest.raises(ValueError, match=r"settings under \['lr'\].*A setting itself is a number, a word, true or"):
        overrides_for("ATrainer", {"lr": {"encoder": 0.1}}, TRAINERS)


def test_all_the_unknown_names_are_listed():
    with pytest.raises(ValueError, match=r"\['CTrainer', 'DTrainer'\]"):
        overrides_for("ATrainer", {"DTrainer": {}, "CTrainer": {}}, TRAINERS)


def test_a_trainer_that_is_no_door_may_have_settings_under_its_name():
    """A subclass of a user's own."""
    block = {"epochs": 3, "MyTrainer": {"epochs": 5}, "ATrainer": {"epochs": 7}}
    assert overrides_for("MyTrainer", block, TRAINERS) == {"epochs": 5}
    with pytest.raises(ValueError, match="MyTrainer"):
        overrides_for("ATrainer", block, TRAINERS)


def test_settings_are_public_numbers_flags_and_words():
    class Base:
        base_word = "x"
        initial_lr = 1.0

    class Method(Base):
        alpha = 0.5
        count = 3
        flag = True
        word = "learned"
        _hidden = 1
        grid = (1, 2)
        nothing = None

        def method(self):
            pass

    trainer = Method()
    for name in HOST_SETTINGS:
        setattr(trainer, name, 0)
    trainer.alpha = 0.75  # what an instance has goes before its class
    settings = trainer_settings(trainer, Base)
    assert set(settings) == {"alpha", "count", "flag", "word", "base_word", *HOST_SETTINGS}
    assert (settings["alpha"], settings["word"]) == (0.75, "learned")
    assert set(trainer_settings(trainer, Method)) == {"alpha", "count", "flag", "word", *HOST_SETTINGS}


# --- nnU-Net's own settings, declared by a class --------------------------------------------------------------------


class ShortTrainer(ModalityDropoutTrainer):
    """Declares some of nnU-Net's settings."""

    num_epochs = 220
    initial_lr = 0.5
    save_every = 7
    enable_deep_supervision = False


class ShorterTrainer(ShortTrainer):
    """Declares one of them anew."""

    num_epochs = 110


class Long:
    """No trainer, but looked up before one."""

    num_epochs = 330


class MixedTrainer(Long, ShortTrainer):
    """Has its number from elsewhere."""


CLASSES = [(ShortTrainer, 220), (ShorterTrainer, 110), (MixedTrainer, 330)]


@pytest.mark.parametrize(("trainer_class", "num_epochs"), CLASSES)
def test_what_a_class_declares_goes_before_nnunet(make, trainer_class, num_epochs):
    trainer = make(trainer_class)
    assert (trainer.num_epochs, trainer.initial_lr, trainer.save_every) == (num_epochs, 0.5, 7)
    assert trainer.lr_scheduler.max_steps == num_epochs
    assert trainer.optimizer.param_groups[0]["lr"] == 0.5
    assert not trainer.network.decoder.deep_supervision
    stock = make(ModalityDropoutTrainer)
    undeclared = set(HOST_SETTINGS) - vars(ShortTrainer).keys()
    assert len(undeclared) == len(HOST_SETTINGS) - 4
    assert {name: getattr(trainer, name) for name in undeclared} == {name: getattr(stock, name) for name in undeclared}


def test_a_plan_goes_before_what_a_class_declares(make):
    trainer = make(ShorterTrainer, num_epochs=5, ShorterTrainer={"initial_lr": 0.25})
    assert (trainer.num_epochs, trainer.initial_lr, trainer.save_every) == (5, 0.25, 7)
    assert (trainer.settings()["num_epochs"], ShorterTrainer.num_epochs) == (5, 110)


def test_what_no_class_declares_is_nnunets(make):
    trainer, stock = make(ModalityDropoutTrainer), make(nnUNetTrainer)
    assert [getattr(trainer, name) for name in HOST_SETTINGS] == [getattr(stock, name) for name in HOST_SETTINGS]


# --- two trainers that share a plan -----------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(name, **overrides):
        plans = small_plans(2, features=(8, 8, 16), **overrides)
        return small_trainer(name, plans, small_dataset_json(2), tmp_path, monkeypatch)

    return make


def test_both_stages_of_m3ae_share_a_plan(make):
    block = {
        "num_epochs": 7,
        "substitute": "zero",
        "M3AEPretrainTrainer": {"gamma": 0.1, "num_epochs": 9, "penalty": "norm"},
        "M3AETrainer": {"consistency_weight": 0.2, "pretrained": False, "substitute": "mean"},
    }
    first, second = make(M3AEPretrainTrainer, **block), make(M3AETrainer, **block)
    assert (first.num_epochs, first.gamma, first.penalty, first.substitute) == (9, 0.1, "norm", "zero")
    assert (second.num_epochs, second.consistency_weight, second.substitute) == (7, 0.2, "mean")
    assert second.pretrained is False
    assert not hasattr(second, "gamma")
    assert not hasattr(first, "consistency_weight")
    assert first.lr_scheduler.T_max == 9
    assert second.lr_scheduler.T_max == 7


@pytest.mark.parametrize("name", [M3AEPretrainTrainer, M3AETrainer])
def test_another_trainer_s_settings_are_left_alone(name, make):
    trainer = make(name, **{"M3AEPretrainTrainer": {"gamma": 0.1}})
    assert getattr(trainer, "gamma", None) == (0.1 if name is M3AEPretrainTrainer else None)
    saved = trainer.plans_manager.plans["configurations"][CONFIGURATION]["missmod"]["trainer"]
    assert saved == {"M3AEPretrainTrainer": {"gamma": 0.1}}


def test_a_misspelt_setting_under_the_own_name_is_an_error(make):
    block = {"M3AEPretrainTrainer": {"gama": 0.1}}
    with pytest.raises(ValueError, match=r"\['gama'\].*no settings of M3AEPretrainTrainer.*gamma = 0\.005"):
        make(M3AEPretrainTrainer, **block)
    assert make(M3AETrainer, **block).num_epochs == 263


def test_a_setting_for_all_that_one_trainer_does_not_have_is_an_error(make):
    assert make(M3AEPretrainTrainer, gamma=0.1).gamma == 0.1
    with pytest.raises(ValueError, match=r"\['gamma'\].*no settings of M3AETrainer"):
        make(M3AETrainer, gamma=0.1)


def test_a_value_of_another_type_under_the_own_name_is_an_error(make):
    with pytest.raises(ValueError, match=r"gamma = 'much'; expected a value like 0\.005"):
        make(M3AEPretrainTrainer, **{"M3AEPretrainTrainer": {"gamma": "much"}})


def test_a_misspelt_trainer_is_an_error_that_lists_the_doors(make):
    with pytest.raises(ValueError, match=r"M3AEPretrainer'.*Known are: .*M3AEPretrainTrainer, M3AETrainer") as error:
        make(M3AETrainer, **{"M3AEPretrainer": {"gamma": 0.1}})
    assert "ModalityDropoutTrainer" in str(error.value)


def test_the_settings_of_a_subclass_stand_under_its_own_name(make):
    class Ablation(M3AEPretrainTrainer):
        pass

    block = {"M3AEPretrainTrainer": {"gamma": 0.1}, "Ablation": {"gamma": 0.2}}
    assert make(Ablation, **block).gamma == 0.2
    assert make(Ablation, **{"M3AEPretrainTrainer": {"gamma": 0.1}}).gamma == M3AEPretrainTrainer.gamma


def test_a_plan_without_a_block_of_ours_changes_nothing(tmp_path, monkeypatch):
    plans = small_plans(2, features=(8, 8, 16))
    del plans["configurations"][CONFIGURATION]["missmod"]
    trainer = small_trainer(M3AEPretrainTrainer, plans, small_dataset_json(2), tmp_path, monkeypatch)
    assert isinstance(trainer, MissingModalityTrainer)
    assert trainer.gamma == 0.005
    trainer.network.train()
    assert trainer.train_step(random_batch(trainer))["loss"].isfinite()


# --- values that cannot be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_epochs", 0),
        ("num_epochs", -1),
        ("num_epochs", 2.5),
        ("num_epochs", float("nan")),
        ("num_iterations_per_epoch", 0),
        ("num_iterations_per_epoch", True),
        ("num_val_iterations_per_epoch", -1),
        ("save_every", -5),
        ("initial_lr", float("nan")),
        ("initial_lr", float("inf")),
        ("initial_lr", -0.1),
        ("initial_lr", 10**400),
        ("weight_decay", -1e-5),
        ("oversample_foreground_percent", 1.5),
        ("oversample_foreground_percent", -0.5),
        ("consistency_weight", float("-inf")),
        ("consistency_weight", -0.1),
        ("pretraining", "../../elsewhere"),
        ("pretraining", "/tmp/x"),
        ("pretraining", ""),
        ("enable_deep_supervision", 1),
    ],
)
@pytest.mark.parametrize("under_own_name", [False, True])
def test_a_value_out_of_range_is_an_error_that_names_it(make, setting, value, under_own_name):
    block = {"pretrained": False, setting: value}
    with pytest.raises(ValueError, match=rf"missmod block sets {setting} = .*; expected"):
        make(M3AETrainer, **({"M3AETrainer": block} if under_own_name else block))


def test_values_at_their_limits_are_taken(make):
    block = {"num_epochs": 1, "num_iterations_per_epoch": 1, "oversample_foreground_percent": 1, "weight_decay": 0}
    trainer = make(M3AETrainer, pretrained=False, consistency_weight=0, **block)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.weight_decay) == (1, 1, 0)


def test_no_default_of_a_door_is_out_of_range(make, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", with_doors({})["nnUNet_extTrainer"])
    for name in door_names():
        needed = {"pretrained": False} if name == "M3AETrainer" else {}
        door = getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)
        trainer = make(name, **needed, **subset_for(door))
        check_overrides(trainer.settings(), trainer.settings(), name)
        assert overrides_for(name, trainer.settings(), [name]) == trainer.settings()


# --- what is present in a validation step -----------------------------------------------------------------------------


@pytest.mark.parametrize("num_modalities", [1, 2, 3])
def test_what_is_present_is_in_the_subset_or_else_all_that_a_case_has(num_modalities):
    available = all_subsets(num_modalities)
    for subset in all_subsets(num_modalities):
        kept = available.clone(), subset.clone()
        present = present_of_subset(subset, available)
        assert present.dtype == torch.bool
        for row, has in zip(present.tolist(), available.tolist(), strict=True):
            both = [s and h for s, h in zip(subset.tolist(), has, strict=True)]
            assert row == (both if any(both) else has)
        assert torch.equal(available, kept[0])
        assert torch.equal(subset, kept[1])


def test_each_sample_has_present_what_it_has_itself():
    """One that has nothing of the subset changes nothing for the others."""
    rows = [list(row) for row in product([True, False], repeat=3) if any(row)]
    subset = torch.tensor([False, True, False])
    together = present_of_subset(subset, torch.tensor(rows))
    alone = [present_of_subset(subset, torch.tensor([row]))[0] for row in rows]
    assert torch.equal(together, torch.stack(alone))
    assert present_of_subset(subset, torch.tensor([[True, False, True], [True, True, False]])).tolist() == [
        [True, False, True],
        [False, True, False],
    ]
