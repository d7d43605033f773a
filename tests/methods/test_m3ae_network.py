"""M3AE's networks: nnU-Net's own of the plan, and x_sub wherever nothing is to be seen."""

import math
from itertools import product

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_plans

from nnunetv2_missmod.building_blocks.network import unwrapped
from nnunetv2_missmod.methods.m3ae.masking import block_grid, draw_visible_blocks
from nnunetv2_missmod.methods.m3ae.network import M3AENet, M3AEOutput, M3AEPretrainNet, to_voxels
from nnunetv2_missmod.modalities import all_subsets

K = 3  # classes
TINY = (8, 8, 16)
HEADS = ".seg_layers."

on_architectures = pytest.mark.parametrize(
    ("dims", "residual"), [(2, False), (2, True), (3, False), (3, True)], ids=["2D", "2D residual", "3D", "3D residual"]
)
on_networks = pytest.mark.parametrize("network_class", [M3AENet, M3AEPretrainNet])
on_deep_supervision = pytest.mark.parametrize("deep_supervision", [False, True])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small gain nothing from more threads, which on a busy machine wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(network_class=M3AENet, num_modalities=3, deep_supervision=False, extra_channels=0, classes=K, seed=0, **plan):
    """A network of a plan, and an x_sub in it that is not blank."""
    plans = PlansManager(small_plans(num_modalities, features=TINY, **plan))
    configuration = plans.get_configuration(CONFIGURATION)
    torch.manual_seed(seed)
    net = network_class.from_plans(
        plans, configuration, num_modalities + extra_channels, classes, enable_deep_supervision=deep_supervision
    )
    if network_class is M3AENet:
        torch.nn.init.normal_(net.substitute)
    return net


def build_stock(num_modalities=3, deep_supervision=False, extra_channels=0, classes=K, **plan):
    """What nnU-Net builds from the same plan."""
    configuration = PlansManager(small_plans(num_modalities, features=TINY, **plan)).get_configuration(CONFIGURATION)
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        num_modalities + extra_channels,
        classes,
        deep_supervision=deep_supervision,
    )


def give_weights(net, stock):
    net.load_state_dict({**stock.state_dict(), "substitute": net.substitute.detach()})


def random_images(channels=3, samples=2, patch=(16, 16, 16), seed=0):
    return torch.randn(samples, channels, *patch, generator=torch.Generator().manual_seed(seed))


def random_blocks(samples=2, num_modalities=3, grid=(8, 8, 8), fraction=0.3, seed=0):
    present = torch.ones(samples, num_modalities, dtype=torch.bool)
    return draw_visible_blocks(present, grid, fraction, torch.Generator().manual_seed(seed))


def full(samples=2, num_modalities=3):
    return torch.ones(samples, num_modalities, dtype=torch.bool)


def as_list(levels):
    return levels if isinstance(levels, list) else [levels]


def assert_same(actual, expected):
    """Bit for bit, at every level of deep supervision."""
    assert isinstance(actual, list) == isinstance(expected, list)
    for a, b in zip(as_list(actual), as_list(expected), strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)


# --- nnU-Net's own network --------------------------------------------------------------------------------------------


@on_networks
@on_architectures
@pytest.mark.parametrize("extra_channels", [0, 2])
def test_the_weights_are_nnunets_and_x_sub(network_class, dims, residual, extra_channels):
    """No second architecture: as many parameters under the same names in the same shapes."""
    net = build(network_class, classes=3, dims=dims, residual=residual, extra_channels=extra_channels)
    stock = build_stock(classes=3, dims=dims, residual=residual, extra_channels=extra_channels)
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    patch = (16,) * dims
    assert shapes == {name: value.shape for name, value in stock.state_dict().items()} | {"substitute": (1, 3, *patch)}
    counts = [sum(p.numel() for p in network.parameters()) for network in (net, stock)]
    assert counts[0] == counts[1] + 3 * math.prod(patch)
    assert set(dict(net.named_buffers())) == set(dict(stock.named_buffers()))


