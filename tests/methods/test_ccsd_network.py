"""CCSD's network against its parts, called one by one for each modality and subset."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_plans

from nnunetv2_missmod.building_blocks.network import finest
from nnunetv2_missmod.methods.ccsd.network import CCSDNet, CCSDOutput
from nnunetv2_missmod.modalities import all_subsets

pytestmark = pytest.mark.slow

K = 3
CONVOLUTION = {2: F.conv2d, 3: F.conv3d}


def build_network(num_modalities=3, deep_supervision=False, extra_channels=0, seed=0, constants=None, **plan):
    plans = PlansManager(small_plans(num_modalities, **plan))
    configuration = plans.get_configuration(CONFIGURATION)
    configuration.configuration["missmod"]["network"] = constants or {}
    torch.manual_seed(seed)
    return CCSDNet.from_plans(plans, configuration, num_modalities + extra_channels, K, deep_supervision)


def random_images(num_modalities=3, samples=2, dims=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, num_modalities, *[16] * dims, generator=generator)


def random_subsets(num_modalities, samples, count, seed=0):
    """Subsets (count, samples, M), none of them empty."""
    subsets = all_subsets(num_modalities)
    chosen = torch.randint(len(subsets), (samples, count), generator=torch.Generator().manual_seed(seed))
    return subsets[chosen.T]


def as_list(logits):
    return logits if isinstance(logits, list) else [logits]


def plain_decode(net, image, subset, substitute="zero_input"):
    """Decode one subset (M,) of one sample (M, *patch): every slot encoded for itself, concatenated, convolved."""
    dims = image.ndim - 1
    zero = net.shared_encoder(torch.zeros_like(image[:1])[None])
    shared = [net.shared_encoder(channel[None, None]) for channel in image]
    features = []
    for level, reduction in enumerate(net.reductions):
        slots = [encoded[level] if present else zero[level] for encoded, present in zip(shared, subset, strict=True)]
        if level == len(net.reductions) - 1:
            seen = [encoded[level] for encoded, present in zip(shared, subset, strict=True) if present]
            absent = zero[level] if substitute == "zero_input" else sum(seen) / len(seen)
            slots = [
                net.composition(torch.cat((shared[m][level], net.specific_encoders[m](image[m][None, None])[-1]), 1))
                if present
                else absent
                for m, present in enumerate(subset)
            ]
        features.append(CONVOLUTION[dims](torch.cat(slots, 1), reduction.weight))
    return as_list(net.decoder(features))


class Calls:
    """How often each part of a network is called."""

    def __init__(self, net):
        self.encoder = self.specific = self.decoder = 0
        net.shared_encoder.register_forward_pre_hook(lambda *_: self.count("encoder"))
        for encoder in net.specific_encoders:
            encoder.register_forward_pre_hook(lambda *_: self.count("specific"))
        net.decoder.register_forward_pre_hook(lambda *_: self.count("decoder"))

    def count(self, part):
        setattr(self, part, getattr(self, part) + 1)


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modalities", "dims", "deep_supervision", "residual"),
    [(1, 2, False, False), (2, 3, True, False), (3, 2, True, True), (4, 3, False, True), (6, 2, True, False)],
)
@pytest.mark.parametrize("composition", ["conv", "residual"])
def test_training_output_has_its_shapes(modalities, dims, deep_supervision, residual, composition):
    constants = {"composition": composition}
    net = build_network(modalities, deep_supervision, dims=dims, residual=residual, constants=constants)
    presents = random_subsets(modalities, 2, 7)
    out = net(random_images(modalities, dims=dims), presents, torch.ones(2, modalities, dtype=torch.bool))
    assert isinstance(out, CCSDOutput)
    assert out.logits is out.passes[0]
    assert len(out.passes) == 7
    sides = [16, 8] if deep_supervision else [16]
    for logits in out.passes:
        assert isinstance(logits, list) == deep_supervision
        assert [x.shape for x in as_list(logits)] == [(2, K, *[side] * dims) for side in sides]
    assert out.teacher_logits.shape == (2, K, *[16] * dims)
    width = 8 * math.ceil(32 / math.sqrt(modalities) / 8)
    assert out.fused.shape == out.shared.shape == (2, modalities, width, *[4] * dims)
    assert out.zero.shape == (1, 1, width, *[4] * dims)


# --- what is in a pass ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("composition", ["conv", "residual"])
def test_fused_features_depend_on_their_own_image_alone(composition):
    net, images = build_network(constants={"composition": composition}), random_images()
    out = net(images, torch.ones(2, 3, dtype=torch.bool))
    for b, m in product(range(2), range(3)):
        image = images[b, m][None, None]
        shared, specific = net.shared_encoder(image)[-1], net.specific_encoders[m](image)[-1]
        torch.testing.assert_close(out.shared[b, m], shared[0], rtol=1e-4, atol=1e-5)
        expected = net.composition(torch.cat((shared, specific), 1))[0]
        torch.testing.assert_close(out.fused[b, m], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.zero[0], net.shared_encoder(torch.zeros(1, 1, 16, 16, 16))[-1])


@pytest.mark.parametrize("substitute", ["zero_input", "mean_available"])
@pytest.mark.parametrize(("modalities", "dims", "residual"), [(3, 3, False), (2, 2, True), (4, 2, False)])
def test_every_subset_is_decoded_from_its_own_slots(substitute, modalities, dims, residual):
    constants = {"substitute": substitute}
    net = build_network(modalities, True, dims=dims, residual=residual, constants=constants)
    images = random_images(modalities, dims=dims)
    for subset in all_subsets(modalities):
        with torch.no_grad():
            levels = net.eval()(images, subset.expand(2, -1))
            for b in range(2):
                expected = plain_decode(net, images[b], subset.tolist(), substitute)
                for level, plain in zip(levels, expected, strict=True):
                    torch.testing.assert_close(level[b], plain[0], rtol=1e-3, atol=1e-4)


def test_the_substitutes_differ():
    images, subset = random_images(), torch.tensor([[True, False, True]]).expand(2, -1)
    nets = [build_network(constants={"substitute": word}).eval() for word in ("zero_input", "mean_available")]
    with torch.no_grad():
        assert (nets[0](images, subset) - nets[1](images, subset)).abs().max() > 1e-3


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_many_subsets_in_one_call_are_each_as_if_alone(count, deep_supervision):
    net, images, presents = build_network(4, deep_supervision), random_images(4), random_subsets(4, 2, count)
    passes = net(images, presents).passes
    assert len(passes) == count
    for number, logits in enumerate(passes):
        alone = net(images, presents[number]).logits
        for a, b in zip(as_list(logits), as_list(alone), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("garbage", [1e6, math.nan])
def test_in_training_too_absent_means_absent(garbage):
    net, images, presents = build_network(4), random_images(4), random_subsets(4, 2, 7, seed=3)
    passes = net(images, presents).passes
    for m in range(4):
        changed = images.clone()
        changed[:, m] = garbage * torch.randn(2, 16, 16, 16)
        for number, logits in enumerate(net(changed, presents).passes):
            for b in range(2):
                assert torch.equal(logits[b], passes[number][b]) == (not presents[number, b, m])


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_the_teacher_has_the_finest_logits_and_no_gradient(deep_supervision):
    net, images = build_network(3, deep_supervision), random_images()
    teacher = torch.tensor([[True, True, True], [True, False, True]])
    out = net(images, torch.tensor([True, False, False]).expand(1, 2, 3), teacher)
    assert not out.teacher_logits.requires_grad
    torch.testing.assert_close(out.teacher_logits, finest(net(images, teacher).logits))
    assert net(images, teacher).teacher_logits is None


# --- nothing twice ----------------------------------------------------------------------------------------------------


def test_a_step_encodes_once_and_decodes_each_subset_once():
    net, images, presents = build_network(4), random_images(4), random_subsets(4, 2, 7)
    calls = Calls(net)
    net(images, presents, torch.ones(2, 4, dtype=torch.bool))
    assert (calls.encoder, calls.specific, calls.decoder) == (1, 4, 8)


def test_forward_subsets_encodes_once_and_is_forward_of_every_subset():
    net, images, presents = build_network(4).eval(), random_images(4), all_subsets(4)
    calls = Calls(net)
    with torch.no_grad():
        logits = net.forward_subsets(images, presents)
        assert (calls.encoder, calls.specific, calls.decoder) == (1, 4, 15)
        assert logits.shape == (15, 2, K, 16, 16, 16)
        for subset, present in zip(logits, presents, strict=True):
            assert torch.equal(subset, net(images, present.expand(2, -1)))
    assert (logits[0] - logits[-1]).abs().max() > 1e-3


def test_recomputation_leaves_the_gradients_as_they_are():
    images, presents = random_images(3, dims=2).double(), random_subsets(3, 2, 6)
    gradients, decoded = [], []
    for kept in (1, 4, 6):
        net = build_network(3, dims=2, constants={"kept_passes": kept}).double()
        calls = Calls(net)
        sum(
            (number + 1) * logits.square().mean() for number, logits in enumerate(net(images, presents).passes)
        ).backward()
        gradients.append([p.grad for p in net.parameters()])
        decoded.append(calls.decoder)
    assert decoded == [11, 8, 6]  # the passes that are not kept are decoded again
    for expected, *others in zip(*reversed(gradients), strict=True):
        for other in others:
            torch.testing.assert_close(other, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(
    ("dims", "constants"), [(3, {}), (2, {"substitute": "mean_available", "composition": "residual"})]
)
def test_many_subsets_compile_without_graph_break(dims, constants):
    """So many that two of them are decoded again."""
    constants = {"kept_passes": 1, **constants}
    net, images = build_network(2, True, dims=dims, constants=constants), random_images(2, dims=dims)
    presents, teacher = random_subsets(2, 2, 3), torch.ones(2, 2, dtype=torch.bool)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)(images, presents, teacher)
    plain = net(images, presents, teacher)
    torch.testing.assert_close(compiled, plain)
    sum(finest(logits).sum() for logits in compiled.passes).backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if "seg_layers.0" not in name)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_cascade_is_refused():
    with pytest.raises(NotImplementedError, match=r"cascade: CCSD has.*ModalityDropoutTrainer"):
        build_network(extra_channels=2)


@pytest.mark.parametrize(
    ("name", "listed"), [("substitute", "zero_input, mean_available"), ("composition", "conv, residual")]
)
def test_an_unknown_word_is_refused(name, listed):
    with pytest.raises(ValueError, match=f"Expected {name} to be one of {listed}, got 'other'"):
        build_network(constants={name: "other"})
