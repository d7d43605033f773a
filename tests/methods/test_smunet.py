"""SMU-Net's style, and its losses: plain loops, stored values, invariances."""

import math

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from reference_values import as_input, assert_close, reference
from small_plans import CONFIGURATION, small_plans

from nnunetv2_missmod.building_blocks.matching import cross_gram, mean_square, ramp_up
from nnunetv2_missmod.methods.smunet.losses import style_loss
from nnunetv2_missmod.methods.smunet.network import SMUNet

on_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def build_network(features, strides=None, patch=(16, 16, 16)):
    plans = small_plans(2, len(patch), features=features, patch=patch)
    arch_kwargs = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    arch_kwargs["strides"] = strides or arch_kwargs["strides"]
    manager = PlansManager(plans)
    return SMUNet.from_plans(manager, manager.get_configuration(CONFIGURATION), 2, 3, True, {"subset": [1]})


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "mixed"), [((8, 16), 24), ((8, 16, 24), 48), ((8, 16, 24, 32), 72), ((8, 8, 16, 32), 56)]
)
def test_style_is_mixed_from_the_deepest_level_and_the_two_above(features, mixed):
    network = build_network(features).train()
    assert network.mix.in_channels == mixed
    out = network(torch.randn(2, 2, 16, 16, 16), torch.ones(2, 2, dtype=torch.bool))
    assert out.style.shape == out.content.shape == (2, features[-1], *[16 // 2 ** (len(features) - 1)] * 3)


def test_levels_of_an_anisotropic_plan_are_pooled_by_its_strides():
    network = build_network((8, 8, 8, 16), [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 1]], (6, 16, 12)).train()
    out = network(torch.randn(1, 2, 6, 16, 12), torch.ones(1, 2, dtype=torch.bool))
    assert out.style.shape == out.content.shape == (1, 16, 3, 2, 3)
    assert out.logits[0].shape == (1, 3, 6, 16, 12)


def test_the_decoder_starts_from_content_and_style():
    network = build_network((8, 8, 16)).train()
    images = torch.randn(1, 2, 16, 16, 16)
    logits = network(images, torch.ones(1, 2, dtype=torch.bool)).logits[0]
    for part in (network.mix, network.join):
        assert all(g.abs().max() > 0 for g in torch.autograd.grad(logits.sum(), part.parameters(), retain_graph=True))


# --- the losses -------------------------------------------------------------------------------------------------------


def plain_correlations(style):
    """Of each pair of channels of one sample (C, ...), a channel's variance being lifted by 1e-5."""
    channels = [channel.flatten().tolist() for channel in style]
    units = []
    for channel in channels:
        mean = sum(channel) / len(channel)
        variance = sum((value - mean) ** 2 for value in channel) / len(channel)
        units.append([(value - mean) / math.sqrt((variance + 1e-5) * len(channel)) for value in channel])
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in units] for one in units]


def random_style(seed=0):
    return torch.randn(2, 3, 2, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_style_loss():
    full, missing = random_style(), random_style(1)
    loss = style_loss(full, missing)
    for b in range(2):
        teacher, student = plain_correlations(full[b]), plain_correlations(missing[b])
        errors = [(teacher[i][j] - student[i][j]) ** 2 for i in range(3) for j in range(3)]
        assert loss[b].item() == pytest.approx(sum(errors) / 9)


def test_style_loss_knows_no_scale_and_no_place():
    full, missing = random_style(), random_style(1)
    other = full.flatten(2)[:, :, torch.randperm(12)].view_as(full) * 7 + 3
    torch.testing.assert_close(style_loss(other, missing), style_loss(full, missing), rtol=1e-4, atol=0)
    assert style_loss(full, full).abs().max() == 0


def test_style_loss_of_blank_maps_is_finite():
    blank = torch.zeros(1, 3, 4, requires_grad=True)
    loss = style_loss(torch.randn(1, 3, 4), blank)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert blank.grad.isfinite().all()


def released_style(full, missing):
    """1e-4 sum((G_full - G_missing)^2) / (4 C^2 (h w)^2), the channels of all samples in one; the depth is left out."""
    grams = [cross_gram(*[maps.flatten(0, 1)[None]] * 2) / maps.numel() for maps in (full, missing)]
    channels, height, width = full.shape[1:4]
    return 1e-4 * (grams[0] - grams[1]).square().sum() / (2 * channels * height * width) ** 2


@on_precision
def test_the_total_matches_the_stored_values_with_the_released_dice_and_style(dtype):
    """The released sum over three channels is three times their mean."""
    values = reference("smunet_total_0")
    full, missing = (as_input(values[f"logits_{which}"], dtype).sigmoid()[:, :3] for which in ("full", "missing"))
    consistency = 3 * mean_square(full - missing).mean()
    contents = [as_input(values[f"content_{which}"], dtype) for which in ("full", "missing")]
    content = mean_square(contents[0] - contents[1]).mean()
    style = released_style(*(torch.from_numpy(values[f"style_{which}"]).to(dtype) for which in ("full", "missing")))
    assert_close(consistency, values["consistency_loss"], dtype)
    assert_close(content, values["content_loss"], dtype)
    assert_close(style, values["style_loss"], dtype)
    dice = 0.4 * float(values["loss_dc"]) + 0.6 * float(values["loss_miss_dc"])
    total = dice + 10 * ramp_up(int(values["epoch"]), 20) * consistency + 0.2 * content + style
    assert_close(total, values["loss_Co"], dtype)
    for which, slope in zip(("full", "missing"), torch.autograd.grad(total, contents), strict=True):
        assert_close(slope, values[f"grad_content_{which}"], dtype)
