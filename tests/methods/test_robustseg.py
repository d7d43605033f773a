"""RobustSeg's fusion, losses and training step: plain loops, stored values, what reaches what."""

import math

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from reference_values import as_input, assert_close, reference, stored_entries
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.disentangling import adain
from nnunetv2_missmod.methods.robustseg.fusion import GatedFusion
from nnunetv2_missmod.methods.robustseg.losses import summed_kl_loss, summed_l1_loss
from nnunetv2_missmod.methods.robustseg.trainer import RobustSegTrainer
from nnunetv2_missmod.modalities import all_subsets, expand_to

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

M, C = 3, 8
on_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def architecture(dims, features=(C, C), **arch_kwargs):
    plans = small_plans(M, dims, features=features)
    plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"] |= arch_kwargs
    return Architecture.from_configuration(PlansManager(plans).get_configuration(CONFIGURATION))


def random_maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(network=None, **overrides):
        plans = small_plans(M, 2, features=(8, 8, 16), **overrides)
        plans["configurations"][CONFIGURATION]["missmod"]["network"] = network or {}
        trainer = small_trainer(RobustSegTrainer, plans, small_dataset_json(M), tmp_path, monkeypatch)
        trainer.network.train()
        return trainer

    return make


def prepared(trainer, **available):
    trainer.available_in_case |= available
    return trainer.prepare_batch(random_batch(trainer))


# --- the fusion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_a_gate_multiplies_all_channels_of_its_modality(dims):
    torch.manual_seed(0)
    fusion, maps = GatedFusion(architecture(dims), 0, M, True, False), random_maps(2, M, C, *[4] * dims)
    conv = fusion.gates[0]
    let_through = fusion.let_through(maps)
    corner = maps[0].flatten(0, 1)[(slice(None), *[slice(2)] * dims)]  # what the corner's kernel sees of the maps
    for m in range(M):
        total = conv.bias[m].item()
        for channel in range(M * C):
            kernel = conv.weight[m, channel][(slice(1, None),) * dims]
            total += (kernel * corner[channel]).sum().item()
        gate = 1 / (1 + math.exp(-total))
        expected = gate * maps[(0, m, slice(None), *[0] * dims)]
        assert torch.allclose(let_through[(0, m, slice(None), *[0] * dims)], expected, atol=1e-6)


def test_the_norm_fixes_a_gate_s_mean_whichever_modalities_are_present():
    torch.manual_seed(0)
    maps = random_maps(1, M, C, 16, 16)
    fusion = GatedFusion(architecture(2), 0, M, True, True)
    before_sigmoid = fusion.gates[:2]
    for subset in all_subsets(M):
        seen = torch.where(expand_to(subset[None], maps), maps, 0)
        assert before_sigmoid(seen.flatten(1, 2)).mean((2, 3)).abs().max() < 1e-5


def test_without_gates_all_is_let_through():
    maps = random_maps(2, M, C, 4, 4)
    fusion = GatedFusion(architecture(2), 0, M, False, True)
    assert fusion.let_through(maps) is maps
    assert all(name.startswith("reduce.") for name, _ in fusion.named_parameters())


@on_precision
@pytest.mark.parametrize("gate_norm", [True, False])
def test_gated_fusion_matches_the_stored_values(gate_norm, dtype):
    """The released code pads by reflection, and its norms and slopes are other ones than nnU-Net's."""
    values = reference("robustseg_gate_0")
    modalities = values["maps"].shape[1]
    released = {"norm_op_kwargs": {"eps": 1e-6, "affine": True}, "nonlin_kwargs": {"negative_slope": 0.2}}
    fusion = GatedFusion(architecture(3, (values["maps"].shape[2],) * 2, **released), 0, modalities, True, gate_norm)
    fusion = fusion.to(dtype)
    fusion.gates[0].padding_mode = "reflect"
    modules = {"gate": fusion.gates[0], "fuse": fusion.reduce.conv, "fuse_norm": fusion.reduce.norm}
    modules |= {"gate_norm": fusion.gates[1]} if gate_norm else {}
    for name, module in modules.items():
        weights = {kind: torch.from_numpy(values[f"{name}_{kind}"]).to(dtype) for kind in ("weight", "bias")}
        module.load_state_dict(weights)
    maps = as_input(values["maps"], dtype)
    seen = torch.where(expand_to(torch.from_numpy(values["present"]), maps), maps, 0)
    gated = "gated" if gate_norm else "gated_without_norm"
    assert_close(stored_entries(fusion.let_through(seen), values), values[gated], dtype)
    if gate_norm:
        out = fusion(seen)
        assert_close(out, values["out"], dtype)
        leaves = {"maps": maps, "gate_weight": fusion.gates[0].weight, "fuse_weight": fusion.reduce.conv.weight}
        probed = (out * torch.from_numpy(values["probe"]).to(dtype)).sum()
        for name, slope in zip(leaves, torch.autograd.grad(probed, leaves.values()), strict=True):
            assert_close(stored_entries(slope, values), values[f"grad_{name}"], dtype)


# --- the losses -------------------------------------------------------------------------------------------------------