@on_architectures
@on_deep_supervision
def test_with_every_modality_it_is_nnunet(dims, residual, deep_supervision):
    net = build(dims=dims, residual=residual, deep_supervision=deep_supervision).eval()
    stock = build_stock(dims=dims, residual=residual, deep_supervision=deep_supervision).eval()
    give_weights(net, stock)
    images = random_images(patch=[16] * dims)
    with torch.no_grad():
        expected = stock(images)
        assert isinstance(expected, list) == deep_supervision
        assert_same(net(images, full()), expected)
        assert_same(net(images), expected)
        assert_same(net(images, torch.ones(2, 3, *[8] * dims, dtype=torch.bool)), expected)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("num_modalities", [2, 3])
def test_without_a_modality_it_is_nnunet_with_x_sub_for_an_image(dims, num_modalities):
    net = build(num_modalities=num_modalities, dims=dims).eval()
    stock = build_stock(num_modalities, dims=dims).eval()
    give_weights(net, stock)
    images = random_images(num_modalities, patch=[16] * dims)
    for subset in all_subsets(num_modalities):
        replaced = images.clone()
        replaced[:, ~subset] = net.substitute.detach()[:, ~subset]
        constant = images.clone()
        constant[:, ~subset] = 0.25
        with torch.no_grad():
            expected = stock(replaced)
            assert_same(net(images, subset.expand(2, -1)), expected)
            assert_same(net(constant), expected)


