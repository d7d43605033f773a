"""MST-KDNet's network: its levels and tokens against the plan, its parts against plain tensor algebra."""

import math

import pytest
import torch
import torch.nn.functional as F
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer, with_small_network
from torch import nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.discriminator import PooledDiscriminator
from nnunetv2_missmod.methods.mstkdnet.network import MSTKDNet
from nnunetv2_missmod.methods.mstkdnet.trainer import MSTKDNetTrainer
from nnunetv2_missmod.methods.mstkdnet.transformer import TokenDecoder

K = 3
SIX = (4, 4, 4, 8, 16, 16)
FLAT_LATE = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [2, 2, 2]]
FLAT_THIRD = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 2, 2], [2, 1, 2], [1, 2, 2]]
TINY = {"embed_dim": 12, "num_layers": 4, "num_heads": 2, "feedforward_dim": 16}
RESIDUAL = pytest.mark.parametrize("residual", [False, True])


def plans_of(patch, features=SIX, strides=None, residual=False):
    plans = small_plans(2, len(patch), residual, patch, features=features)
    if strides:
        plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]["strides"] = strides
    return plans


def build_network(patch, features=SIX, strides=None, residual=False, extra=0, **constants):
    plans = PlansManager(plans_of(patch, features, strides, residual))
    configuration = plans.get_configuration(CONFIGURATION)
    configuration.configuration["missmod"]["network"] = TINY | constants
    torch.manual_seed(0)
    return MSTKDNet.from_plans(plans, configuration, 2 + extra, K, False)


def small_architecture(dims):
    return Architecture.from_configuration(PlansManager(plans_of([16] * dims)).get_configuration(CONFIGURATION))


def random_images(patch, channels=2, samples=1):
    return torch.randn(samples, channels, *patch, generator=torch.Generator().manual_seed(0))


def spatial(maps):
    return tuple(maps.shape[2:])


# --- levels and tokens ------------------------------------------------------------------------------------------------


@RESIDUAL
@pytest.mark.parametrize(
    ("patch", "features", "strides", "deepest", "grid"),
    [
        ((64, 96), SIX, None, (8, 12), (2, 3)),
        ((16, 64, 64), SIX, FLAT_LATE, (4, 8, 8), (2, 2, 2)),
        ((16, 32, 32), SIX, FLAT_THIRD, (4, 4, 4), (2, 2, 2)),  # the bottleneck is 2 x 2 x 1
        ((32, 64), SIX, None, (4, 8), (2, 2)),  # 1 x 2
        ((16, 16, 32), SIX, None, (2, 2, 4), (2, 2, 2)),
        ((8, 64), SIX[:5], None, (1, 8), (1, 4)),
        ((24, 40), SIX, None, (3, 5), (3, 5)),
        ((56, 48), SIX, None, (7, 6), (7, 3)),
        ((24, 40, 16), SIX, None, (3, 5, 2), (3, 5, 2)),
        ((16, 32, 16), SIX[:4], None, (2, 4, 2), (2, 4, 2)),
        ((16, 24), SIX[:3], None, (4, 6), (4, 6)),
        ((8, 8, 8), SIX[:2], None, (4, 4, 4), (4, 4, 4)),
    ],
)
def test_convolutions_end_at_an_eighth_and_tokens_at_the_bottleneck(patch, features, strides, deepest, grid, residual):
    net, images = build_network(patch, features, strides, residual), random_images(patch)
    with torch.no_grad():
        out, logits = net(images), net.eval()(images)
    assert [maps.shape[1] for maps in net.encoder(images)] == list(features[:4])
    for maps in (out.encoded, out.transformed, out.style, out.decoded):
        assert spatial(maps) == deepest
    assert [tuple(tokens.shape) for tokens in out.hidden] == [(1, 12, *grid)] * 4
    assert [tuple(a.shape) for a in out.attention] == [(1, 2, math.prod(grid), math.prod(grid))] * 4
    assert logits.shape == (1, K, *patch)
    torch.testing.assert_close(logits, out.logits, rtol=1e-5, atol=1e-5)


@RESIDUAL
@pytest.mark.parametrize(
    ("patch", "other", "grid"),
    [((64, 96), (96, 64), (3, 2)), ((64, 64), (128, 160), (4, 5)), ((16, 32, 32), (24, 48, 64), (3, 3, 4))],
)
def test_images_of_another_size_than_the_plans_are_segmented(patch, other, grid, residual):
    net, images = build_network(patch, residual=residual), random_images(other)
    nn.init.normal_(net.transformer.position)
    with torch.no_grad():
        out, logits = net(images), net.eval()(images)
    assert {spatial(tokens) for tokens in out.hidden} == {grid}
    assert logits.shape == (1, K, *other)
    torch.testing.assert_close(logits, out.logits, rtol=1e-5, atol=1e-5)


