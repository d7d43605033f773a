"""M2FTrans' masked transformer and its weight maps: the released values, plain loops, what is absent, other grids."""

import math

import pytest
import torch
import torch.nn.functional as F
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from reference_values import as_input, assert_close, reference
from small_plans import CONFIGURATION, small_plans

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.transformer import maps_of
from nnunetv2_missmod.methods.m2ftrans.masked_transformer import MaskedTransformer

M, CHANNELS, HEADS, HIDDEN = 4, 16, 4, 24
GRID = (2, 2, 3)
RELEASED = {  # the block's parameters by the released names
    "attention_norm.weight": "attention_list.{}.fn.norm.weight",
    "attention_norm.bias": "attention_list.{}.fn.norm.bias",
    "attention.in_proj_weight": "attention_list.{}.fn.fn.qkv.weight",
    "attention.out_proj.weight": "attention_list.{}.fn.fn.proj.weight",
    "attention.out_proj.bias": "attention_list.{}.fn.fn.proj.bias",
    "feedforward_norm.weight": "ffn_list.{}.fn.norm.weight",
    "feedforward_norm.bias": "ffn_list.{}.fn.norm.bias",
    "feedforward.0.weight": "ffn_list.{}.fn.fn.net.0.weight",
    "feedforward.0.bias": "ffn_list.{}.fn.fn.net.0.bias",
    "feedforward.2.weight": "ffn_list.{}.fn.fn.net.3.weight",
    "feedforward.2.bias": "ffn_list.{}.fn.fn.net.3.bias",
}


def build(modalities=M, num_layers=3, grid=GRID, heads=HEADS, dropout=0.0):
    plans = small_plans(modalities, len(grid), patch=[4 * size for size in grid], features=(8, 8, CHANNELS))
    architecture = Architecture.from_configuration(PlansManager(plans).get_configuration(CONFIGURATION))
    torch.manual_seed(0)
    transformer = MaskedTransformer(architecture, modalities, num_layers, heads, HIDDEN, dropout).double()
    torch.nn.init.normal_(transformer.position)
    return transformer


def on_grid(tokens, count):
    """Position embeddings or fusion tokens (count * T, C), as they are stored, as maps (count, C, *grid)."""
    return maps_of(torch.from_numpy(tokens).unflatten(0, (count, -1)), GRID)


def test_tokens_and_weight_maps_are_the_released_ones():
    """With their gradients; an absent modality's tokens see each other too, and have none from the fusion tokens."""
    values, transformer = reference("m2ftrans_tokens_0"), build()
    with torch.no_grad():
        transformer.position.copy_(on_grid(values["position"], M + 1))
        transformer.fusion_tokens.copy_(on_grid(values["fusion_tokens"], 1))
        for number, block in enumerate(transformer.blocks):
            names = {ours: f"transformer__cross_{theirs.format(number)}" for ours, theirs in RELEASED.items()}
            block.load_state_dict({ours: torch.from_numpy(values[theirs]) for ours, theirs in names.items()})
    maps = as_input(values["maps"], torch.float64)
    tokens = transformer.of_modalities(maps)
    fused, weights = transformer.fuse(tokens, torch.from_numpy(values["present"]), GRID)
    assert_close(fused, values["fused"], torch.float64)
    assert_close(weights, values["spatial_weights"], torch.float64)
    assert_close(tokens[-1].transpose(2, 3).reshape(maps.shape), values["modality_out"], torch.float64)
    assert not weights.requires_grad
    (fused * torch.from_numpy(values["probe"])).sum().backward()
    assert_close(maps.grad, values["grad_maps"], torch.float64)
    assert_close(transformer.fusion_tokens.grad[0].flatten(1).T, values["grad_fusion_tokens"], torch.float64)
    of_position = transformer.position.grad.flatten(2).transpose(1, 2).flatten(0, 1)
    assert_close(of_position, values["grad_position"], torch.float64)