def test_l1_is_summed_over_modalities_and_a_case_s_own_stand_for_those_it_lacks():
    reconstruction, images = random_maps(2, M, 4, 5), random_maps(2, M, 4, 5, seed=1)
    available = torch.tensor([[True] * M, [True, False, False]])
    errors = [(reconstruction - images).abs()[b, m].mean().item() for b, m in available.nonzero().tolist()]
    loss = summed_l1_loss(reconstruction, images, available)
    assert loss.item() == pytest.approx(M * sum(errors) / len(errors), rel=1e-6)


def test_kl_is_its_formula_and_a_case_s_own_modalities_stand_for_those_it_lacks():
    mu, sigma = random_maps(2, M, 5), random_maps(2, M, 5, seed=1).abs() + 0.1
    available, expected = torch.tensor([[True] * M, [True, False, False]]), 0.0
    for b in range(2):
        has = available[b].nonzero().flatten().tolist()
        values = [(mu[b, m, c].item(), sigma[b, m, c].item()) for m in has for c in range(5)]
        divergences = [0.5 * (mean**2 + std**2 - 1 - math.log(std**2)) for mean, std in values]
        expected += M * sum(divergences) / len(divergences) / 2
    assert summed_kl_loss(mu, sigma, available).item() == pytest.approx(expected, rel=1e-5)


@on_precision
def test_the_losses_match_the_stored_values(dtype):
    values = reference("robustseg_loss_0")
    reconstruction, mu, sigma = (as_input(values[name], dtype) for name in ("reconstruction", "mu", "sigma"))
    images, channels = torch.from_numpy(values["images"]).to(dtype), mu.shape[2]
    available = torch.ones(images.shape[:2], dtype=torch.bool)
    l1 = summed_l1_loss(reconstruction, images, available)
    kl = channels * summed_kl_loss(mu.transpose(0, 1), sigma.transpose(0, 1), available)
    assert_close(l1, values["rec_per_modality"].sum(), dtype)
    assert_close(kl, values["kl_per_modality"].sum(), dtype)
    slopes = torch.autograd.grad(0.1 * l1 + 0.1 * kl, (reconstruction, mu, sigma))
    for name, slope in zip(("reconstruction", "mu", "sigma"), slopes, strict=True):
        assert_close(slope, values[f"grad_{name}"], dtype)


def test_adain_is_the_released_one_with_its_arguments_where_they_belong():
    values = reference("robustseg_loss_0")
    content, mu, sigma = (torch.from_numpy(values[name]) for name in ("content", "mu", "sigma"))
    correction = content[0, 0].numel() / (content[0, 0].numel() - 1)  # of a variance with ddof = 0
    out = adain(content, sigma[0], mu[0] * math.sqrt(correction), 1e-5 * correction)
    assert_close(out, values["adain_as_called"], torch.float64)


# --- the training step ------------------------------------------------------------------------------------------------


def test_terms_are_weighted_losses_of_the_network_s_output(make):
    trainer = make()
    batch = prepared(trainer, a=(True, False, True))
    trainer.generator.manual_seed(1)
    terms = trainer.training_loss(batch)
    trainer.generator.manual_seed(1)
    out = trainer.network(batch.images, trainer.draw_subset(batch.available))
    expected = {
        "segmentation": trainer.loss(out.logits, batch.target),
        "reconstruction": 0.1 * summed_l1_loss(out.reconstruction, batch.images, batch.available),
        "kl": 0.1 * 128 * summed_kl_loss(out.mu, out.sigma, batch.available),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_a_dropped_modality_is_rebuilt_from_the_others_content_and_its_own_code(make):
    """Nothing else of it is in an output; what the case lacks is in none."""
    network, images = make().network, random_maps(1, M, 16, 16)
    present = torch.tensor([[True, False, True]])
    before, changed = network(images, present), images.clone()
    changed[:, 1] += random_maps(16, 16, seed=1)
    after = network(changed, present)
    assert all(map(torch.equal, before.logits, after.logits))
    same = [torch.equal(before.reconstruction[:, m], after.reconstruction[:, m]) for m in range(M)]
    assert same == [True, False, True]
    content_of_dropped = list(network.content_encoders[1].parameters())
    slopes = torch.autograd.grad(after.reconstruction.sum(), content_of_dropped)
    assert all((slope == 0).all() for slope in slopes)


@pytest.mark.parametrize("network", [{"fusion": "concat"}, {"gate_norm": False}])
def test_variants_of_the_fusion_reach_every_parameter(make, network):
    trainer = make(network)
    trainer.loss.weight_factors = tuple(w or 1e-6 for w in trainer.loss.weight_factors)
    trainer.available_in_case |= {"a": (True, False, True), "b": (True, False, False)}
    outputs = trainer.train_step(random_batch(trainer))
    assert all(value.isfinite() for value in outputs.values())
    assert all(p.grad is not None for p in trainer.network.parameters())


def test_each_modality_is_encoded_once_for_all_subsets(make):
    trainer, calls = make(), []
    trainer.set_deep_supervision_enabled(False)
    network, images = trainer.network.eval(), random_maps(1, M, 16, 16)
    for encoder in network.content_encoders:
        encoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        of_subsets = network.forward_subsets(images, all_subsets(M))
        assert len(calls) == M
        assert all(torch.equal(of_subsets[s], network(images, subset[None])) for s, subset in enumerate(all_subsets(M)))


def test_an_unknown_fusion_is_refused(make):
    with pytest.raises(ValueError, match="Expected fusion to be one of gates, concat"):
        make({"fusion": "sum"})