# --- the transformer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [[1, 2, 3, 4], [2, 3, 4, 5], [2, 3, 5, 6], [2, 4, 6, 7], [2, 4, 6, 8], [3, 6, 9, 12]])
def test_tokens_and_attention_are_taken_after_each_quarter_of_the_depth(taps):
    transformer = build_network((64, 96), num_layers=taps[-1]).transformer
    nn.init.normal_(transformer.position)
    maps = torch.randn(2, SIX[3], 8, 12)
    patches = maps.unflatten(3, (3, 4)).unflatten(2, (2, 4))
    embedding = transformer.embedding
    embedded = torch.einsum("bchpwq,kcpq->bkhw", patches, embedding.weight) + embedding.bias[:, None, None]
    tokens, hidden, attention = (embedded + transformer.position).flatten(2).transpose(1, 2), [], []
    for layer, block in enumerate(transformer.blocks, 1):
        tokens, weights = block(tokens, True)
        if layer in taps:
            hidden.append(tokens.transpose(1, 2).unflatten(2, (2, 3)))
            attention.append(weights)
    tapped = transformer(maps)
    torch.testing.assert_close(tapped.hidden, hidden)
    torch.testing.assert_close(tapped.attention, attention)
    for weights in tapped.attention:
        torch.testing.assert_close(weights.sum(3), torch.ones(2, 2, 6))
    assert transformer.eval()(maps).attention == []


def test_attention_maps_are_asked_for_in_training_and_of_tapped_blocks_alone():
    net, images, asked = build_network((64, 64), num_layers=6), random_images((64, 64)), []
    for block in net.transformer.blocks:
        block.attention.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[2]))  # need_weights
    with torch.no_grad():
        net.eval()(images)
        assert asked == [False] * 6
        net.train()(images)
    assert asked[6:] == [False, True, True, False, True, True]


# --- from tokens to logits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strides", "sizes"),
    [
        ([], [(2, 2)] * 4),
        ([(2, 2)], [(2, 2), (4, 4), (4, 4), (4, 4)]),
        ([(1, 2, 2)], [(2, 2, 2), (2, 4, 4), (2, 4, 4), (2, 4, 4)]),
        ([(2, 1), (2, 2)], [(2, 2), (4, 4), (8, 4), (8, 4)]),
        ([(2, 2, 2), (1, 2, 2), (2, 1, 1)], [(2, 2, 2), (4, 2, 2), (4, 4, 4), (8, 8, 8)]),
        ([(2, 2)] * 5, [(2, 2), (4, 4), (8, 8), (64, 64)]),
        ([(1, 2), (2, 1), (1, 1), (1, 2), (2, 1)], [(2, 2), (4, 2), (4, 4), (8, 8)]),
    ],
)
def test_the_token_decoder_enlarges_the_grid_to_the_map_and_reads_every_tap(strides, sizes):
    torch.manual_seed(0)
    dims = len(sizes[0])
    decoder = TokenDecoder(small_architecture(dims), 8, 4, strides)
    hidden = [torch.randn(2, 8, *[2] * dims) for _ in range(4)]
    with torch.no_grad():
        deepest, *shallower = (tap(tokens) for tap, tokens in zip(decoder.taps, hidden[::-1], strict=True))
        assert [spatial(tap) for tap in (deepest, *shallower)] == sizes
        maps = [deepest]
        for upsampling, join, skip in zip(decoder.upsamplings, decoder.joins, shallower, strict=True):
            maps.append(join(upsampling(maps[-1]) + skip))
        assert [m.shape for m in maps] == [(2, 4, *size) for size in sizes]
        torch.testing.assert_close(decoder(hidden), maps)
        for tap in range(4):
            changed = [torch.randn_like(tokens) if tap == t else tokens for t, tokens in enumerate(hidden)]
            assert (decoder(changed)[-1] - maps[-1]).abs().max() > 1e-2


