"""Small trainers of CCSD and what its tests ask them."""

import math

import numpy as np
import torch
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.building_blocks.network import finest
from nnunetv2_missmod.methods.ccsd.trainer import CCSDTrainer

FULL, PARTIAL = (True, True, True), (True, False, True)
ONE_EACH = [[True, False, False], [False, False, True]]


def ccsd_maker(folder, monkeypatch):
    """Give a function that makes trainers of equal weights, whatever their plan overrides."""

    def make(modalities=3, dims=2, regions=False, network=None, **overrides):
        overrides = {"warm_up_fraction": 0.0, **overrides}
        plans = small_plans(modalities, dims, features=(8, 8, 8, 16), **overrides)
        plans["configurations"][CONFIGURATION]["missmod"]["network"] = network or {}
        trainer = small_trainer(CCSDTrainer, plans, small_dataset_json(modalities, regions), folder, monkeypatch)
        trainer.network.train()
        return trainer

    return make


def prepared(trainer, available=(FULL, FULL), seed=0):
    """A batch as the training step takes it."""
    trainer.available_in_case |= dict(zip("ab", available, strict=True))
    return trainer.prepare_batch(random_batch(trainer, seed=seed))


def segmenting(trainer, subsets):
    """The trainer, which now segments these subsets and no others."""
    trainer.draw_subset = lambda available: torch.tensor(subsets) & available
    return trainer


def terms_of(trainer, batch):
    trainer.host_generator.manual_seed(0)
    return trainer.training_loss(batch)


def logits_of(trainer, batch, present):
    """Finest logits of one subset, the same for every sample."""
    with torch.no_grad():
        return finest(trainer.network(batch.images, torch.tensor(present).expand(len(batch.images), -1)).logits)


class Passes:
    """How often the network encodes and decodes."""

    def __init__(self, trainer):
        self.encoded = self.decoded = 0
        trainer.network.shared_encoder.register_forward_pre_hook(lambda *_: setattr(self, "encoded", self.encoded + 1))
        trainer.network.decoder.register_forward_pre_hook(lambda *_: setattr(self, "decoded", self.decoded + 1))


def every_availability(modalities):
    return (torch.arange(1, 2**modalities)[:, None] >> torch.arange(modalities) & 1).bool()


def plain_categorical(teacher, student):
    p, q = ([math.exp(v) / sum(map(math.exp, logits)) for v in logits] for logits in (teacher, student))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def plain_bernoulli(teacher, student):
    """A sigmoid is a softmax of two, the other logit being zero."""
    return sum(plain_categorical([t, 0], [s, 0]) for t, s in zip(teacher, student, strict=True)) / len(teacher)


def plain_divergence(teacher, student, tau, overlapping=False):
    """The mean over voxels, of logits (K, *spatial)."""
    per_voxel = plain_bernoulli if overlapping else plain_categorical
    voxels = ((logits / tau).flatten(1).T.tolist() for logits in (teacher, student))
    return np.mean([per_voxel(t, s) for t, s in zip(*voxels, strict=True)])
