"""ACN's losses, regressor and discriminators: plain loops, stored values."""

import math

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from reference_values import as_input, assert_close, reference
from small_plans import CONFIGURATION, small_plans

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.discriminator import PooledDiscriminator
from nnunetv2_missmod.building_blocks.matching import mean_square, ramp_up
from nnunetv2_missmod.methods.acn.losses import entropy_map, mutual_information_loss
from nnunetv2_missmod.methods.acn.network import Regressor, first_strides

on_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def architecture(features, strides=None, dims=3):
    plans = small_plans(2, dims, features=features)
    arch_kwargs = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    arch_kwargs["strides"] = strides or arch_kwargs["strides"]
    return Architecture.from_configuration(PlansManager(plans).get_configuration(CONFIGURATION))


def random_maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- entropy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_entropy_of_classes(classes):
    logits = random_maps(2, classes, 2, 3)
    entropy = entropy_map(logits, False)
    for b in range(2):
        for x in range(2):
            for y in range(3):
                exponentials = [math.exp(value) for value in logits[b, :, x, y].tolist()]
                for k, exponential in enumerate(exponentials):
                    p = exponential / sum(exponentials)
                    assert entropy[b, k, x, y].item() == pytest.approx(-p * math.log2(p) / math.log2(classes))


def test_entropy_of_regions():
    logits = random_maps(2, 2, 5)
    entropy = entropy_map(logits, True)
    for value, got in zip(logits.flatten().tolist(), entropy.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-value))
        assert got == pytest.approx(-p * math.log2(p) - (1 - p) * math.log2(1 - p))


@pytest.mark.parametrize("overlapping", [True, False])
def test_entropy_is_1_where_nothing_is_known_and_0_where_all_is(overlapping):
    undecided = entropy_map(torch.zeros(1, 4, 2), overlapping)
    assert (undecided if overlapping else undecided.sum(1)).allclose(torch.ones(()))
    certain = torch.tensor([[[1e4], [-1e4], [-1e4]]], requires_grad=True)
    entropy = entropy_map(certain, overlapping)
    assert entropy.abs().max() == 0
    entropy.sum().backward()
    assert certain.grad.isfinite().all()


@on_precision
def test_entropy_matches_the_stored_values(dtype):
    values = reference("acn_losses_0")
    logits = as_input(values["logits_missing"], dtype)
    entropy = entropy_map(logits, False)
    assert_close(entropy, values["entropy_of_logits"], dtype)
    assert_close(entropy_map(logits.sigmoid(), False), values["entropy_as_called"], dtype)
    probed = (entropy * torch.from_numpy(values["probe_entropy"]).to(dtype)).sum()
    assert_close(torch.autograd.grad(probed, logits)[0], values["grad_entropy_logits"], dtype)


# --- mutual information -----------------------------------------------------------------------------------------------


def test_mutual_information():
    mean, target = random_maps(2, 3, 2, 2), random_maps(2, 3, 2, 2, seed=1)
    variance = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    loss = mutual_information_loss(mean, target, variance)
    for b in range(2):
        total = 0.0
        for c, var in enumerate(variance.tolist()):
            pairs = zip(mean[b, c].flatten().tolist(), target[b, c].flatten().tolist(), strict=True)
            total += sum(0.5 * ((g - t) ** 2 / var + math.log(var)) for g, t in pairs)
        assert loss[b].item() == pytest.approx(total / 12)


def test_the_regressor_starts_with_a_variance_of_5_and_learns_one_per_channel():
    regressor, maps = Regressor(architecture((8, 8, 16))), torch.randn(2, 16, 2, 2, 2)
    mean, variance = regressor(maps)
    torch.testing.assert_close(variance, torch.full((16,), 5.0))
    assert mean.shape == maps.shape
    mutual_information_loss(mean, maps, variance).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in regressor.parameters())


@on_precision
def test_mutual_information_matches_the_stored_values(dtype):
    values = reference("acn_losses_0")
    channels = values["features_full"].shape[1]
    regressor = Regressor(architecture((8, channels))).to(dtype)
    weights = {f"mean.{n}.weight": values[f"regressor__regressor.{n}.weight"] for n in (0, 2, 4)}
    weights["scale"] = values["regressor__log_scale"]
    regressor.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    missing = as_input(values["features_missing"], dtype)
    mean, variance = regressor(missing)
    decided = mutual_information_loss(mean, torch.from_numpy(values["features_full"]).to(dtype), variance).mean()
    assert_close(decided, values["mi_decided"], dtype)
    assert_close(mutual_information_loss(mean, missing, variance).mean(), values["mi_as_called"], dtype)
    slopes = torch.autograd.grad(decided, (missing, regressor.scale))
    assert_close(slopes[0], values["grad_mi_decided_features_missing"], dtype)
    assert_close(slopes[1], values["grad_mi_decided_log_scale"], dtype)


# --- the released total -----------------------------------------------------------------------------------------------


@on_precision
def test_the_total_matches_the_stored_values_with_the_released_dice(dtype):
    """The released sum over three channels is three times their mean."""
    values = reference("acn_losses_0")
    full, missing = (as_input(values[f"logits_{which}"], dtype).sigmoid()[:, :3] for which in ("full", "missing"))
    consistency = 3 * mean_square(full - missing).mean()
    assert_close(consistency, values["consistency_loss"], dtype)
    weight = 10 * ramp_up(int(values["epoch"]), 20)
    assert weight == pytest.approx(float(values["consistency_weight"]))
    total = 0.2 * float(values["loss_dc"]) + 0.8 * float(values["loss_mono_dc"]) + weight * consistency
    assert_close(total, values["loss_Co"], dtype)


# --- discriminators ---------------------------------------------------------------------------------------------------


def test_the_entropy_s_discriminator_has_the_plan_s_first_strides():
    anisotropic = [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert first_strides(architecture((8,) * 5, anisotropic)) == [(1, 2, 2), (1, 2, 2), (2, 2, 2)]
    assert first_strides(architecture((8, 8), [[1, 1], [1, 2]], 2)) == [(1, 2), 2, 2]


@pytest.mark.parametrize("strides", [[(1, 2, 2), 2, 2], [2, 2, 2]])
def test_a_discriminator_judges_maps_of_any_size(strides):
    discriminator = PooledDiscriminator(architecture((8, 8)), 3, strides)
    assert [conv.stride for conv in discriminator.convs[::2]] == [(s,) * 3 if s == 2 else s for s in strides]
    for size in ((1, 1, 1), (5, 16, 7)):
        assert discriminator(torch.randn(2, 3, *size)).shape == (2, 1)
