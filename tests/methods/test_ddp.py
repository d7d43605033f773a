"""Two processes with half of the batch each compute the gradients of one process with all of it.

Starting them takes longest, so they are started once: for all doors, and for the networks that teachers and
discriminators are.
"""

import importlib
import os
from itertools import cycle
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from small_plans import random_batch, small_dataset_json, small_plans, small_trainer, whole_step, with_small_network
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_missmod.building_blocks.network import unwrapped
from nnunetv2_missmod.host.doors import door_names
from nnunetv2_missmod.modalities import expand_to
from nnunetv2_missmod.training.learning import Learner

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

CASES = ("a", "b", "c", "d")
AVAILABLE = {"a": (True, True), "b": (False, True), "c": (True, True), "d": (True, False)}
PRESENT = {"a": (True, False), "b": (False, True), "c": (True, True), "d": (True, False)}

NETWORKS = {  # that learn in a step, of trainers with a teacher
    "MSTKDNetTrainer": {"student", "teacher", "discriminator"},
    "ACNTrainer": {"student", "teacher", "regressor", "entropy_discriminator", "knowledge_discriminator"},
    "SMUNetTrainer": {"student", "teacher", "discriminator"},
}
PAIRS = [("MSTKDNetTrainer", True), ("MSTKDNetTrainer", False), ("ACNTrainer", False), ("SMUNetTrainer", True)]


class Environment:
    def setenv(self, name, value):
        os.environ[name] = value


def build(name, folder, batch_dice):
    trainer_class = getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)
    plans = small_plans(2, 2, features=(8, 8, 16), batch_size=4, **whole_step(trainer_class))
    plans = with_small_network(trainer_class, plans)
    configuration = plans["configurations"]["3d_fullres"]
    if "dropout" in trainer_class.build_network.__self__.constants():
        configuration["missmod"]["network"]["dropout"] = 0.0  # each process draws its own
    configuration["batch_dice"] = batch_dice
    configuration["architecture"]["arch_kwargs"]["conv_bias"] = False  # before a norm: no gradient but rounding
    trainer = small_trainer(trainer_class, plans, small_dataset_json(2, regions=True), folder, Environment(), CASES)
    trainer.available_in_case = AVAILABLE
    trainer.network.train()
    return trainer


def gradients(trainer, cases):
    """One step's gradients; the subsets depend on the cases alone, not on who draws them."""
    whole = random_batch(trainer, cases=CASES)
    rows = [CASES.index(case) for case in cases]
    batch = {"data": whole["data"][rows], "target": [t[rows] for t in whole["target"]], "keys": list(cases)}
    subsets = cycle((PRESENT, AVAILABLE))  # a trainer that draws twice draws different ones
    trainer.draw_subset = lambda available: torch.tensor([subset[case] for subset in [next(subsets)] for case in cases])
    if hasattr(trainer, "draw_two_subsets"):
        trainer.draw_two_subsets = lambda available: torch.cat((trainer.draw_subset(available), available))
    if hasattr(trainer, "draw_visible"):
        visible = torch.rand(len(CASES), 2, *trainer.grid, generator=torch.Generator().manual_seed(0)) < 0.5
        trainer.draw_visible = lambda present: visible[rows] & expand_to(present, visible[rows])
    if hasattr(trainer, "draw_noise"):
        draw = trainer.draw_noise
        trainer.draw_noise = lambda samples, passes: [level[rows] for level in draw(len(CASES), passes)]
    trainer.loss.weight_factors = tuple(w or 1e-6 for w in trainer.loss.weight_factors)
    for update in trainer.updates(trainer.prepare_batch(batch)):
        torch.stack(list(update.terms.values())).sum().backward()
    learning = [(n, p) for n, p in trainer.network.named_parameters() if p.requires_grad]
    return {n.removeprefix("module."): p.grad.clone() for n, p in learning}


# --- teachers, regressors and discriminators --------------------------------------------------------------------------


def build_pair(name, folder, detach_teacher):
    trainer_class = getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)
    plans = small_plans(2, 2, features=(8, 8, 16), batch_size=4, detach_teacher=detach_teacher)
    plans = with_small_network(trainer_class, plans)
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments["conv_bias"] = False  # before a norm: no gradient but rounding
    dataset_json = small_dataset_json(2, regions=True)
    trainer = small_trainer(trainer_class, plans, dataset_json, folder, Environment(), CASES)
    trainer.available_in_case = AVAILABLE
    trainer.network.train()
    return trainer


def wrap(trainer, rank):
    """What nnU-Net's set-up does under DDP."""
    trainer.is_ddp, trainer.local_rank = True, rank
    trainer.network = DistributedDataParallel(trainer.network)
    for name, (network, optimizer) in trainer.companions().items():
        setattr(trainer, name, Learner(trainer.beside(network, False), optimizer))
    trainer.loss = trainer._build_loss()


