import math
import sys
from dataclasses import replace
from types import ModuleType

import dynamic_network_architectures
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_plans
from torch import nn

from nnunetv2_missmod.building_blocks.architecture import Architecture

KINDS = pytest.mark.parametrize(("dims", "residual"), [(2, False), (2, True), (3, False), (3, True)])


def small_architecture(dims=3, residual=False, features=(8, 16, 16), **arch_kwargs):
    plans = small_plans(dims=dims, residual=residual, features=features)
    configuration = PlansManager(plans).get_configuration(CONFIGURATION)
    configuration.configuration["architecture"]["arch_kwargs"].update(arch_kwargs)
    return Architecture.from_configuration(configuration)


def shapes(module):
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@KINDS
def test_an_architecture_is_what_the_plan_says(dims, residual):
    architecture = small_architecture(dims, residual)
    assert architecture.features == [8, 16, 16]
    assert architecture.strides == [[1] * dims, [2] * dims, [2] * dims]
    assert architecture.kernel_sizes == [[3] * dims] * 3
    assert architecture.dimensions == dims
    assert architecture.resolved["conv_op"] is (nn.Conv2d, nn.Conv3d)[dims - 2]
    assert architecture.resolved["nonlin"] is nn.LeakyReLU
    assert architecture.resolved["dropout_op"] is None
    assert architecture.arch_kwargs["conv_op"] == f"torch.nn.modules.conv.Conv{dims}d"  # the plan stays as it was


def test_one_number_may_stand_for_every_level():
    architecture = small_architecture(features_per_stage=16, strides=2, kernel_sizes=3)
    assert architecture.features == [16, 16, 16]
    assert architecture.strides == [2, 2, 2]
    assert architecture.kernel_sizes == [3, 3, 3]
    narrow = architecture.for_each_of(4)
    assert narrow.features == [8, 8, 8]
    maps = narrow.encoder(2)(torch.randn(1, 2, 16, 16, 16))
    assert [tuple(level.shape[1:]) for level in maps] == [(8, 8, 8, 8), (8, 4, 4, 4), (8, 2, 2, 2)]
    counts = {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 1}
    cut = small_architecture(features_per_stage=16, strides=2, kernel_sizes=3, **counts).down_to(1)
    assert (cut.features, cut.strides, cut.kernel_sizes) == ([16] * 2, [2] * 2, [3] * 2)
    assert {**cut.arch_kwargs, **counts} == cut.arch_kwargs


def test_the_lists_of_an_architecture_are_copies():
    architecture = small_architecture()
    architecture.features.append(0)
    architecture.strides.append(0)
    architecture.kernel_sizes.append(0)
    assert (len(architecture.features), len(architecture.strides), len(architecture.kernel_sizes)) == (3, 3, 3)


# --- for_each_of ------------------------------------------------------------------------------------------------------


def test_for_each_of_four_halves_the_features():
    architecture = small_architecture(features=(32, 64, 128, 256, 320))
    assert architecture.for_each_of(4).features == [16, 32, 64, 128, 160]
    assert architecture.features == [32, 64, 128, 256, 320]


@pytest.mark.parametrize("num_modalities", range(1, 13))
def test_for_each_of_rounds_up_to_multiples_of_eight(num_modalities):
    wide = small_architecture(features=(32, 64, 128, 256, 320))
    narrow = wide.for_each_of(num_modalities)
    for features, planned in zip(narrow.features, wide.features, strict=True):
        assert features % 8 == 0
        assert 0 <= features - planned / math.sqrt(num_modalities) < 8
    assert {**narrow.arch_kwargs, "features_per_stage": 0} == {**wide.arch_kwargs, "features_per_stage": 0}


def test_for_each_of_one_is_the_plan():
    assert small_architecture().for_each_of(1) == small_architecture()


def test_for_each_of_never_goes_below_eight():
    assert small_architecture(features=(8, 8, 16)).for_each_of(100).features == [8, 8, 8]


def test_narrow_encoders_cost_about_what_one_of_the_plan_costs():
    wide = small_architecture(features=(64, 128, 256))
    together = 4 * count(wide.for_each_of(4).encoder(1))
    assert together == pytest.approx(count(wide.encoder(1)), rel=0.05)


# --- down_to, stride_to, size_at --------------------------------------------------------------------------------------