def test_each_sample_has_its_own_absent_modalities():
    net = build().eval()
    images, present = random_images(), torch.tensor([[True, False, True], [False, False, True]])
    with torch.no_grad():
        together = net(images, present)
        alone = torch.cat([net(images[b : b + 1], present[b : b + 1]) for b in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@on_networks
def test_it_computes_what_nnunet_computes(network_class):
    """As many convolutions, each once."""
    net = build(network_class).eval()
    calls = []
    for module in net.modules():
        if isinstance(module, (torch.nn.Conv3d, torch.nn.ConvTranspose3d)):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    with torch.no_grad():
        net(random_images(), full())
    stock = build_stock()
    convolutions = [m for m in stock.modules() if isinstance(m, (torch.nn.Conv3d, torch.nn.ConvTranspose3d))]
    coarse_heads = len(TINY) - 2
    assert len(calls) == len(set(calls)) == len(convolutions) - coarse_heads


# --- blocks -----------------------------------------------------------------------------------------------------------


def block_of(voxel, side, blocks):
    """The block that the middle of a voxel is in."""
    return (2 * voxel + 1) * blocks // (2 * side)


@pytest.mark.parametrize("side", [*range(1, 50), 64, 80, 96, 112, 127, 128, 130, 144, 150, 160, 192, 250, 320])
def test_blocks_of_any_patch_follow_each_other_and_are_as_large(side):
    (blocks,) = block_grid((side,))
    alone = torch.eye(blocks, dtype=torch.bool)[:, None, :, None]  # sample k shows block k
    voxels = to_voxels(alone, (side, 3))
    assert voxels.dtype == torch.bool
    assert torch.equal(voxels, voxels[..., :1].expand(-1, -1, -1, 3))
    voxels = voxels[:, 0, :, 0]
    assert (voxels.sum(0) == 1).all()  # every voxel is in one block
    assert (voxels.int().argmax(0).diff() >= 0).all()
    sizes = voxels.sum(1)
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(
    ("patch", "grid"),
    [((7, 4, 6), (3, 2, 2)), ((16, 9), (8, 8)), ((5, 6, 7), (5, 1, 4)), ((9, 5), (4, 3))],
    ids=str,
)
@pytest.mark.parametrize("extra_channels", [0, 1])
def test_composition_is_x_where_it_is_visible_and_x_sub_elsewhere(patch, grid, extra_channels):
    net = build(num_modalities=2, patch=patch, dims=len(patch), extra_channels=extra_channels)
    images, visible = random_images(2 + extra_channels, patch=patch), random_blocks(2, 2, grid, 0.4)
    with torch.no_grad():
        composed = net.compose(images, visible)
    assert composed.shape == images.shape
    for b, m, *voxel in product(range(2), range(2), *map(range, patch)):
        block = tuple(map(block_of, voxel, patch, grid))
        source = images[b] if visible[(b, m, *block)] else net.substitute[0]
        assert composed[(b, m, *voxel)] == source[(m, *voxel)]
    assert torch.equal(composed[:, 2:], images[:, 2:])


def test_an_absent_modality_is_one_whose_blocks_are_all_hidden():
    net, images = build(), random_images()
    present = torch.tensor([[True, False, True], [False, False, True]])
    blocks = present[:, :, None, None, None].expand(-1, -1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(net.compose(images, present), net.compose(images, blocks))


@on_networks
@pytest.mark.parametrize("garbage", [1e6, math.nan, math.inf])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_of_a_hidden_voxel_comes_out(network_class, garbage, training):
    net, images, visible = build(network_class).train(training), random_images(), random_blocks()
    changed = images.masked_fill(~to_voxels(visible, (16, 16, 16)), garbage)
    with torch.no_grad():
        expected, got = net(images, visible), net(changed, visible)
    for a, b in zip(expected, got, strict=True):  # fields in training, samples in evaluation
        assert_same(b, a)


def test_visible_voxels_do_come_out():
    net, images, visible = build().eval(), random_images(), random_blocks()
    changed = images + to_voxels(visible, (16, 16, 16)).float() * random_images(seed=1)
    with torch.no_grad():
        assert (net(images, visible) - net(changed, visible)).abs().max() > 1e-3


@pytest.mark.parametrize("visible", [torch.tensor([[True, False], [False, True]]), random_blocks(2, 2, fraction=0.2)])
def test_channels_beyond_the_modalities_are_kept(visible):
    """A cascade's, constant or not: no modality of theirs can be absent."""
    net, images = build(num_modalities=2, extra_channels=2).eval(), random_images(4)
    images[:, 3] = 0
    with torch.no_grad():
        assert torch.equal(net.compose(images, visible)[:, 2:], images[:, 2:])
        changed = images.clone()
        changed[:, 3] = random_images(1, seed=1)[:, 0]
        assert not torch.equal(net(images, visible), net(changed, visible))
        changed[:, :2] = 0.5  # no image at all: every modality counts as there
        assert torch.equal(net(changed), net(changed, full(2, 2)))


@pytest.mark.parametrize("present", [full(), None, random_blocks()], ids=["modalities", "found", "blocks"])
@pytest.mark.parametrize("patch", [(8, 16, 16), (32, 32, 32)])
def test_a_patch_of_another_size_is_a_mistake(patch, present):
    net = build()
    with pytest.raises(AssertionError, match=r"Expected images of the plan's patch \(16, 16, 16\), got \("):
        net(random_images(patch=patch), present)


# --- in training ------------------------------------------------------------------------------------------------------


@on_architectures
@on_deep_supervision
def test_training_gives_logits_and_bottleneck(dims, residual, deep_supervision):
    net = build(dims=dims, residual=residual, deep_supervision=deep_supervision, classes=4)
    images, present = random_images(patch=[16] * dims), torch.tensor([[True, False, True], [True, True, True]])
    out = net(images, present)
    assert isinstance(out, M3AEOutput)
    assert isinstance(out.logits, list) == deep_supervision
    scales = [16, 8] if deep_supervision else [16]
    assert [tuple(level.shape) for level in as_list(out.logits)] == [(2, 4, *[scale] * dims) for scale in scales]
    assert out.bottleneck.shape == (2, TINY[-1], *[4] * dims)
    with torch.no_grad():
        assert torch.equal(out.bottleneck, net.encoder(net.compose(images, present))[-1])
        assert_same(net.eval()(images, present), out.logits)


def test_x_sub_does_not_learn_in_fine_tuning():
    net = build(deep_supervision=True)
    out = net(random_images(), torch.tensor([[True, False, True], [False, False, True]]))
    sum(level.square().mean() for level in [*out.logits, out.bottleneck]).backward()
    assert not net.substitute.requires_grad
    assert net.substitute.grad is None
    assert [name for name, p in net.named_parameters() if p.grad is None] == ["substitute"]


def test_x_sub_is_blank_until_it_is_loaded():
    plans = PlansManager(small_plans(2, features=TINY))
    net = M3AENet.from_plans(plans, plans.get_configuration(CONFIGURATION), 2, K)
    assert (net.substitute == 0).all()


# --- pretraining ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dims", "num_modalities"), [(2, 4), (3, 2)])
@pytest.mark.parametrize("classes", [1, 5])
@on_deep_supervision
def test_pretraining_gives_one_image_per_modality(dims, num_modalities, classes, deep_supervision):
    """Whatever is to be segmented, and at full resolution alone."""
    net = build(M3AEPretrainNet, num_modalities, deep_supervision, 1, classes, dims=dims)
    images, visible = (
        random_images(num_modalities + 1, patch=[16] * dims),
        random_blocks(2, num_modalities, [8] * dims),
    )
    out = net(images, visible)
    assert out.logits.shape == (2, num_modalities, *[16] * dims)
    with torch.no_grad():
        assert net.eval()(images, visible).shape == out.logits.shape


def test_x_sub_starts_standard_normal_and_learns():
    net = build(M3AEPretrainNet, 4)
    substitute = net.substitute.detach()
    error = 1 / math.sqrt(substitute.numel())
    assert abs(substitute.mean().item()) <= 4 * error
    assert abs(substitute.std().item() - 1) <= 4 * error / math.sqrt(2)
    assert net.substitute.requires_grad
    assert not torch.equal(substitute[:, 0], substitute[:, 1])


@on_networks
def test_x_sub_is_as_large_as_the_plans_patch(network_class):
    assert build(network_class, 2, patch=(8, 20, 12)).substitute.shape == (1, 2, 8, 20, 12)


def test_every_weight_of_pretraining_learns_but_the_coarse_heads():
    net = build(M3AEPretrainNet, deep_supervision=True)
    net(random_images(), random_blocks()).logits.square().mean().backward()
    *coarse, finest = net.decoder.seg_layers
    frozen = {id(p) for head in coarse for p in head.parameters()}
    assert len(frozen) == 2 * (len(TINY) - 2)
    for p in net.parameters():
        assert p.requires_grad == (p.grad is not None) == (id(p) not in frozen)
    assert finest.weight.grad.abs().max() > 0


def test_x_sub_learns_from_hidden_voxels_alone():
    net, visible = build(M3AEPretrainNet), random_blocks(fraction=0.5)
    target = random_images()
    (net(random_images(seed=1), visible).logits - target).square().mean().backward()
    hidden = (~to_voxels(visible, (16, 16, 16))).any(0, keepdim=True)
    assert 0 < hidden.float().mean() < 1
    assert (net.substitute.grad[~hidden] == 0).all()
    assert (net.substitute.grad[hidden] != 0).all()


@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_gradients_are_finite_whatever_is_hidden(garbage):
    net, visible = build(M3AEPretrainNet), random_blocks()
    images = random_images().masked_fill(~to_voxels(visible, (16, 16, 16)), garbage)
    net(images, visible).logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)


# --- from pretraining to fine-tuning ----------------------------------------------------------------------------------


@on_architectures
def test_pretrained_weights_are_loaded_by_nnunets_own_option(dims, residual, tmp_path):
    """All of them and x_sub, but for the heads."""
    pretrained = build(M3AEPretrainNet, dims=dims, residual=residual, seed=1)
    with torch.no_grad():
        for p in pretrained.parameters():
            p.add_(torch.randn_like(p))
    net = build(dims=dims, residual=residual, classes=4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    weights = pretrained.state_dict()
    assert set(before) == set(weights)
    torch.save({"network_weights": weights}, tmp_path / "checkpoint_final.pth")

    load_pretrained_weights(net, str(tmp_path / "checkpoint_final.pth"))

    heads = {name for name in before if HEADS in name}
    assert heads == {f"decoder.seg_layers.{i}.{what}" for i in range(len(TINY) - 1) for what in ("weight", "bias")}
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name] if name in heads else weights[name])
        assert torch.equal(value, before[name]) == (name in heads)
    assert not net.substitute.requires_grad


def test_heads_are_left_alone_even_where_they_would_fit(tmp_path):
    pretrained, net = build(M3AEPretrainNet, 3, seed=1), build(classes=3)
    before = net.decoder.seg_layers[-1].weight.detach().clone()
    torch.save({"network_weights": pretrained.state_dict()}, tmp_path / "checkpoint_final.pth")
    load_pretrained_weights(net, str(tmp_path / "checkpoint_final.pth"))
    assert torch.equal(net.decoder.seg_layers[-1].weight, before)
    assert torch.equal(net.substitute, pretrained.substitute)


# --- what is put around a network -------------------------------------------------------------------------------------


@on_networks
def test_the_network_itself_is_found_in_its_wrappers(network_class):
    net = build(network_class)
    assert unwrapped(net) is net
    compiled = torch.compile(net, backend="eager")
    assert compiled is not net
    assert unwrapped(compiled) is net
    assert unwrapped(compiled).substitute is net.substitute
