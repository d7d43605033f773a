"""The path along which CCSD's trainer removes modalities, in its orders and by its criticalities."""

import pytest
import torch
from small_ccsd import ONE_EACH, ccsd_maker, prepared, segmenting, terms_of

from nnunetv2_missmod.methods.ccsd import trainer as trainer_module
from nnunetv2_missmod.methods.ccsd.losses import removal_path
from nnunetv2_missmod.methods.ccsd.trainer import CCSDTrainer

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]


@pytest.fixture
def make(tmp_path, monkeypatch):
    return ccsd_maker(tmp_path, monkeypatch)


def path_of(trainer, batch):
    drawn = trainer.draw_passes(batch.cases)
    out = trainer.network(batch.images, drawn.presents)
    return trainer.path(out, drawn, batch), out, drawn


def removed_first(states):
    return (states[:, 0] & ~states[:, 1]).long().argmax(1).tolist()


def test_min_starts_with_the_least_critical(make):
    batch = prepared(most := make())
    least = make(path_order="min")
    scores = []
    with torch.no_grad():
        fused = most.network(batch.images, batch.available).fused.flatten(2)
    for b in range(2):
        unit = fused[b] / fused[b].norm(dim=1, keepdim=True)
        scores.append(-(unit @ unit.T).sum(1))
    assert removed_first(path_of(most, batch)[0]) == [int(s.argmax()) for s in scores]
    assert removed_first(path_of(least, prepared(least))[0]) == [int(s.argmin()) for s in scores]


@pytest.mark.parametrize("score", [-torch.inf, torch.inf, torch.nan])
def test_a_path_goes_on_whatever_the_scores(score):
    """As gradients that overflow in mixed precision."""
    available = torch.tensor([[False, True, True, True]])
    states = removal_path(lambda left: torch.full(left.shape, score), available)
    assert states.sum(2).tolist() == [[3, 2, 1, 1]]
    assert not states[..., 0].any()


def test_random_takes_every_order(make):
    trainer = make(path_order="random", criticality="gradient")
    batch = prepared(trainer)
    assert not trainer.needs_gradient()
    first = {m for _ in range(30) for m in removed_first(path_of(trainer, batch)[0])}
    assert first == {0, 1, 2}


@pytest.mark.parametrize("order", ["max", "min"])
@pytest.mark.parametrize("segmented", [ONE_EACH, [[True] * 3] * 2])
def test_gradient_criticality_is_the_norm_of_the_gradient_of_the_full_sets_loss(make, order, segmented):
    trainer = segmenting(make(criticality="gradient", path_order=order), segmented)
    batch = prepared(trainer)
    states, out, drawn = path_of(trainer, batch)
    assert drawn.presents[drawn.full].all()
    full = trainer.network(batch.images, batch.available)
    gradient = torch.autograd.grad(trainer.loss(full.logits, batch.target), full.fused)[0]
    torch.testing.assert_close(trainer.gradient(out, drawn, batch), gradient, rtol=1e-3, atol=1e-7)
    norms = gradient.flatten(2).norm(dim=2) * (1 if order == "max" else -1)
    assert removed_first(states) == norms.argmax(1).tolist()
    assert [row.sum(1).tolist() for row in states] == [[3, 2, 1]] * 2
    last = states[:, -1].long().argmax(1).tolist()
    assert last == norms.argmin(1).tolist()


def test_the_gradient_of_the_path_leaves_the_steps_own_gradients_alone(make):
    gradients = []
    for criticality in ("gradient", "cosine"):
        trainer = segmenting(make(criticality=criticality, dmcd_weight=1e-30, full_set_weight=1.0), ONE_EACH)
        sum(terms_of(trainer, prepared(trainer)).values()).backward()
        gradients.append({n: p.grad for n, p in trainer.network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_a_network_whose_gradient_is_asked_for_twice_is_not_compiled(monkeypatch):
    monkeypatch.setattr(trainer_module.MissingModalityTrainer, "compiles", lambda _: True)
    plain = CCSDTrainer.__new__(CCSDTrainer)
    assert plain.compiles()
    plain.criticality = "gradient"
    assert not plain.compiles()
    plain.path_order = "random"
    assert plain.compiles()
