"""ShaSpec's network and training step."""

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_missmod.methods.shaspec.losses import domain_loss, shared_loss
from nnunetv2_missmod.methods.shaspec.network import ShaSpecNet
from nnunetv2_missmod.methods.shaspec.trainer import ShaSpecTrainer
from nnunetv2_missmod.modalities import all_subsets

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

TERMS = ("segmentation", "shared", "domain")
SEED = 4  # with which less than everything is drawn


def build_network(num_modalities=3, extra_channels=0, network=None):
    plans = PlansManager(small_plans(num_modalities, 2, features=(8, 8, 16)))
    configuration = plans.get_configuration(CONFIGURATION)
    configuration.configuration["missmod"]["network"] = network or {}
    torch.manual_seed(0)
    return ShaSpecNet.from_plans(plans, configuration, num_modalities + extra_channels, 3, False)


def random_images(num_modalities=3):
    return torch.randn(2, num_modalities, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    def make(modalities=3, **overrides):
        plans = small_plans(modalities, 2, features=(8, 8, 16), **{"warm_up_fraction": 0.0, **overrides})
        trainer = small_trainer(ShaSpecTrainer, plans, small_dataset_json(modalities), tmp_path, monkeypatch)
        trainer.available_in_case["a"] = (True, False, True)[:modalities]
        return trainer

    return make


def loss_terms(trainer):
    """The terms of one step, its draws always the same."""
    trainer.generator.manual_seed(SEED)
    return trainer.training_loss(trainer.prepare_batch(random_batch(trainer)))


def seen_by(trainer):
    """Which modalities the network got to see in one step."""
    seen, forward = [], trainer.network.forward
    trainer.network.forward = lambda images, present: (seen.append(present), forward(images, present))[1]
    loss_terms(trainer)
    return seen[0]


def test_forward_subsets_encodes_once_and_is_forward_of_every_subset():
    """15 subsets in fewer multiplications than ten forward passes have."""
    net, images, presents = build_network(4).eval(), random_images(4), all_subsets(4)
    with torch.no_grad():
        with FlopCounterMode(display=False) as every:
            logits = net.forward_subsets(images, presents)
        with FlopCounterMode(display=False) as one:
            net(images, presents[-1].expand(2, -1))
        for subset, present in zip(logits, presents, strict=True):
            torch.testing.assert_close(subset, net(images, present.expand(2, -1)), rtol=1e-4, atol=1e-4)
    assert every.get_total_flops() < 10 * one.get_total_flops()


def test_training_gives_what_the_terms_compare():
    net, images = build_network(), random_images()
    out = net(images, torch.tensor([[True, False, True]] * 2))
    for b, m in ((0, 0), (1, 1), (1, 2)):
        image = images[b, m][None, None]
        torch.testing.assert_close(out.shared[b, m], net.shared_encoder(image)[-1][0], rtol=1e-4, atol=1e-5)
        mean = net.specific_encoders[m](image)[-1].mean((2, 3))
        torch.testing.assert_close(out.domain_logits[b, m], net.domain_head(mean)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("pairs", "over"), [("all", "available"), ("cyclic", "present")])
def test_a_step_has_the_weighted_losses_of_the_network_s_output(pairs, over, make_trainer):
    trainer = make_trainer(alpha=0.3, beta=0.7, pairs=pairs, auxiliary_over=over)
    terms, batch = loss_terms(trainer), trainer.prepare_batch(random_batch(trainer))
    trainer.generator.manual_seed(SEED)
    present = trainer.draw_subset(batch.available)
    assert not torch.equal(present, batch.available)
    out = trainer.network(batch.images, present)
    counted = batch.available if over == "available" else present
    expected = {
        "segmentation": trainer.loss(out.logits, batch.target),
        "shared": 0.3 * shared_loss(out.shared, counted, pairs == "cyclic"),
        "domain": 0.7 * domain_loss(out.domain_logits, counted),
    }
    assert tuple(terms) == TERMS
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_the_warm_up_segments_from_all_that_is_available(make_trainer):
    """By default 80,000 of 180,001 updates: 444 of 1000 epochs."""
    trainer = make_trainer(warm_up_fraction=ShaSpecTrainer.warm_up_fraction)
    available = torch.tensor([[True, False, True], [True, True, True]])
    for epoch, warms_up in ((0, True), (443, True), (444, False)):
        trainer.current_epoch = epoch
        assert torch.equal(seen_by(trainer), available) == warms_up


def test_sizes_of_subsets_are_uniform(make_trainer):
    trainer, available = make_trainer(), torch.tensor([[True, True, True]])
    sizes = [int(trainer.draw_subset(available).sum()) for _ in range(300)]
    assert all(70 < sizes.count(size) < 130 for size in (1, 2, 3))


@pytest.mark.parametrize(("weight", "term"), [("alpha", "shared"), ("beta", "domain")])
def test_an_ablation_removes_one_term(weight, term, make_trainer):
    whole, ablated = loss_terms(make_trainer()), loss_terms(make_trainer(**{weight: 0.0}))
    assert all(torch.equal(ablated[name], torch.zeros(()) if name == term else whole[name]) for name in TERMS)


def test_the_specific_encoder_of_a_modality_that_no_case_has_learns_nothing(make_trainer):
    trainer = make_trainer()
    trainer.available_in_case = dict.fromkeys("ab", (True, False, True))
    sum(loss_terms(trainer).values()).backward()
    learns = [
        any(p.grad.any() for p in encoder.parameters() if p.grad is not None)
        for encoder in trainer.network.specific_encoders
    ]
    assert learns == [True, False, True]


def test_one_modality_trains_too(make_trainer):
    terms = loss_terms(make_trainer(1))
    assert terms["segmentation"] > 0
    assert terms["shared"] == terms["domain"] == 0


def test_a_cascade_and_unknown_words_are_refused(make_trainer):
    with pytest.raises(NotImplementedError, match=r"cascade: ShaSpec has.*ModalityDropoutTrainer"):
        build_network(extra_channels=2)
    for name, listed in (("pairs", "all, cyclic"), ("auxiliary_over", "available, present")):
        with pytest.raises(ValueError, match=f"Expected {name} to be one of {listed}, got 'other'"):
            make_trainer(**{name: "other"})
