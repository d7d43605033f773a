"""MST-KDNet's teacher and discriminator learn from two halves of a batch what one process learns from all of it."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from small_plans import random_batch, small_dataset_json, small_plans, small_trainer, with_small_network
from test_ddp import AVAILABLE, CASES, PRESENT, Environment
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_missmod.building_blocks.network import unwrapped
from nnunetv2_missmod.methods.mstkdnet.trainer import MSTKDNetTrainer
from nnunetv2_missmod.training.trainer import Learner

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

NETWORKS = {"student", "teacher", "discriminator"}


def build(folder, detach_teacher):
    plans = small_plans(2, 2, features=(8, 8, 16), batch_size=4, detach_teacher=detach_teacher)
    plans = with_small_network(MSTKDNetTrainer, plans)
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments["conv_bias"] = False  # before a norm: no gradient but rounding
    dataset_json = small_dataset_json(2, regions=True)
    trainer = small_trainer(MSTKDNetTrainer, plans, dataset_json, folder, Environment(), CASES)
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


def worker(rank, folder, results):
    torch.set_num_threads(1)
    trainers = {detach_teacher: build(Path(folder), detach_teacher) for detach_teacher in (False, True)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for detach_teacher, trainer in trainers.items():
        wrap(trainer, rank)
        results[detach_teacher, rank] = learned(trainer, CASES[2 * rank : 2 * rank + 2])
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What each of two processes learned, and the folder of their cases."""
    folder = tmp_path_factory.mktemp("ddp")
    build(folder, True)  # writes the preprocessed cases, which the workers share
    results = mp.Manager().dict()
    mp.spawn(worker, (str(folder), results), nprocs=2)
    return dict(results), folder


@pytest.mark.parametrize("detach_teacher", [True, False])
def test_two_processes_learn_what_one_does(detach_teacher, of_two):
    results, folder = of_two
    expected = learned(build(folder, detach_teacher), CASES)
    assert expected.keys() == NETWORKS
    for name, parameters in expected.items():
        scale = max(float(moment.abs().max()) for _, moment in parameters.values())
        for key, (weight, moment) in parameters.items():
            has_gradient = moment.abs() > 1e-3 * scale  # Adam gives mere rounding a full step, of either sign
            for rank in (0, 1):
                got, its_moment = results[detach_teacher, rank][name][key]
                torch.testing.assert_close(its_moment, moment, rtol=1e-3, atol=1e-5 * scale)
                torch.testing.assert_close(got[has_gradient], weight[has_gradient], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("detach_teacher", [True, False])
def test_both_processes_have_equal_weights(detach_teacher, of_two):
    first, second = (of_two[0][detach_teacher, rank] for rank in (0, 1))
    for name in NETWORKS:
        assert all(torch.equal(weight, second[name][key][0]) for key, (weight, _) in first[name].items())
