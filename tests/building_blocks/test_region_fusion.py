"""Region-aware fusion, against plain loops."""

import math
from itertools import product

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_plans

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.region_fusion import HIDDEN, MEAN_EPS, REGION_CHANNELS, RegionAwareFusion

K = 3  # outputs: three labels with the background, or three regions
FUSION_M = 3
variants = pytest.mark.parametrize("overlapping", [False, True], ids=["softmax", "overlapping"])


def build_fusion(overlapping, level=2, merge_width="half", seed=0):
    plans = PlansManager(small_plans(FUSION_M))
    architecture = Architecture.from_configuration(plans.get_configuration(CONFIGURATION))
    torch.manual_seed(seed)
    return RegionAwareFusion(architecture, level, FUSION_M, K, overlapping, merge_width), architecture.features[level]


def fusion_inputs(channels, regions, seed=0):
    """Maps (2, M, C, 2, 3, 2) and region maps (2, R, 2, 3, 2) that sum to one."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, FUSION_M, channels, 2, 3, 2, generator=generator)
    return maps, torch.randn(2, regions, 2, 3, 2, generator=generator).softmax(1)


@variants
def test_region_means_are_means_of_products(overlapping):
    fusion, channels = build_fusion(overlapping)
    maps, regions = fusion_inputs(channels, fusion.num_regions)
    means = fusion.region_means(maps, regions)
    assert means.shape == (2, fusion.num_regions, FUSION_M * channels)
    for b, i, k, c in product(range(2), range(fusion.num_regions), range(FUSION_M), range(channels)):
        expected = (maps[b, k, c] * regions[b, i]).mean()
        assert means[b, i, k * channels + c].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)


@variants
def test_fuse_weighs_every_modality_in_every_region(overlapping):
    """RFNet's fusion with one small net per region, written out for one sample and region at a time."""
    fusion, channels = build_fusion(overlapping)
    maps, regions = fusion_inputs(channels, fusion.num_regions)
    first, last = fusion.weights[0], fusion.weights[2]
    first_weight = first.weight.view(fusion.num_regions, HIDDEN, FUSION_M * channels + 1)
    last_weight = last.weight.view(fusion.num_regions, FUSION_M, HIDDEN)
    first_bias, last_bias = (layer.bias.view(fusion.num_regions, -1) for layer in (first, last))

    fused = fusion.fuse(maps, regions)

    assert fused.shape == (2, fusion.num_regions, channels, 2, 3, 2)
    all_weights = []
    for b, i in product(range(2), range(fusion.num_regions)):
        size = regions[b, i].mean()
        means = [
            (maps[b, k, c] * regions[b, i]).mean() / (size + MEAN_EPS)
            for k, c in product(range(FUSION_M), range(channels))
        ]
        hidden = first_weight[i] @ torch.stack([*means, size]) + first_bias[i]
        hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
        weights = 1 / (1 + torch.exp(-(last_weight[i] @ hidden + last_bias[i])))
        expected = sum(weights[k] * maps[b, k] * regions[b, i] for k in range(FUSION_M))
        torch.testing.assert_close(fused[b, i], expected, rtol=1e-4, atol=1e-5)
        all_weights.append(weights)
    assert torch.stack(all_weights).std(0).min() > 1e-3  # samples and regions do have weights of their own


def test_an_empty_region_is_fused_to_zero():
    """The mean over an empty region is 0 / MEAN_EPS."""
    fusion, channels = build_fusion(False)
    maps, regions = fusion_inputs(channels, K)
    regions[:, 1] = 0
    fused = fusion.fuse(maps, regions)
    assert fused.isfinite().all()
    assert (fused[:, 1] == 0).all()
    assert (fused[:, 0] != 0).all()