def learned(trainer, cases):
    """Weights and first moments, a tenth of the clipped gradients, of every network after one step."""
    whole = random_batch(trainer, cases=CASES)
    rows = [CASES.index(case) for case in cases]
    batch = {"data": whole["data"][rows], "target": [t[rows] for t in whole["target"]], "keys": list(cases)}
    trainer.draw_subset = lambda available: torch.tensor([PRESENT[case] for case in cases])
    trainer.loss.weight_factors = tuple(w or 1e-6 for w in trainer.loss.weight_factors)
    trainer.train_step(batch)
    networks = {"student": Learner(trainer.network, trainer.optimizer), **trainer.companions()}
    return {
        name: {key: (p.detach(), optimizer.state[p]["exp_avg"]) for key, p in unwrapped(network).named_parameters()}
        for name, (network, optimizer) in networks.items()
    }


# --- two processes ----------------------------------------------------------------------------------------------------


def worker(rank, folder, names, pairs, results):
    torch.set_num_threads(1)
    pairs = {(name, detach): build_pair(name, Path(folder), detach) for name, detach in pairs}
    trainers = {(name, dice): build(name, Path(folder), dice) for name in names for dice in (False, True)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for (name, batch_dice), trainer in trainers.items():
        trainer.is_ddp, trainer.local_rank = True, rank
        trainer.network = DistributedDataParallel(trainer.network)
        trainer.loss = trainer._build_loss()
        results[name, batch_dice, rank] = gradients(trainer, CASES[2 * rank : 2 * rank + 2])
        if hasattr(trainer, "gather"):  # shares of different size: three samples over two ranks
            trainer.configuration_manager.configuration["batch_size"] = 3
            local = torch.arange(2.0 - rank) + 2 * rank + 1
            results[name, "uneven", rank] = trainer.gather(local)
        if hasattr(trainer, "order"):
            trainer.order.over_ranks()
            results[name, "order", batch_dice, rank] = (trainer.order.first, trainer.order.scores)
    for pair, trainer in pairs.items():
        wrap(trainer, rank)
        results["pair", pair, rank] = learned(trainer, CASES[2 * rank : 2 * rank + 2])
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory, request):
    """What two processes computed: of all doors, or of those alone whose tests are run."""
    folder = tmp_path_factory.mktemp("two")
    asked = [getattr(item, "callspec", None) for item in request.session.items if item.module is request.module]
    by_name = all(spec and "name" in spec.params for spec in asked)
    names = [spec.params["name"] for spec in asked] if by_name else door_names()
    build(names[0], folder, False)  # writes the preprocessed cases, which the workers share
    results = mp.Manager().dict()
    # Both are forked from a third process, which imports once what takes longest.
    mp.get_context("forkserver").set_forkserver_preload([f"nnunetv2_missmod.trainers.{name}" for name in names])
    of_workers = (str(folder), names, [] if by_name else PAIRS, results)
    mp.start_processes(worker, of_workers, nprocs=2, start_method="forkserver")
    return dict(results)


@pytest.mark.parametrize("name", door_names())
def test_two_processes_give_the_gradients_of_one(name, of_two, tmp_path):
    for batch_dice in (False, True):
        expected = gradients(build(name, tmp_path, batch_dice), CASES)
        scale = max(float(gradient.abs().max()) for gradient in expected.values())
        for rank in (0, 1):
            got = of_two[name, batch_dice, rank]
            assert set(got) == set(expected)
            for key, gradient in expected.items():
                torch.testing.assert_close(got[key], gradient, rtol=1e-3, atol=1e-5 * scale)


def test_shares_of_different_size_are_gathered(of_two):
    gathered = [value.tolist() for key, value in of_two.items() if key[1] == "uneven"]
    assert gathered
    assert all(values == [1, 2, 3, 0] for values in gathered)


def test_the_order_of_removal_is_that_of_all_ranks(of_two, tmp_path):
    trainer = build("CCSDTrainer", tmp_path, False)
    gradients(trainer, CASES)
    assert trainer.order.first.sum() == 2
    for rank in (0, 1):
        first, scores = of_two["CCSDTrainer", "order", False, rank]
        assert torch.equal(first, trainer.order.first)
        torch.testing.assert_close(scores, trainer.order.scores)


@pytest.mark.parametrize("pair", PAIRS)
def test_two_processes_teach_what_one_does(pair, of_two, tmp_path):
    name, detach_teacher = pair
    expected = learned(build_pair(name, tmp_path, detach_teacher), CASES)
    assert expected.keys() == NETWORKS[name]
    for network, parameters in expected.items():
        scale = max(float(moment.abs().max()) for _, moment in parameters.values())
        for key, (weight, moment) in parameters.items():
            has_gradient = moment.abs() > 1e-3 * scale  # Adam gives mere rounding a full step, of either sign
            for rank in (0, 1):
                got, its_moment = of_two["pair", pair, rank][network][key]
                torch.testing.assert_close(its_moment, moment, rtol=1e-3, atol=1e-5 * scale)
                torch.testing.assert_close(got[has_gradient], weight[has_gradient], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pair", PAIRS)
def test_both_processes_have_equal_weights(pair, of_two):
    first, second = (of_two["pair", pair, rank] for rank in (0, 1))
    for network in NETWORKS[pair[0]]:
        assert all(torch.equal(weight, second[network][key][0]) for key, (weight, _) in first[network].items())