@KINDS
def test_down_to_keeps_the_finest_levels_and_leaves_the_original(dims, residual):
    name = "n_blocks_per_stage" if residual else "n_conv_per_stage"
    per_stage = {name: [1, 2, 3, 4], "n_conv_per_stage_decoder": [3, 2, 1]}
    whole = small_architecture(dims, residual, (8, 16, 24, 32), **per_stage)
    cut = whole.down_to(2)
    assert (cut.features, cut.strides, cut.kernel_sizes) == ([8, 16, 24], whole.strides[:3], whole.kernel_sizes[:3])
    assert (cut.arch_kwargs[name], cut.arch_kwargs["n_conv_per_stage_decoder"]) == ([1, 2, 3], [2, 1])
    assert shapes(cut.encoder(2)).items() < shapes(whole.encoder(2)).items()
    assert [len(stage.convs) for stage in cut.decoder(3, False).stages] == [2, 1]
    assert whole.down_to(3) == whole == small_architecture(dims, residual, (8, 16, 24, 32), **per_stage)


@pytest.mark.parametrize("patch", [(16, 24), (17, 7), (5, 40), (9, 11, 6)])
def test_size_at_is_the_size_of_the_encoders_maps(patch):
    dims = len(patch)
    architecture = small_architecture(dims, strides=[1, [*[2] * (dims - 1), 1], 2])
    assert [architecture.stride_to(level) for level in range(3)] == [(1,) * dims, (*(2,) * (dims - 1), 1), (2,) * dims]
    maps = architecture.encoder(1)(torch.randn(1, 1, *patch))
    architecture = replace(architecture, patch_size=patch)
    assert [architecture.size_at(level) for level in range(3)] == [tuple(level.shape[2:]) for level in maps]


# --- encoder, decoder, whole network ----------------------------------------------------------------------------------


@KINDS
def test_encoder_and_decoder_make_the_plans_unet(dims, residual):
    architecture = small_architecture(dims, residual)
    encoder, decoder = architecture.encoder(2), architecture.decoder(3, deep_supervision=True)
    images = torch.randn(2, 2, *[16] * dims)
    maps = encoder(images)
    assert [tuple(level.shape) for level in maps] == [
        (2, 8, *[16] * dims),
        (2, 16, *[8] * dims),
        (2, 16, *[4] * dims),
    ]
    logits = decoder(maps)
    assert [tuple(level.shape) for level in logits] == [(2, 3, *[16] * dims), (2, 3, *[8] * dims)]
    decoder.deep_supervision = False
    assert torch.equal(decoder(maps), logits[0])


@KINDS
def test_the_decoder_has_no_weights_of_an_encoder(dims, residual):
    architecture = small_architecture(dims, residual)
    unet = architecture.unet(2, 3, False)
    encoder, decoder = architecture.encoder(2), architecture.decoder(3, False)
    assert not any(name.startswith("encoder") for name in decoder.state_dict())
    assert any(name.startswith("encoder") for name in unet.decoder.state_dict())  # nnU-Net's own keeps one
    assert {id(p) for p in encoder.parameters()}.isdisjoint(id(p) for p in decoder.parameters())
    assert not any(module is decoder.encoder for module in decoder.modules())
    assert count(encoder) + count(decoder) == count(unet)
    assert shapes(encoder) == shapes(unet.encoder)


@KINDS
def test_the_unet_is_what_nnunet_builds(dims, residual):
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    plans = small_plans(dims=dims, residual=residual)
    configuration = PlansManager(plans).get_configuration(CONFIGURATION)
    arguments = (
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
    )
    torch.manual_seed(0)
    stock = get_network_from_plans(*arguments, 4, 3, allow_init=True, deep_supervision=True)
    torch.manual_seed(0)
    unet = Architecture.from_configuration(configuration).unet(4, 3, True)
    assert type(unet) is type(stock)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), stock.parameters(), strict=True))
    assert unet.decoder.deep_supervision


def test_two_encoders_of_one_architecture_share_nothing():
    architecture = small_architecture()
    one, other = architecture.encoder(1), architecture.encoder(1)
    assert {id(p) for p in one.parameters()}.isdisjoint(id(p) for p in other.parameters())


def test_a_decoder_can_be_saved_and_loaded_strictly():
    architecture = small_architecture()
    architecture.decoder(3, True).load_state_dict(architecture.decoder(3, False).state_dict())


# --- plans of other networks ------------------------------------------------------------------------------------------


def test_a_network_that_is_no_unet_is_refused():
    with pytest.raises(NotImplementedError, match=r"torch\.nn\.Identity") as error:
        replace(small_architecture(), network_class_name="torch.nn.Identity").unet(2, 3, False)
    assert "ResEnc" in str(error.value)


