"""The transformer's parts against plain tensor algebra and PyTorch's own attention."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunetv2_missmod.building_blocks.transformer import Block, SelfAttention, maps_of, position_on, tokens_of

B, T, E, HIDDEN = 2, 5, 8, 16
MASKS = {
    "none": None,
    "keys": (B, 1, 1, T),
    "samples": (B, T, T),
    "heads": (B, 1, T, T),
}


def drawn_mask(shape):
    """A mask of random entries; every token sees itself."""
    if shape is None:
        return None
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] = True
    return mask


def with_drawn_weights(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def plain_attention(attend, tokens, heads, mask):
    """Each sample, head and token by itself; a token that is not seen is left out of the sum."""
    bias = 0 if attend.in_proj_bias is None else attend.in_proj_bias
    parts = (tokens @ attend.in_proj_weight.T + bias).chunk(3, 2)
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in parts)
    attention, gathered = torch.zeros(B, heads, T, T), torch.zeros(B, heads, T, E // heads)
    for b in range(B):
        for h in range(heads):
            for row in range(T):
                seen = [c for c in range(T) if mask is None or mask.expand(B, heads, T, T)[b, h, row, c]]
                scores = torch.stack([(q[b, h, row] * k[b, h, c]).sum() / math.sqrt(E // heads) for c in seen])
                attention[b, h, row, seen] = scores.exp() / scores.exp().sum()
                gathered[b, h, row] = sum(attention[b, h, row, c] * v[b, h, c] for c in seen)
    return gathered.transpose(1, 2).flatten(2) @ attend.out_proj.weight.T + attend.out_proj.bias, attention


def plain_block(block, tokens, heads, activation, mask):
    first, _, last = block.feedforward
    norm, other_norm = block.attention_norm, block.feedforward_norm
    normed = F.layer_norm(tokens, (E,), norm.weight, norm.bias)
    attended, attention = plain_attention(block.attention, normed, heads, mask)
    tokens = tokens + attended
    normed = F.layer_norm(tokens, (E,), other_norm.weight, other_norm.bias)
    return tokens + activation(normed @ first.weight.T + first.bias) @ last.weight.T + last.bias, attention


def plain_gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


ACTIVATIONS = {nn.ReLU: lambda x: x.clamp(min=0), nn.GELU: plain_gelu}


@pytest.mark.parametrize("shape", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(
    ("heads", "activation", "qkv_bias"), [(1, nn.ReLU, True), (2, nn.GELU, False), (4, nn.ReLU, False)]
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_attention", [True, False])
def test_a_block_is_the_textbooks(heads, activation, qkv_bias, shape, training, with_attention):
    block = with_drawn_weights(Block(E, heads, HIDDEN, activation, qkv_bias=qkv_bias)).train(training)
    tokens, mask = torch.randn(B, T, E), drawn_mask(shape)
    full = mask[:, None] if shape == MASKS["samples"] else mask
    with torch.no_grad():
        got = block(tokens, with_attention, mask)
        expected, attention = plain_block(block, tokens, heads, ACTIVATIONS[activation], full)
    torch.testing.assert_close(got, (expected, attention if with_attention else None), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_starts_and_computes_as_pytorchs_own(heads):
    modules = []
    for make in (SelfAttention, lambda e, h: nn.MultiheadAttention(e, h, batch_first=True)):
        torch.manual_seed(0)
        modules.append(make(E, heads))
    ours, theirs = modules
    weights = theirs.state_dict()
    assert list(ours.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[key]) for key, value in ours.state_dict().items())
    tokens, mask = torch.randn(B, T, E), drawn_mask((T, T))
    expected = theirs(tokens, tokens, tokens, attn_mask=~mask, average_attn_weights=False)
    torch.testing.assert_close(ours(tokens, mask, need_weights=True), expected)


@pytest.mark.parametrize("need_weights", [False, True])
def test_what_is_not_seen_has_no_weight_and_no_gradient(need_weights):
    attend, mask = with_drawn_weights(SelfAttention(E, 2)), torch.ones(B, 1, 1, T, dtype=torch.bool)
    mask[0, ..., 3:] = False
    tokens = torch.randn(B, T, E).requires_grad_()
    out, attention = attend(tokens, mask, need_weights)
    out[:, :3].square().sum().backward()
    assert torch.equal(tokens.grad[0, 3:], torch.zeros(2, E))
    assert (tokens.grad[1, 3:] != 0).all()
    if need_weights:
        assert torch.equal(attention[0, ..., 3:], torch.zeros(2, T, 2))
    changed = torch.where(torch.arange(T)[:, None] < 3, tokens, 7)
    assert torch.equal(attend(changed, mask)[0][0, :3], attend(tokens, mask)[0][0, :3])


@pytest.mark.parametrize("with_attention", [False, True])
def test_a_context_is_seen_as_the_first_tokens_of_a_longer_row_are(with_attention):
    block, everything = with_drawn_weights(Block(E, 2, HIDDEN, nn.GELU)), torch.randn(B, 3 + T, E)
    mask = torch.rand(B, 1, T, 3 + T) < 0.5
    mask[..., -1] = True
    whole_mask = torch.cat((torch.ones(B, 1, 3, 3 + T, dtype=torch.bool), mask), 2)
    expected, attention = block(everything, True, whole_mask)
    got, its_attention = block(everything[:, 3:], with_attention, mask, everything[:, :3])
    torch.testing.assert_close(got, expected[:, 3:])
    torch.testing.assert_close(its_attention, attention[:, :, 3:] if with_attention else None)


@pytest.mark.parametrize("with_attention", [False, True])
def test_dropout_is_of_training_alone_and_leaves_attention_as_softmax_gave_it(with_attention):
    block, tokens = Block(E, 2, HIDDEN, nn.GELU, dropout=0.5), torch.randn(B, T, E)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(block(tokens, with_attention))
    assert torch.equal(runs[0][0], runs[1][0])
    assert not torch.allclose(runs[0][0], runs[2][0])
    if with_attention:
        torch.testing.assert_close(runs[0][1], runs[2][1])
        torch.testing.assert_close(runs[0][1].sum(3), torch.ones(B, 2, T))
    block.eval()
    assert torch.equal(block(tokens)[0], block(tokens)[0])


@pytest.mark.parametrize("grid", [(3,), (2, 3), (2, 1, 3)])
def test_tokens_are_voxels_in_order(grid):
    maps = torch.randn(B, E, *grid)
    tokens = tokens_of(maps)
    for number, voxel in enumerate(torch.cartesian_prod(*map(torch.arange, grid)).view(-1, len(grid)).tolist()):
        assert torch.equal(tokens[:, number], maps[(slice(None), slice(None), *voxel)])
    assert torch.equal(maps_of(tokens, grid), maps)


@pytest.mark.parametrize(("grid", "other"), [((2, 3), (4, 5)), ((2, 2, 2), (2, 3, 5))])
def test_position_embeddings_are_resized_to_other_grids_alone(grid, other):
    position = torch.randn(4, E, *grid)
    assert position_on(position, torch.Size(grid)) is position
    mode = {2: "bilinear", 3: "trilinear"}[len(grid)]
    expected = F.interpolate(position, size=other, mode=mode, align_corners=False)
    assert torch.equal(position_on(position, other), expected)
    torch.testing.assert_close(position_on(torch.full((1, E, *grid), 3.0), other), torch.full((1, E, *other), 3.0))