def test_a_weight_map_is_what_plain_loops_give():
    """Place by place: the softmax of each head and fusion token over what it sees, summed over both."""
    transformer, maps = build(2, 1, (2, 1, 2), heads=2), torch.randn(2, 2, CHANNELS, 2, 1, 2).double()
    seen = torch.tensor([[True, True], [True, False]])
    _, weights = transformer.fuse(transformer.of_modalities(maps), seen, (2, 1, 2))
    norm, width = transformer.blocks[0].attention_norm, CHANNELS // 2
    ask, answer, _ = transformer.blocks[0].attention.in_proj_weight.detach().chunk(3)
    position, fusion = transformer.position.detach().flatten(2), transformer.fusion_tokens.detach()[0].flatten(1)
    expected = torch.zeros(2, 2, 4).double()
    for b in range(2):
        columns = [
            (m, t, maps[b, m].flatten(1)[:, t] + position[m, :, t]) for m in (0, 1) if seen[b, m] for t in range(4)
        ]
        columns += [(None, t, fusion[:, t] + position[2, :, t]) for t in range(4)]
        for head in range(2):
            rows = slice(head * width, (head + 1) * width)
            for _, _, asking in columns[-4:]:
                query = ask[rows] @ F.layer_norm(asking, [CHANNELS], norm.weight, norm.bias)
                keys = [answer[rows] @ F.layer_norm(key, [CHANNELS], norm.weight, norm.bias) for _, _, key in columns]
                scores = [math.exp(float(query.detach() @ key.detach()) / math.sqrt(width)) for key in keys]
                for (m, t, _), score in zip(columns, scores, strict=True):
                    if m is not None:
                        expected[b, m, t] += score / sum(scores)
    torch.testing.assert_close(weights.flatten(2), expected)


@pytest.mark.parametrize("grid", [(2, 2, 3), (1, 4, 2), (3, 2)])
def test_uniform_attention_weighs_every_place_by_the_heads_and_what_is_seen(grid):
    """However many tokens there are: heads / (modalities seen + 1), on grids that are not the plan's too."""
    transformer = build(3, 1, GRID[: len(grid)])
    torch.nn.init.zeros_(transformer.blocks[0].attention.in_proj_weight)
    seen = torch.tensor([[True, True, True], [False, True, False]])
    _, weights = transformer.fuse(transformer.of_modalities(torch.randn(2, 3, CHANNELS, *grid).double()), seen, grid)
    for sample, its_seen, share in zip(weights, seen, (HEADS / 4, HEADS / 2), strict=True):
        expected = torch.where(its_seen, share, 0.0).double()
        torch.testing.assert_close(sample, expected.view(3, *[1] * len(grid)).expand_as(sample))


@pytest.mark.parametrize("grid", [GRID, (3, 1, 2)])
def test_an_absent_modality_is_not_seen_even_where_it_is_nan(grid):
    transformer, maps = build(3), torch.randn(2, 3, CHANNELS, *grid).double()
    seen = torch.tensor([[True, False, True], [False, True, False]])
    fused, weights = transformer.fuse(transformer.of_modalities(maps), seen, grid)
    assert torch.equal(weights[~seen], torch.zeros(3, *grid).double())
    for garbage in (7.0, math.nan):
        changed = torch.where(seen[..., None, None, None, None], maps, garbage)
        again = transformer.fuse(transformer.of_modalities(changed), seen, grid)
        assert torch.equal(again[0], fused)
        assert torch.equal(again[1], weights)


def test_a_modality_s_tokens_see_each_other_alone():
    transformer, maps = build(3), torch.randn(1, 3, CHANNELS, *GRID).double()
    changed = maps.clone()
    changed[:, 1] += 1 + torch.randn(CHANNELS, *GRID).double()
    for before, after in zip(transformer.of_modalities(maps), transformer.of_modalities(changed), strict=True):
        assert [torch.equal(before[:, m], after[:, m]) for m in range(3)] == [True, False, True]


def test_the_embeddings_of_another_grid_are_the_plans_resized():
    transformer, grid = build(2), (4, 2, 3)
    tokens = transformer.of_modalities(torch.zeros(1, 2, CHANNELS, *grid).double())
    position = F.interpolate(transformer.position, grid, mode="trilinear")
    assert torch.equal(tokens[0], position[:2].flatten(2).transpose(1, 2)[None])
    fused, _ = transformer.fuse(tokens, torch.ones(1, 2, dtype=torch.bool), grid)
    assert fused.shape == (1, CHANNELS, *grid)


@pytest.mark.parametrize(("layers", "heads"), [(0, 4), (2, 3), (2, 0)])
def test_heads_that_cannot_share_the_channels_are_an_error(layers, heads):
    with pytest.raises(ValueError, match=f"divide the 16 channels.*got {layers} layers and {heads} heads"):
        build(2, layers, heads=heads)
