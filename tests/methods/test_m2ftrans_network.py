"""M2FTrans' network and training step: what is computed once, what reaches what, plans of all kinds, settings."""

import math

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.building_blocks.region_fusion import region_loss
from nnunetv2_missmod.methods.m2ftrans.cross_attention import CrossFusion
from nnunetv2_missmod.methods.m2ftrans.network import M2FTransNet
from nnunetv2_missmod.methods.m2ftrans.trainer import M2FTransTrainer
from nnunetv2_missmod.modalities import all_subsets

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

K = 3
TERMS = ("segmentation", "separate", "regions")
SMALL = {"feedforward_dim": 24, "num_heads": 2, "dropout": 0.0}
ANISOTROPIC = {"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]], "kernel_sizes": [[1, 3, 3], [1, 3, 3], [3, 3, 3]]}


def build_network(modalities=3, dims=2, extra_channels=0, features=(8, 8, 16), patch=None, arch=None, **constants):
    plans = PlansManager(small_plans(modalities, dims, patch=patch, features=features))
    configuration = plans.get_configuration(CONFIGURATION)
    configuration.configuration["architecture"]["arch_kwargs"].update(arch or {})
    configuration.configuration["missmod"]["network"] = {**SMALL, **constants}
    torch.manual_seed(0)
    return M2FTransNet.from_plans(plans, configuration, modalities + extra_channels, K, False)


def random_images(modalities=3, size=(16, 16)):
    return torch.randn(2, modalities, *size, generator=torch.Generator().manual_seed(0))


def subset(*present):
    return torch.tensor(present, dtype=torch.bool).expand(2, -1)


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    def make(modalities=3, network=None, **overrides):
        plans = small_plans(modalities, 2, features=(8, 8, 16), **overrides)
        plans["configurations"][CONFIGURATION]["missmod"]["network"] = {**SMALL, **(network or {})}
        return small_trainer(M2FTransTrainer, plans, small_dataset_json(modalities), tmp_path, monkeypatch)

    return make


def loss_terms(trainer):
    """The terms of one step, its draws always the same."""
    trainer.generator.manual_seed(0)
    return trainer.training_loss(trainer.prepare_batch(random_batch(trainer)))


# --- subsets ----------------------------------------------------------------------------------------------------------


def count_calls(monkeypatch, owner, name):
    calls, method = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *inputs: calls.append(inputs) or method(*inputs))
    return calls


@pytest.mark.parametrize("masked", [True, False])
def test_forward_subsets_is_forward_of_every_subset_and_encodes_once(masked, monkeypatch):
    """Modality tokens depend on the subset only where absent ones are zeros that are seen, an ablation."""
    net, images, presents = build_network(masked=masked).eval(), random_images(), all_subsets(3)
    with torch.no_grad():
        expected = torch.stack([net(images, present.expand(2, -1)) for present in presents])
        encoded = [count_calls(monkeypatch, encoder, "forward") for encoder in net.encoders]
        tokens = count_calls(monkeypatch, net.fusion_transformer, "of_modalities")
        fused = count_calls(monkeypatch, net.fusion_transformer, "fuse")
        assert torch.equal(net.forward_subsets(images, presents), expected)
    assert [len(calls) for calls in encoded] == [1, 1, 1]
    assert (len(tokens), len(fused)) == (1 if masked else len(presents), len(presents))


@pytest.mark.parametrize("constants", [{}, {"masked": False}, {"spatial_weights": False}, {"cross_levels": 0}])
def test_the_drawn_subset_acts_in_the_fusion_alone(constants):
    """Of a modality that is not drawn nothing, not even NaN, reaches the fused path; D_sep alone sees it."""
    net, found = build_network(**constants), []
    for garbage in (1.0, math.nan):
        images = random_images()
        images[:, 1] *= garbage
        out = net(images, subset(True, False, True))
        found.append((out.logits, torch.cat([level.flatten() for level in out.region_logits]), out.separate_logits))
    (logits, regions, separate), (other_logits, other_regions, other_separate) = found
    assert torch.equal(logits, other_logits)
    assert torch.equal(regions, other_regions)
    assert torch.equal(separate[0::3], other_separate[0::3])
    assert other_separate[1::3].isnan().all()


# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_weight_map_is_enlarged_to_the_size_of_every_level():
    """By nearest neighbour, along each axis as far as its strides ask for."""
    net, size = build_network(2, 3, patch=[8, 16, 16], arch=ANISOTROPIC).eval(), (8, 16, 16)
    images, present, fused = random_images(2, size), subset(True, True), {}
    for level, fusion in enumerate(net.fusions):
        fusion.register_forward_pre_hook(lambda _, inputs, level=level: fused.update({level: inputs[1]}))
    with torch.no_grad():
        net(images, present)
        levels, tokens = net.encode(images)
        _, weights = net.fusion_transformer.fuse(tokens, present, (4, 4, 4))
    transformed = tokens[-1].transpose(2, 3).reshape(levels[-1].shape)
    assert torch.equal(fused[2], transformed * weights[:, :, None])
    enlarged = weights
    for level, stride in ((1, (2, 2, 2)), (0, (1, 2, 2))):
        for axis, times in enumerate(stride, start=2):
            enlarged = enlarged.repeat_interleave(times, axis)
        assert torch.equal(fused[level], levels[level] * enlarged[:, :, None])


