"""Optimizer and schedule as settings: each method's own as ever, others by name, and checkpoints that go with them."""

import copy
import math

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer, with_small_network

from nnunetv2_missmod.methods.acn.trainer import ACNTrainer
from nnunetv2_missmod.methods.ccsd.trainer import CCSDTrainer
from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer
from nnunetv2_missmod.methods.m2ftrans.trainer import M2FTransTrainer
from nnunetv2_missmod.methods.m3ae.pretraining import M3AEPretrainTrainer
from nnunetv2_missmod.methods.m3ae.trainer import M3AETrainer
from nnunetv2_missmod.methods.mmformer.trainer import MmFormerTrainer
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.methods.mstkdnet.trainer import MSTKDNetTrainer
from nnunetv2_missmod.methods.robustseg.trainer import RobustSegTrainer
from nnunetv2_missmod.methods.smunet.trainer import SMUNetTrainer
from nnunetv2_missmod.methods.uhved.trainer import UHVEDTrainer
from nnunetv2_missmod.training.optimizers import OPTIMIZERS, SCHEDULES, PolyLR, build_optimizer, build_schedule

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

ADAM = {"optimizer_name": "adam", "initial_lr": 1e-3}
SGD = torch.optim.SGD, {"lr": 1e-2, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}
OWN = {  # the optimizer of each method, and its schedule: papers' and released code's numbers
    ModalityDropoutTrainer: (*SGD, "poly", 1000),
    CCSDTrainer: (*SGD, "poly", 1000),
    DCSegTrainer: (torch.optim.Adam, {"lr": 2e-4, "weight_decay": 1e-4, "amsgrad": True}, "poly", 220),
    MSTKDNetTrainer: (torch.optim.Adam, {"lr": 1e-4, "weight_decay": 1e-5, "amsgrad": False}, "poly", 1000),
    UHVEDTrainer: (torch.optim.Adam, {"lr": 1e-3, "weight_decay": 1e-5, "amsgrad": False}, "poly", 240),
    RobustSegTrainer: (torch.optim.Adam, {"lr": 1e-4, "weight_decay": 1e-4, "amsgrad": False}, "poly", 360),
    MmFormerTrainer: (torch.optim.Adam, {"lr": 2e-4, "weight_decay": 1e-4, "amsgrad": True}, "poly", 250),
    ACNTrainer: (torch.optim.Adam, {"lr": 1e-4, "weight_decay": 1e-5, "amsgrad": False}, "poly", 228),
    SMUNetTrainer: (torch.optim.Adam, {"lr": 1e-4, "weight_decay": 1e-5, "amsgrad": False}, "poly", 228),
    M2FTransTrainer: (torch.optim.AdamW, {"lr": 2e-4, "weight_decay": 1e-4, "amsgrad": True}, "poly", 600),
    M3AEPretrainTrainer: (torch.optim.Adam, {"lr": 3e-4, "weight_decay": 0.0, "amsgrad": False}, "cosine", 264),
    M3AETrainer: (torch.optim.Adam, {"lr": 3e-4, "weight_decay": 1e-4, "amsgrad": False}, "cosine", 263),
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(trainer_class=ModalityDropoutTrainer, seed=0, **overrides):
        pretrained = {"pretrained": False} if trainer_class is M3AETrainer else {}
        plans = with_small_network(trainer_class, small_plans(2, 2, features=(8, 8, 16), **pretrained, **overrides))
        trainer = small_trainer(trainer_class, plans, small_dataset_json(2), tmp_path, monkeypatch, seed=seed)
        trainer.network.train()
        return trainer

    return make


def rates(trainer, epochs):
    """The learning rates of the groups in some epochs."""
    found = []
    for epoch in epochs:
        trainer.lr_scheduler.step(epoch)
        found.append([group["lr"] for group in trainer.optimizer.param_groups])
    return found


@pytest.mark.parametrize("trainer_class", OWN)
def test_each_method_has_its_own_optimizer_and_schedule(trainer_class, make):
    trainer = make(trainer_class)
    kind, numbers, schedule, epochs = OWN[trainer_class]
    assert type(trainer.optimizer) is kind
    group = trainer.optimizer.param_groups[0]
    assert {name: group[name] for name in numbers} == numbers
    if kind is torch.optim.Adam:
        assert group["betas"] == (0.9, 0.99 if trainer_class is MSTKDNetTrainer else 0.999)
    halfway = {"poly": 0.5**0.9, "cosine": (1 + math.cos(math.pi * (epochs // 2) / epochs)) / 2}[schedule]
    assert rates(trainer, [0, epochs // 2])[0][0] == numbers["lr"]
    assert rates(trainer, [epochs // 2])[0][0] == pytest.approx(numbers["lr"] * halfway, rel=1e-12)


def test_sgd_and_poly_are_nnunets_to_the_bit(make, tmp_path, monkeypatch):
    ours = make(num_epochs=1000)
    theirs = small_trainer(
        nnUNetTrainer, small_plans(2, 2, features=(8, 8, 16)), small_dataset_json(2), tmp_path, monkeypatch
    )
    expected, got = theirs.optimizer.state_dict(), ours.optimizer.state_dict()
    assert type(ours.optimizer) is type(theirs.optimizer)
    assert expected == got
    assert rates(ours, range(1000)) == rates(theirs, range(1000))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("trainer_class", [ModalityDropoutTrainer, MSTKDNetTrainer, M3AEPretrainTrainer])
def test_a_plan_trades_the_optimizer(name, trainer_class, make):
    numbers = {"initial_lr": 1e-3, "weight_decay": 0.125, "adam_beta2": 0.75}
    trainer = make(trainer_class, optimizer_name=name, amsgrad=True, **numbers)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    optimizers = [learner.optimizer for learner in trainer.learners()]
    assert {type(optimizer) for optimizer in optimizers} == {kind}
    group = trainer.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (1e-3, 0.125)
    betas = {group["betas"] for optimizer in optimizers for group in optimizer.param_groups if "betas" in group}
    assert betas == (set() if name == "sgd" else {(0.9, 0.75)})
    assert group.get("amsgrad", True)
    before = copy.deepcopy(trainer.network.state_dict())
    outputs = trainer.train_step(random_batch(trainer))
    assert all(term.isfinite() for term in outputs.values())
    assert any(not torch.equal(value, before[key]) for key, value in trainer.network.state_dict().items())


@pytest.mark.parametrize("trainer_class", [ModalityDropoutTrainer, MSTKDNetTrainer])
def test_a_trainer_that_is_not_initialised_yet_loads_a_checkpoint_as_the_plan_has_it(trainer_class, make, tmp_path):
    """So nnU-Net's command does with --c."""
    trainer, file = make(trainer_class, optimizer_name="adamw", initial_lr=1e-3), str(tmp_path / "checkpoint.pth")
    trainer.train_step(random_batch(trainer))
    trainer.save_checkpoint(file)
    plans = {**trainer.plans_manager.plans, "continue_training": True}
    resumed = trainer_class(plans, trainer.configuration_name, 0, trainer.dataset_json, torch.device("cpu"))
    resumed.load_checkpoint(file)
    weights = resumed.network.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in trainer.network.state_dict().items())


@pytest.mark.parametrize("optimizer_name", ["adam", "adamw"])
def test_a_training_with_another_optimizer_resumes_exactly(optimizer_name, make, tmp_path):
    setting = {"optimizer_name": optimizer_name, "initial_lr": 1e-3, "lr_schedule": "cosine", "num_epochs": 4}
    whole, file = make(**setting), str(tmp_path / "checkpoint.pth")
    whole.train_step(random_batch(whole, seed=1))
    whole.save_checkpoint(file)
    resumed = make(seed=1, **setting)
    resumed.load_checkpoint(file)
    whole.current_epoch = resumed.current_epoch
    for trainer in (whole, resumed):
        trainer.on_train_epoch_start()
        trainer.train_step(random_batch(trainer, seed=2))
    weights = resumed.network.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in whole.network.state_dict().items())
    assert str(whole.optimizer.state_dict()) == str(resumed.optimizer.state_dict())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_group_follows_the_schedule_from_its_own_rate(optimizer, schedule, make):
    setting = {"optimizer_name": optimizer, "lr_schedule": schedule, "initial_lr": 0.1, "substitute_lr": 0.4}
    trainer = make(M3AEPretrainTrainer, num_epochs=10, **setting)
    share = {"poly": lambda e: (1 - e / 10) ** 0.9, "cosine": lambda e: (1 + math.cos(math.pi * e / 10)) / 2}[schedule]
    expected = [[0.1 * share(epoch), 0.4 * share(epoch)] for epoch in range(11)]
    for got, wanted in zip(rates(trainer, range(11)), expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-12)


def test_the_schedule_counts_by_itself_as_nnunets_does():
    def optimizer():
        return torch.optim.SGD([torch.zeros(1)], 0.5)

    ours, theirs = PolyLR(optimizer(), 0.5, 4), PolyLRScheduler(optimizer(), 0.5, 4)
    for _ in range(3):
        ours.step(), theirs.step()
        assert ours.optimizer.param_groups[0]["lr"] == theirs.optimizer.param_groups[0]["lr"]


def test_a_rate_changed_between_two_runs_goes_before_that_of_the_checkpoint(make, tmp_path):
    """As in nnU-Net, whose schedule knows the plan alone."""
    file = str(tmp_path / "checkpoint.pth")
    make(initial_lr=0.5).save_checkpoint(file)
    resumed = make(initial_lr=0.125)
    resumed.load_checkpoint(file)
    assert rates(resumed, [0, 500]) == [[0.125], [0.125 * 0.5**0.9]]


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer_name": "adamm", "initial_lr": 1.0}, "optimizer_name to be one of sgd, adam, adamw, got 'adamm'"),
        ({"lr_schedule": "step"}, "lr_schedule to be one of poly, cosine, got 'step'"),
        ({"optimizer_name": "adam"}, "initial_lr beside optimizer_name = 'adam'.*own is for sgd.*1e-3 to 1e-4"),
        ({"optimizer_name": "adamw"}, "initial_lr beside optimizer_name = 'adamw'"),
    ],
)
def test_a_wrong_word_or_a_rate_of_another_optimizer_is_an_error(wrong, message, make):
    with pytest.raises(ValueError, match=message):
        make(**wrong)


def test_sgd_in_place_of_adam_needs_a_rate_as_well_but_adamw_does_not(make):
    with pytest.raises(ValueError, match=r"optimizer_name = 'sgd'.*own is for adam\. Usual for sgd is 1e-2"):
        make(DCSegTrainer, optimizer_name="sgd")
    trainer = make(DCSegTrainer, optimizer_name="adamw")
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert trainer.optimizer.param_groups[0]["lr"] == 2e-4
    assert type(make(optimizer_name="sgd").optimizer) is torch.optim.SGD


@pytest.mark.parametrize("was", OPTIMIZERS)
@pytest.mark.parametrize("now", OPTIMIZERS)
def test_a_checkpoint_of_another_optimizer_is_refused_before_it_is_loaded(was, now, make, tmp_path):
    file = str(tmp_path / "checkpoint.pth")
    former = make(optimizer_name=was, initial_lr=1e-3)
    former.train_step(random_batch(former))
    former.save_checkpoint(file)
    trainer = make(optimizer_name=now, initial_lr=1e-3, seed=1)
    before = copy.deepcopy(trainer.network.state_dict())
    if was == now:
        trainer.load_checkpoint(file)
        return
    with pytest.raises(ValueError, match=f"training with {now}, as the plan has it, got one with {was}"):
        trainer.load_checkpoint(file)
    assert all(torch.equal(value, before[key]) for key, value in trainer.network.state_dict().items())


@pytest.mark.parametrize("trainer_class", [ModalityDropoutTrainer, DCSegTrainer])
def test_a_checkpoint_of_earlier_versions_is_of_the_methods_own_optimizer(trainer_class, make, tmp_path):
    file = str(tmp_path / "checkpoint.pth")
    make(trainer_class).save_checkpoint(file)
    checkpoint = torch.load(file, weights_only=False)
    del checkpoint["missmod"]["optimizer_name"]
    torch.save(checkpoint, file)
    make(trainer_class).load_checkpoint(file)
    other = {ModalityDropoutTrainer: "adam", DCSegTrainer: "sgd"}[trainer_class]
    with pytest.raises(ValueError, match=f"with {other}, as the plan has it"):
        make(trainer_class, optimizer_name=other, initial_lr=1e-3).load_checkpoint(file)


def test_the_plan_that_the_documentation_gives_trains(make):
    trainer = make(**ADAM)
    block = trainer.plans_manager.plans["configurations"][CONFIGURATION]["missmod"]["trainer"]
    assert block == ADAM
    assert trainer.train_step(random_batch(trainer))["loss"].isfinite()


def test_builders_take_what_the_settings_name():
    weights = [torch.zeros(2, requires_grad=True)]
    optimizer = build_optimizer("adamw", weights, 0.5, 0.25, amsgrad=True, betas=(0.8, 0.9))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["amsgrad"], group["betas"]) == (0.5, 0.25, True, (0.8, 0.9))
    assert build_schedule("cosine", optimizer, 0.5, 7).T_max == 7
    assert build_schedule("poly", optimizer, 0.5, 7).max_steps == 7
