"""Modalities that segment alone: all of a sample's in a step, or a few of them, drawn."""

import pytest
import torch
from small_plans import random_batch, small_dataset_json, small_plans, small_trainer, whole_step, with_small_network

from nnunetv2_missmod.building_blocks.per_modality import decode_each
from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer
from nnunetv2_missmod.methods.m2ftrans.trainer import M2FTransTrainer
from nnunetv2_missmod.methods.mmformer.trainer import MmFormerTrainer
from nnunetv2_missmod.methods.rfnet.trainer import RFNetTrainer
from nnunetv2_missmod.training.separate import Alone

TRAINERS = [RFNetTrainer, DCSegTrainer, MmFormerTrainer, M2FTransTrainer]
M = 3


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(trainer_class=RFNetTrainer, **overrides):
        plans = with_small_network(trainer_class, small_plans(M, 2, features=(8, 8, 16), **overrides))
        return small_trainer(trainer_class, plans, small_dataset_json(M), tmp_path, monkeypatch)

    return make


def test_all_segment_alone_unless_fewer_are_asked_for(make):
    trainer = make()
    for few in (0, M, M + 1):
        trainer.separate_modalities = few
        alone = trainer.draw_alone(torch.ones(2, M, dtype=torch.bool))
        assert alone.decoded is None
        assert alone.source.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("few", [1, 2])
def test_few_are_drawn_of_what_a_sample_has_and_every_one_as_often(few, make):
    trainer = make(separate_modalities=few)
    available = torch.tensor([[True, False, True], [True, True, True]])
    decoded = torch.cat([trainer.draw_alone(available).decoded for _ in range(300)])
    assert decoded.shape == (600, few)
    counts = [torch.bincount(of_case.flatten(), minlength=M) / 300 for of_case in (decoded[::2], decoded[1::2])]
    assert counts[0][1] == 0
    torch.testing.assert_close(counts[0][[0, 2]], torch.full((2,), few / 2), atol=0.1, rtol=0)
    torch.testing.assert_close(counts[1], torch.full((M,), few / M), atol=0.1, rtol=0)
    if few > 1:
        assert (decoded[1::2].sort(1).values.diff() > 0).all()  # of a complete case none twice


def test_complete_cases_of_a_batch_have_the_same_ones_alone(make):
    trainer = make(separate_modalities=1)
    for _ in range(10):
        assert len(trainer.draw_alone(torch.ones(4, M, dtype=torch.bool)).decoded.unique()) == 1


def test_what_is_decoded_are_the_maps_of_the_modalities_that_were_drawn():
    levels = [torch.arange(2 * M * 4.0).view(2, M, 1, 4), torch.arange(2 * M * 2.0).view(2, M, 1, 2)]
    alone = torch.tensor([[2], [0]])
    found = decode_each(torch.nn.Identity(), levels, alone)
    for level, of_level in zip(found, levels, strict=True):
        assert torch.equal(level, torch.stack([of_level[0, 2], of_level[1, 0]]))


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_the_mean_over_the_draws_is_the_loss_of_all(trainer_class, make):
    trainer = make(trainer_class, separate_weight=0.5)
    batch = trainer.prepare_batch(random_batch(trainer))
    present = torch.ones(2, M, dtype=torch.bool)
    source = torch.arange(M).expand(2, -1)
    trainer.network.train()
    with torch.no_grad():
        logits = trainer.network(batch.images, present).separate_logits
        every = trainer.separate_term(logits, Alone(None, source, M), batch.target)
        of_draws = []
        for slot in range(M):
            drawn = source[:, slot : slot + 1]
            logits = trainer.network(batch.images, present, drawn).separate_logits
            alone = Alone(drawn, torch.zeros_like(drawn), M)
            of_draws.append(trainer.separate_term(logits, alone, batch.target))
    torch.testing.assert_close(torch.stack(of_draws).mean(), every)


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_a_step_with_one_alone_reaches_what_a_step_with_all_does(trainer_class, make):
    reached = []
    for few in (0, 1):
        trainer = make(trainer_class, separate_modalities=few, **whole_step(trainer_class))
        trainer.train_step(random_batch(trainer))
        reached.append({name for name, p in trainer.network.named_parameters() if p.grad is not None})
    assert reached[0] == reached[1]
    assert any(name.startswith("separate_decoder") for name in reached[0])