@pytest.mark.parametrize("size", [(32, 16), (24, 40)])
def test_images_of_another_size_than_the_plans_are_segmented(size):
    net, images = build_network().eval(), random_images(size=size)
    with torch.no_grad():
        logits = net(images, subset(True, False, True))
    assert logits.shape == (2, K, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("features", "cross_levels", "crossed"), [
    ((8, 8, 16), 2, [False, True, True]),
    ((8, 16), 2, [True, True]),
    ((8, 8, 8, 16), 1, [False, False, False, True]),
    ((8, 8), 0, [False, False]),
    ((8, 8), 5, [True, True]),
])  # fmt: skip
def test_cross_attention_fuses_the_coarsest_levels(features, cross_levels, crossed):
    net = build_network(features=features, cross_levels=cross_levels)
    assert [isinstance(fusion, CrossFusion) for fusion in net.fusions] == crossed
    out = net(random_images(), subset(True, False, True))
    assert len(out.region_logits) == len(features)
    logits = [out.logits, out.separate_logits, *out.region_logits]
    sum(values.sum() for values in logits).backward()
    unreached = [n for n, p in net.named_parameters() if p.grad is None and ".seg_layers." not in n]
    assert unreached == []


def test_one_modality_trains_and_predicts(make_trainer):
    trainer = make_trainer(1)
    assert all(term.isfinite() for term in trainer.train_step(random_batch(trainer)).values())
    net = build_network(1).eval()
    with torch.no_grad():
        assert net(random_images(1)).isfinite().all()


def test_a_cascade_is_refused():
    with pytest.raises(NotImplementedError, match=r"cascade: M2FTrans has.*ModalityDropoutTrainer"):
        build_network(extra_channels=2)


# --- ablations --------------------------------------------------------------------------------------------------------


def test_weights_of_zero_leave_nothing_of_the_maps_and_without_weights_they_count(monkeypatch):
    zero = torch.zeros(2, 3, 4, 4)
    for weighed in (True, False):
        net = build_network(cross_levels=0, spatial_weights=weighed).eval()
        fuse = net.fusion_transformer.fuse
        monkeypatch.setattr(net.fusion_transformer, "fuse", lambda *inputs, fuse=fuse: (0 * fuse(*inputs)[0], zero))
        with torch.no_grad():
            one, other = (net(random_images() + shift, subset(True, True, True)) for shift in (0, random_images()))
        assert torch.equal(one, other) is weighed


@pytest.mark.parametrize("masked", [True, False])
def test_unmasked_fusion_tokens_see_absent_modalities_as_zeros(masked, monkeypatch):
    net, images, present = build_network(masked=masked).eval(), random_images(), subset(True, False, True)
    calls = count_calls(monkeypatch, net.fusion_transformer, "fuse")
    with torch.no_grad():
        net(images, present)
        coarsest = net.encode(images).levels[-1]
        of_zeros = net.fusion_transformer.of_modalities(coarsest * present[..., None, None, None])
    ((tokens, seen, _),) = calls
    assert torch.equal(seen, present if masked else torch.ones_like(present))
    as_zeros = [torch.equal(layer[:, 1], zeros[:, 1]) for layer, zeros in zip(tokens, of_zeros, strict=True)]
    assert as_zeros == [not masked] * 4
    assert all(torch.equal(layer[:, 0], zeros[:, 0]) for layer, zeros in zip(tokens, of_zeros, strict=True))


@pytest.mark.parametrize(("weight", "term"), [("separate_weight", "separate"), ("region_weight", "regions")])
def test_an_ablation_removes_one_term(weight, term, make_trainer):
    whole, ablated = loss_terms(make_trainer()), loss_terms(make_trainer(**{weight: 0.0}))
    assert all(torch.equal(ablated[name], torch.zeros(()) if name == term else whole[name]) for name in TERMS)


# --- the training step ------------------------------------------------------------------------------------------------


def test_a_step_has_the_weighted_losses_of_the_network_s_output(make_trainer):
    trainer = make_trainer(separate_weight=0.5)
    terms, batch = loss_terms(trainer), trainer.prepare_batch(random_batch(trainer))
    trainer.generator.manual_seed(0)
    out = trainer.network(batch.images, trainer.draw_subset(batch.available))
    each = [[level[m::3] for level in out.separate_logits] for m in range(3)]
    expected = {
        "segmentation": trainer.loss(out.logits, batch.target),
        "separate": 0.5 * sum(trainer.loss(levels, batch.target) for levels in each),
        "regions": 5 * region_loss(trainer.loss, out.region_logits, batch.target),
    }
    assert tuple(terms) == TERMS
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_dropout_is_drawn_anew_in_every_epoch_and_the_same_in_a_resumed_one(make_trainer):
    trainer, found = make_trainer(network={"dropout": 0.5}), {}
    trainer.network.train()
    for before, epoch in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(before)  # what else was drawn in the process
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        present = subset(True, True, True)
        found[before, epoch] = trainer.network(random_batch(trainer)["data"], present).logits[0]
    assert torch.equal(found[0, 0], found[1, 0])
    assert not torch.allclose(found[0, 0], found[0, 1])


@pytest.mark.parametrize("one_for_all", [False, True])
def test_a_batch_has_a_subset_of_each_sample_or_one(one_for_all, make_trainer):
    trainer = make_trainer(one_subset_per_batch=one_for_all)
    available = torch.tensor([[True, True, True]] * 8 + [[True, False, True]])
    draws = [trainer.draw_subset(available) for _ in range(200)]
    assert all(bool((present[:8] == present[0]).all()) is one_for_all for present in draws[:20])
    assert all(present.any(1).all() and not (present & ~available).any() for present in draws)
    counts = {tuple(row): 0 for row in all_subsets(3).tolist()}
    for present in draws:
        counts[tuple(present[0].tolist())] += 1
    assert min(counts.values()) > 10