@RESIDUAL
@pytest.mark.parametrize(
    ("patch", "strides"), [((64, 96), None), ((16, 32, 32), FLAT_THIRD), ((16, 64, 64), FLAT_LATE)]
)
def test_the_features_are_what_the_paper_calls_them(patch, strides, residual):
    net, images = build_network(patch, strides=strides, residual=residual), random_images(patch)
    nn.init.normal_(net.mix.bias)
    stride = strides[3] if strides else 2
    with torch.no_grad():
        out = net(images)
        *skips, above, deepest = net.encoder(images)
        assert torch.equal(out.encoded, getattr(F, f"max_pool{len(patch)}d")(above, stride, stride))
        torch.testing.assert_close(out.transformed, deepest + net.token_decoder(out.hidden)[-1])
        both = torch.cat((out.encoded, out.transformed), 1).flatten(2)
        style = net.mix.weight.flatten(1) @ both + net.mix.bias[:, None]
        torch.testing.assert_close(out.style.flatten(2), style, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(out.decoded, net.first_conv(out.style))
        torch.testing.assert_close(out.logits, net.decoder([*skips, above, out.decoded]))


@pytest.mark.parametrize(
    ("patch", "features", "strides"),
    [((64, 64), SIX, None), ((16, 32, 32), SIX, FLAT_THIRD), ((32, 32), SIX[:4], None), ((16, 16), SIX[:3], None)],
)
def test_every_level_above_the_deepest_is_supervised(patch, features, strides, tmp_path, monkeypatch):
    plans = with_small_network(MSTKDNetTrainer, plans_of(patch, features, strides))
    trainer = small_trainer(MSTKDNetTrainer, plans, small_dataset_json(2), tmp_path, monkeypatch)
    batch, levels = random_batch(trainer), min(3, len(features) - 1)
    trainer.network.train()
    logits = trainer.network(batch["data"]).logits
    assert len(logits) == len(trainer.deep_supervision_scales()) == levels
    assert [spatial(level) for level in logits] == [spatial(target) for target in batch["target"]]
    assert all(torch.isfinite(term) for term in trainer.train_step(batch).values())
    trainer.enable_deep_supervision = False
    assert trainer.deep_supervision_scales() is None


@pytest.mark.parametrize("present", [None, [True, False], [False, True], [True, True]])
def test_the_extra_channels_of_a_cascade_are_kept_whatever_is_absent(present):
    net, images, seen = build_network((32, 32), extra=1).eval(), random_images((32, 32), 3, 2), []
    net.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images[:, 1] = 0
    images[0, 2] = 1  # a class that fills the patch
    changed = images.clone()
    changed[:, 2] = images[:, 2].flip(0)
    subset = present and torch.tensor(present).expand(2, -1)
    with torch.no_grad():
        before, after = net(images, subset), net(changed, subset)
    assert torch.equal(seen[0][:, 2], images[:, 2])
    assert all(level.abs().max() > 1e-3 for level in before - after)


@pytest.mark.parametrize("constants", [{"num_layers": 3}, {"embed_dim": 9}, {"num_heads": 5}, {"num_heads": 0}])
def test_a_transformer_that_cannot_be_is_refused(constants):
    with pytest.raises(
        ValueError, match=r"Expected num_layers of at least 4 and embed_dim a multiple of num_heads, got \d"
    ):
        build_network((32, 32), **constants)


def test_an_unknown_constant_is_refused_and_the_known_are_listed():
    with pytest.raises(ValueError, match=r"depth.*embed_dim = 768, feedforward_dim = 2048, num_heads = 12, num_layers"):
        build_network((32, 32), depth=4)


# --- the discriminator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (9, 2), (5, 8), (1, 1, 1), (9, 1, 4), (3, 6, 7)])
def test_the_discriminator_gives_one_logit_for_maps_of_any_size(size):
    torch.manual_seed(0)
    discriminator, style = PooledDiscriminator(small_architecture(len(size)), 4), torch.randn(3, 4, *size)
    maps, convolution = style, getattr(F, f"conv{len(size)}d")
    for conv in discriminator.convs[::2]:
        maps = convolution(maps, conv.weight, conv.bias, stride=2, padding=1)
        maps = torch.where(maps > 0, maps, 0.2 * maps)
    expected = maps.mean(tuple(range(2, maps.ndim))) @ discriminator.head.weight.T + discriminator.head.bias
    assert expected.shape == (3, 1)
    torch.testing.assert_close(discriminator(style), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_judging_passes_a_gradient_to_the_features_and_none_to_the_weights(dims):
    torch.manual_seed(0)
    discriminator, style = (
        PooledDiscriminator(small_architecture(dims), 4),
        torch.randn(2, 4, *[5] * dims).requires_grad_(),
    )
    discriminator.judge(style).sum().backward()
    assert torch.equal(discriminator.judge(style), discriminator(style))
    assert all(weight.requires_grad and weight.grad is None for weight in discriminator.parameters())
    (expected,) = torch.autograd.grad(discriminator(style).sum(), style)
    torch.testing.assert_close(style.grad, expected)
