"""M2FTrans' channel-wise cross-attention: the released block's values, plain loops, what is absent."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from reference_values import as_input, assert_close, reference
from small_plans import CONFIGURATION, small_plans

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.methods.m2ftrans.cross_attention import ChannelNorm, CrossBlock, CrossFusion

M, CHANNELS = 4, 4
RELEASED = ("flair", "t1ce", "t1", "t2")  # their order in the reference values
PROJECTION = ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3")
FEEDFORWARD = ("pwconv1", "norm1", "dwconv", "norm2", "pwconv2", "norm3")


def architecture(dims=3, **kwargs):
    plans = small_plans(M, dims, features=(8, 8, 8), **kwargs)
    return Architecture.from_configuration(PlansManager(plans).get_configuration(CONFIGURATION))


def released_weights(values, part, layers, modalities=("",)):
    """The weights of a part in the order of this package's modules; those of the modalities are stacked."""
    names = [f"{layer}.{parameter}" for layer in layers for parameter in ("weight", "bias")]
    return [np.stack([values[f"block__{part}{modality}.{name}"] for modality in modalities]) for name in names]


def load(module, weights):
    parameters = list(module.parameters())
    assert len(parameters) == len(weights)
    with torch.no_grad():
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.copy_(torch.from_numpy(weight).reshape(parameter.shape))


@pytest.fixture
def released():
    """The released block's values, and a block with its weights."""
    values = reference("m2ftrans_cross_0")
    block = CrossBlock(architecture(), CHANNELS, 3, M, 0.0, is_last=False).double()
    load(block.query, released_weights(values, "cross_attn.query_map", PROJECTION))
    each = [f"_{modality}" for modality in RELEASED]
    of_both = (released_weights(values, f"cross_attn.{kind}_map", PROJECTION, each) for kind in ("key", "value"))
    load(block.key_value, [np.concatenate(pair) for pair in zip(*of_both, strict=True)])
    load(block.out, released_weights(values, "cross_attn.out_project", PROJECTION))
    load(block.feedforward, released_weights(values, "ffn1", FEEDFORWARD))
    load(block.maps_feedforward, released_weights(values, "ffn2", FEEDFORWARD))
    return values, block


def test_a_block_is_the_released_one(released):
    values, block = released
    query, maps = (as_input(values[name], torch.float64) for name in ("query", "maps"))
    out, maps_out = block(query, maps, torch.from_numpy(values["present"]))
    assert_close(out, values["out"], torch.float64)
    assert_close(maps_out, values["maps_out"], torch.float64)
    (out * torch.from_numpy(values["probe"])).sum().backward()
    assert_close(query.grad, values["grad_query"], torch.float64)
    assert_close(maps.grad, values["grad_maps"], torch.float64)


def test_attention_is_that_of_plain_loops():
    """For each channel a softmax over the channels of the modalities present, of products over the voxels."""
    torch.manual_seed(0)
    block = CrossBlock(architecture(2), CHANNELS, 3, 2, 0.0, is_last=True).double()
    query, maps = torch.randn(2, CHANNELS, 3, 2).double(), torch.randn(2, 2, CHANNELS, 3, 2).double()
    present = torch.tensor([[True, True], [False, True]])
    block.requires_grad_(False)
    attended = block.attend(query, maps, present)
    stacked, queries = maps.flatten(1, 2), block.query(query)
    keys, values = block.key_value(torch.cat((stacked, stacked), 1)).chunk(2, 1)
    for b in range(2):
        asked = [m * CHANNELS + c for m in range(2) if present[b, m] for c in range(CHANNELS)]
        for channel in range(CHANNELS):
            products = [float((queries[b, channel] * keys[b, k]).sum()) / math.sqrt(6) for k in asked]
            total = sum(math.exp(product) for product in products)
            expected = sum(math.exp(p) / total * values[b, k] for p, k in zip(products, asked, strict=True))
            torch.testing.assert_close(attended[b, channel], expected)


def test_each_modality_has_projections_of_its_own():
    """Grouped convolutions: what one modality's channels are projected to depends on no other."""
    torch.manual_seed(0)
    block, maps = CrossBlock(architecture(), CHANNELS, 3, 3, 0.0, is_last=True), torch.randn(1, 6 * CHANNELS, 2, 2, 2)
    changed = maps.clone()
    changed[:, CHANNELS : 2 * CHANNELS] += 1 + torch.randn(1, CHANNELS, 2, 2, 2)
    pairs = zip(*(block.key_value(x).chunk(6, 1) for x in (maps, changed)), strict=True)
    assert [not torch.equal(*pair) for pair in pairs] == [False, True, False, False, False, False]


def test_the_norm_is_that_of_each_group_s_channels():
    torch.manual_seed(0)
    norm, maps = ChannelNorm(CHANNELS, 2), torch.randn(2, 2 * CHANNELS, 3, 2)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    for group, part in enumerate(norm(maps).chunk(2, 1)):
        of_group = maps.chunk(2, 1)[group].permute(0, 2, 3, 1)
        affine = [parameter.chunk(2)[group] for parameter in (norm.weight, norm.bias)]
        expected = F.layer_norm(of_group, [CHANNELS], *affine, eps=1e-6)
        torch.testing.assert_close(part, expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("dims", [2, 3])
def test_an_absent_modality_s_maps_change_nothing(dims):
    torch.manual_seed(0)
    fusion, size = CrossFusion(architecture(dims), 2, 3, 0.1).eval(), [4] * dims
    query, maps = torch.randn(2, 8, *size), torch.randn(2, 3, 8, *size)
    present = torch.tensor([[True, False, True], [True, False, False]])
    fused = fusion(query, maps, present)
    changed = maps.clone()
    changed[~present] = 7
    assert fused.shape == query.shape
    assert torch.equal(fusion(query, changed, present), fused)
    changed[present] += 1
    assert not torch.equal(fusion(query, changed, present), fused)


def test_no_part_of_the_last_block_is_idle():
    """DDP would wait for the gradients of a feed-forward network whose maps nobody asks for."""
    fusion = CrossFusion(architecture(2), 2, 2, 0.0)
    maps = torch.randn(1, 2, 8, 4, 4)
    fusion(torch.randn(1, 8, 4, 4), maps, torch.ones(1, 2, dtype=torch.bool)).sum().backward()
    assert all(parameter.grad is not None for parameter in fusion.parameters())