def test_softmax_regions():
    fusion, _ = build_fusion(False)
    logits = 3 * torch.randn(2, K, 2, 3, 2, generator=torch.Generator().manual_seed(0))
    regions = fusion.probabilities(logits)
    assert regions.shape == (2, K, 2, 3, 2)
    for b, k, z, y, x in product(*map(range, logits.shape)):
        values = logits[b, :, z, y, x].tolist()
        expected = math.exp(values[k]) / sum(math.exp(v) for v in values)
        assert regions[b, k, z, y, x].item() == pytest.approx(expected, rel=1e-5)


def test_overlapping_regions_have_a_background_map():
    fusion, _ = build_fusion(True)
    logits = 3 * torch.randn(2, K, 2, 3, 2, generator=torch.Generator().manual_seed(0))
    regions = fusion.probabilities(logits)
    assert regions.shape == (2, K + 1, 2, 3, 2)
    for b, z, y, x in product(range(2), range(2), range(3), range(2)):
        sigmoids = [1 / (1 + math.exp(-v)) for v in logits[b, :, z, y, x].tolist()]
        assert regions[b, :, z, y, x].tolist() == pytest.approx([*sigmoids, 1 - max(sigmoids)], rel=1e-5, abs=1e-6)


@variants
@pytest.mark.parametrize("merge_width", ["half", "full"])
@pytest.mark.parametrize("level", [1, 2], ids=["upper level", "bottleneck"])
def test_fusion_joins_the_fused_regions_with_a_shortcut(overlapping, level, merge_width):
    fusion, channels = build_fusion(overlapping, level, merge_width)
    maps, _ = fusion_inputs(channels, K)
    coarser = torch.randn(2, channels, 2, 3, 2) if level < 2 else None
    fused, logits = fusion(maps, coarser)
    stacked = torch.cat([maps[:, k] for k in range(FUSION_M)], 1)
    embedded = fusion.embedding(stacked)
    expected_logits = fusion.region_maps(embedded if coarser is None else torch.cat([embedded, coarser], 1))
    regions = fusion.fuse(maps, fusion.probabilities(expected_logits))
    merged = fusion.merge(torch.cat([regions[:, i] for i in range(fusion.num_regions)], 1))
    assert logits.shape == (2, K, 2, 3, 2)
    assert fused.shape == (2, channels, 2, 3, 2)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(fused, torch.cat([merged, fusion.shortcut(stacked)], 1))
    assert fusion.region_maps[0].output_channels == REGION_CHANNELS
    widths = [conv.output_channels for conv in fusion.merge]
    assert widths == [conv.output_channels for conv in fusion.shortcut]
    assert widths == ([channels // 2] * 2 if merge_width == "half" else [channels, channels, channels // 2])


@variants
def test_region_maps_learn_from_their_own_loss_alone(overlapping):
    """The maps are detached before the fusion uses them."""
    fusion, channels = build_fusion(overlapping)
    maps, _ = fusion_inputs(channels, K)
    maps.requires_grad_()
    fused, logits = fusion(maps, None)
    of_maps = [*fusion.embedding.parameters(), *fusion.region_maps.parameters()]
    of_fusion = [p for part in (fusion.weights, fusion.merge, fusion.shortcut) for p in part.parameters()]

    gradients = torch.autograd.grad(
        fused.square().sum(), [*of_maps, *of_fusion, maps], retain_graph=True, allow_unused=True
    )
    assert all(g is None for g in gradients[: len(of_maps)])
    assert all(g is not None for g in gradients[len(of_maps) :])
    assert gradients[-1].abs().max() > 0
    weights_gradient = gradients[len(of_maps)]
    assert weights_gradient.abs().max() > 0

    gradients = torch.autograd.grad(logits.square().sum(), [*of_maps, *of_fusion], allow_unused=True)
    assert all(g is not None for g in gradients[: len(of_maps)])
    assert all(g.abs().max() > 0 for g in gradients[-len(of_fusion) - 2 : -len(of_fusion)])  # the last layer's
    assert gradients[0].abs().max() > 0
    assert all(g is None for g in gradients[len(of_maps) :])
