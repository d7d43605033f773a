"""RFNet's network and training step."""

import math

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_missmod.building_blocks.region_fusion import RegionAwareFusion, region_loss
from nnunetv2_missmod.methods.rfnet import trainer as trainer_module
from nnunetv2_missmod.methods.rfnet.network import Concatenation, RFNet
from nnunetv2_missmod.methods.rfnet.trainer import RFNetTrainer
from nnunetv2_missmod.modalities import all_subsets

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

K = 3
TERMS = ("segmentation", "separate", "regions")


def build_network(num_modalities=3, extra_channels=0, network=None):
    plans = PlansManager(small_plans(num_modalities, 2, features=(8, 8, 16)))
    configuration = plans.get_configuration(CONFIGURATION)
    configuration.configuration["missmod"]["network"] = network or {}
    torch.manual_seed(0)
    return RFNet.from_plans(plans, configuration, num_modalities + extra_channels, K, False)


def random_images(num_modalities=3):
    return torch.randn(2, num_modalities, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    def make(modalities=3, network=None, **overrides):
        plans = small_plans(modalities, 2, features=(8, 8, 8, 16), **{"warm_up_fraction": 0.0, **overrides})
        plans["configurations"][CONFIGURATION]["missmod"]["network"] = network or {}
        return small_trainer(RFNetTrainer, plans, small_dataset_json(modalities), tmp_path, monkeypatch)

    return make


def loss_terms(trainer):
    """The terms of one step, its draws always the same."""
    trainer.generator.manual_seed(0)
    return trainer.training_loss(trainer.prepare_batch(random_batch(trainer)))


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


def test_without_region_fusion_modalities_are_concatenated(make_trainer):
    """No map weighs anything, yet all of them learn, and so does every parameter."""
    net = build_network(network={"fusion": "concat"})
    assert all(isinstance(fusion, Concatenation) for fusion in net.fusions)
    maps = torch.randn(2, 3, 8, 4, 4)
    fused, logits = net.fusions[1](maps, torch.randn(2, 8, 4, 4))
    assert (fused.shape, logits.shape) == ((2, 8, 4, 4), (2, K, 4, 4))
    torch.testing.assert_close(fused, net.fusions[1].shortcut(torch.cat(maps.unbind(1), 1)))
    trainer = make_trainer(network={"fusion": "concat"})
    sum(loss_terms(trainer).values()).backward()
    unreached = [n for n, p in trainer.network.named_parameters() if p.grad is None]
    assert all(".seg_layers.0." in name for name in unreached)  # nnU-Net gives the coarsest head no weight
    assert all(type(fusion) is RegionAwareFusion for fusion in build_network().fusions)


def test_a_step_has_the_weighted_losses_of_the_network_s_output(make_trainer):
    trainer = make_trainer(separate_weight=0.5)
    terms, batch = loss_terms(trainer), trainer.prepare_batch(random_batch(trainer))
    trainer.generator.manual_seed(0)
    out = trainer.network(batch.images, trainer.draw_subset(batch.available))
    each = [[level[m::3] for level in out.separate_logits] for m in range(3)]
    expected = {
        "segmentation": trainer.loss(out.logits, batch.target),
        "separate": 0.5 * sum(trainer.loss(levels, batch.target) for levels in each),
        "regions": 4 * region_loss(trainer.loss, out.region_logits, batch.target),
    }
    assert tuple(terms) == TERMS
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_the_warm_up_is_without_the_fused_loss(make_trainer):
    """By default 20 of 300 epochs: 12 of 180."""
    trainer, whole = make_trainer(warm_up_fraction=20 / 300), loss_terms(make_trainer())
    for epoch in (0, 11, 12):
        trainer.current_epoch = epoch
        terms = loss_terms(trainer)
        assert terms["segmentation"] == (0 if epoch < 12 else whole["segmentation"])
        assert all(torch.equal(terms[name], whole[name]) for name in TERMS[1:])
    assert RFNetTrainer.warm_up_fraction == pytest.approx(20 / 300)


@pytest.mark.parametrize(("weight", "term"), [("separate_weight", "separate"), ("region_weight", "regions")])
def test_an_ablation_removes_one_term(weight, term, make_trainer):
    whole, ablated = loss_terms(make_trainer()), loss_terms(make_trainer(**{weight: 0.0}))
    assert all(torch.equal(ablated[name], torch.zeros(()) if name == term else whole[name]) for name in TERMS)


def test_the_drawn_subset_acts_in_the_fusion_alone(make_trainer):
    trainer, found = make_trainer(), []
    for garbage in (1.0, math.nan):
        batch = trainer.prepare_batch(random_batch(trainer))
        batch.images[:, 1] *= garbage
        out = trainer.network(batch.images, torch.tensor([[True, False, True]] * 2))
        found.append((out.logits[0], out.region_logits[0], out.separate_logits[0]))
    (logits, regions, separate), (other_logits, other_regions, other_separate) = found
    assert torch.equal(logits, other_logits)
    assert torch.equal(regions, other_regions)
    assert torch.equal(separate[0::3], other_separate[0::3])
    assert other_separate[1::3].isnan().all()


def test_many_labels_are_warned_of(make_trainer, monkeypatch, capsys):
    make_trainer()
    assert "WARNING" not in capsys.readouterr().out
    monkeypatch.setattr(trainer_module, "MANY_OUTPUTS", 2)
    make_trainer()
    assert "WARNING: 3 outputs" in capsys.readouterr().out


def test_one_modality_trains_too(make_trainer):
    terms = make_trainer(1).train_step(random_batch(make_trainer(1)))
    assert all(term.isfinite() for term in terms.values())


def test_a_cascade_and_an_unknown_word_are_refused():
    with pytest.raises(NotImplementedError, match=r"cascade: RFNet has.*ModalityDropoutTrainer"):
        build_network(extra_channels=2)
    with pytest.raises(ValueError, match="Expected fusion to be one of regions, concat, got 'other'"):
        build_network(network={"fusion": "other"})
