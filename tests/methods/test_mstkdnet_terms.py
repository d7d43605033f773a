"""The sizes of the terms and of their gradients at the start, on the phantom."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_plans import CONFIGURATION, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.building_blocks.discriminator import adversarial_loss
from nnunetv2_missmod.datasets.phantom.cohort import phantom_case, phantom_modalities
from nnunetv2_missmod.methods.mstkdnet.trainer import MSTKDNetTrainer

pytestmark = pytest.mark.slow

SIZE = 32
RAMPED_UP = 80  # epochs of 1000
SURE = 10.0  # a discriminator's logit
REGIONS = ((1, 2, 3), (2, 3), (3,))


@functools.cache
def phantom_cases():
    """Two cases, standardised within the brain as nnU-Net does, and their regions."""
    rng = np.random.default_rng(0)
    images, targets = [], []
    for _ in range(2):
        channels, labels = phantom_case(rng, phantom_modalities(4), (SIZE,) * 3)
        brain = channels[0] > 0
        images.append([np.where(brain, (c - c[brain].mean()) / c[brain].std(), 0) for c in channels])
        targets.append([np.isin(labels, region) for region in REGIONS])
    return torch.tensor(np.array(images)).float(), torch.tensor(np.array(targets))


def phantom_batch(trainer):
    """The cases with a target for every level."""
    images, whole = phantom_cases()
    steps = [round(1 / scale[0]) for scale in trainer.deep_supervision_scales()]
    levels = [whole[..., ::step, ::step, ::step] for step in steps]
    return {"data": images.clone(), "target": levels, "keys": ["a", "b"]}


@pytest.fixture
def make(tmp_path, monkeypatch):
    def build(features, seed=0, epoch=0, **overrides):
        plans = small_plans(patch=[SIZE] * 3, features=features, **overrides)
        network = {"embed_dim": 96, "num_layers": 8, "num_heads": 3, "feedforward_dim": 256}
        plans["configurations"][CONFIGURATION]["missmod"]["network"] = network
        dataset_json = small_dataset_json(regions=True)
        trainer = small_trainer(MSTKDNetTrainer, plans, dataset_json, tmp_path, monkeypatch, seed=seed)
        trainer.draw_subset = lambda available: torch.tensor([[True, False, False, False], [False, False, True, True]])
        trainer.network.train()
        trainer.current_epoch = epoch
        updates = trainer.updates(trainer.prepare_batch(phantom_batch(trainer)))
        return trainer, {name: term for update in updates for name, term in update.terms.items()}

    return build


on_tokens = pytest.mark.parametrize("features", [(8, 16, 32, 32), (8, 16, 32, 32, 32)], ids=["64 tokens", "8 tokens"])
on_seeds = pytest.mark.parametrize("seed", [0, 1, 2])


@on_tokens
@on_seeds
def test_every_term_is_within_sight_of_the_segmentation_loss(features, seed, make):
    """None above 100 times, none below a thousandth, with the weights after the ramp-up: whatever the tokens."""
    trainer, terms = make(features, seed, RAMPED_UP)
    segmentation = terms["segmentation"].item() / trainer.student_weight
    # It starts with a discriminator that knows nothing; once that tells the two apart, it is of this size.
    terms["adversarial"] = trainer.adversarial_weight * adversarial_loss(torch.tensor([SURE]))
    ratios = {name: term.item() / segmentation for name, term in terms.items()}
    assert len(ratios) == 9
    assert {name: ratio for name, ratio in ratios.items() if not 1e-3 <= ratio <= 100} == {}


def gradient_norms(trainer, terms):
    """Length of each term's gradient on the student, as a multiple of the segmentation loss's."""
    student = list(trainer.network.parameters())
    norms = {}
    for name in ("segmentation", "evd", "mst", "mse", "slkd", "gram", "adversarial"):
        gradients = torch.autograd.grad(terms[name], student, retain_graph=True, materialize_grads=True)
        norms[name] = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
    return {name: norm / norms["segmentation"] for name, norm in norms.items()}


@on_tokens
@on_seeds
def test_no_term_starts_by_drowning_the_labels(features, seed, make):
    assert {name: norm for name, norm in gradient_norms(*make(features, seed)).items() if norm > 20} == {}


@pytest.mark.parametrize(("scale", "is_bounded"), [("teacher", True), ("tokens", False)])
def test_peaked_attention_does_not_inflate_the_attention_term(scale, is_bounded, make):
    """A teacher whose tokens each attend to one, a student whose tokens attend to all."""
    trainer, _ = make((8, 16, 32, 32), evd_scale=scale)
    tokens = 64
    peaked, uniform = torch.eye(tokens).expand(2, 3, -1, -1), torch.full((2, 3, tokens, tokens), 1 / tokens)
    full, missing = (SimpleNamespace(attention=[attention] * 4) for attention in (peaked, uniform))
    assert (trainer.evd(full, missing) < 20).tolist() == [is_bounded] * 2
