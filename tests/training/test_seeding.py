"""A seeded training whose batches are made in its own process can be had again, also through an interruption."""

import random

import numpy as np
import pytest
import torch
from small_plans import CONFIGURATION, CPU, small_dataset_json
from small_training import environment_of, training_plans, write_training

from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.training.seeding import seed_process

pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")


class StoppedError(Exception):
    """Stands for the end of a process."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("training")
    write_training(root, training_plans())
    return root


@pytest.fixture
def trained(root, tmp_path, monkeypatch):
    """Train briefly and give the weights; what was drawn in this process before must not count."""
    for name, folder in environment_of(root).items():
        monkeypatch.setenv(name, folder)
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")

    def train(seed, before, interrupted=False, goes_on=False):
        seed_process(before)
        plans = {**training_plans(seed=seed), "continue_training": goes_on}
        trainer = ModalityDropoutTrainer(plans, CONFIGURATION, 0, small_dataset_json(2), CPU)
        trainer.logger.local_logger.plot_progress_png = lambda *_: None
        if goes_on:
            trainer.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
        if interrupted:
            trainer.on_epoch_end = lambda: (ModalityDropoutTrainer.on_epoch_end(trainer), stop())
            with pytest.raises(StoppedError):
                trainer.run_training()
        else:
            trainer.run_training()
        return torch.cat([weights.flatten() for weights in trainer.network.state_dict().values()])

    return train


def stop():
    raise StoppedError


def test_a_seed_gives_the_same_weights_and_another_one_others(trained):
    first = trained(seed=5, before=1)
    assert torch.equal(trained(seed=5, before=2), first)
    assert not torch.equal(trained(seed=6, before=1), first)
    trained(seed=5, before=3, interrupted=True)
    assert torch.equal(trained(seed=5, before=4, goes_on=True), first)


def test_every_generator_is_seeded_by_all_of_the_numbers():
    def draw(*numbers):
        seed_process(*numbers)
        return random.random(), np.random.random(), torch.rand(1).item()

    drawn = {numbers: draw(*numbers) for numbers in ((0,), (1,), (0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0))}
    assert all(draw(*numbers) == found for numbers, found in drawn.items())
    assert all(len(set(values)) == len(drawn) for values in zip(*drawn.values(), strict=True))