class EncoderOnly(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.encoder = nn.Identity()


class OtherDecoder(EncoderOnly):
    def __init__(self, **settings):
        super().__init__()
        self.decoder = nn.Identity()


@pytest.mark.parametrize("network", [EncoderOnly, OtherDecoder])
@pytest.mark.parametrize("part", ["unet", "encoder", "decoder"])
def test_a_network_with_another_decoder_is_refused(monkeypatch, network, part):
    elsewhere = ModuleType("dynamic_network_architectures.more")
    setattr(elsewhere, network.__name__, network)
    monkeypatch.setattr(network, "__module__", elsewhere.__name__)
    monkeypatch.setitem(sys.modules, elsewhere.__name__, elsewhere)
    monkeypatch.setattr(dynamic_network_architectures, "more", elsewhere, raising=False)
    architecture = replace(small_architecture(), network_class_name=f"{elsewhere.__name__}.{network.__name__}")
    build = {
        "unet": lambda: architecture.unet(2, 3, False),
        "encoder": lambda: architecture.encoder(2),
        "decoder": lambda: architecture.decoder(3, False),
    }
    with pytest.raises(NotImplementedError, match=network.__name__):
        build[part]()


def primus():
    arch_kwargs = {
        "embed_dim": 48,
        "patch_embed_size": [8, 8, 8],
        "eva_depth": 1,
        "eva_numheads": 4,
        "input_shape": [16, 16, 16],
    }
    return Architecture("dynamic_network_architectures.architectures.primus.Primus", arch_kwargs, (), (16, 16, 16))


def test_a_transformer_of_the_same_library_is_refused():
    with pytest.raises(NotImplementedError, match="Primus"):
        primus().unet(2, 3, False)


def test_a_transformer_cannot_be_narrowed():
    with pytest.raises(NotImplementedError, match="Primus"):
        primus().for_each_of(4)


# --- convolutions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (1, 1), (3, 2), ("anisotropic", 1)])
def test_conv(dims, norm, kernel_size, stride):
    kernel_size = [1, *[3] * (dims - 1)] if kernel_size == "anisotropic" else kernel_size
    conv = small_architecture(dims).conv(5, 7, kernel_size, stride, norm=norm)
    out = conv(torch.randn(2, 5, *[8] * dims))
    assert out.shape == (2, 7, *[8 // stride] * dims)
    norms = [module for module in conv.modules() if "InstanceNorm" in type(module).__name__]
    assert bool(norms) == norm
    nonlinearities = [module for module in conv.modules() if isinstance(module, nn.LeakyReLU)]
    assert len({id(module) for module in nonlinearities}) == 1
    assert any(name.endswith("bias") and "conv" in name for name in shapes(conv))


@pytest.mark.parametrize("norm", [True, False])
def test_a_plan_without_bias_keeps_it_only_where_no_norm_follows(norm):
    conv = small_architecture(conv_bias=False).conv(5, 7, norm=norm)
    convolution = next(module for module in conv.modules() if isinstance(module, nn.Conv3d))
    assert (convolution.bias is None) == norm


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, "anisotropic"])
def test_projection_keeps_the_size_and_is_linear(dims, kernel_size):
    kernel_size = [1, *[3] * (dims - 1)] if kernel_size == "anisotropic" else kernel_size
    projection = small_architecture(dims).projection(5, 7, kernel_size)
    one, other = torch.randn(2, 1, 5, *[8] * dims)
    assert projection(one).shape == (1, 7, *[8] * dims)
    assert projection.bias.eq(0).all()
    torch.testing.assert_close(projection(one + 2 * other), projection(one) + 2 * projection(other))


def test_groups_of_a_projection_know_nothing_of_each_other():
    projection, one = small_architecture(2).projection(6, 12, 3, groups=3), torch.randn(1, 6, 8, 8)
    other = one.clone()
    other[:, 2:4] += 1
    changed = (projection(one) != projection(other)).flatten(2).any(2)[0]
    assert changed.tolist() == [False] * 4 + [True] * 4 + [False] * 4


@pytest.mark.parametrize("build", ["conv", "projection"])
def test_convolutions_are_initialised_as_nnunet_does(build):
    part = getattr(small_architecture(), build)(64, 64, 3)
    convolution = next(module for module in part.modules() if isinstance(module, nn.Conv3d))
    he = math.sqrt(2 / (1 + 1e-4) / (64 * 27))
    assert convolution.weight.std().item() == pytest.approx(he, rel=0.02)
    assert convolution.bias.eq(0).all()


@pytest.mark.parametrize("stride", [(2, 2), (1, 4), (2, 2, 2), (4, 1, 2)])
@pytest.mark.parametrize("size", [1, 5, 8, 11])
def test_deconv_enlarges_by_its_stride_and_max_pool_shrinks_as_a_convolution(stride, size):
    architecture, maps = small_architecture(len(stride)), torch.randn(2, 5, *[size] * len(stride))
    assert architecture.deconv(5, 7, stride)(maps).shape == (2, 7, *[size * s for s in stride])
    assert architecture.max_pool(stride)(maps).shape == architecture.conv(5, 5, 3, stride, norm=False)(maps).shape
