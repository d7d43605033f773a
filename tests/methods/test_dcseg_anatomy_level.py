"""The level that L_ana compares: the plan's whose stride is nearest to 8, whatever its depth and its axes."""

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.methods.dcseg.network import DCSegNet, level_of_stride
from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")

M, K = 2, 3
FIVE_LEVELS = (8, 8, 8, 8, 8)


def deep_plans(strides=None, dims=2, anatomy_level=None, patch=None):
    """A plan of five levels, of which the fourth has stride 8 unless told otherwise."""
    plans = small_plans(M, dims, features=FIVE_LEVELS if strides is None else (8,) * len(strides), patch=patch)
    configuration = plans["configurations"][CONFIGURATION]
    if strides is not None:
        configuration["architecture"]["arch_kwargs"]["strides"] = strides
    if anatomy_level is not None:
        configuration["missmod"]["network"] = {"anatomy_level": anatomy_level}
    return plans


def architecture_of(plans):
    return Architecture.from_configuration(PlansManager(plans).get_configuration(CONFIGURATION))


def build(**plan):
    plans = PlansManager(deep_plans(patch=(32, 32), **plan))
    torch.manual_seed(0)
    return DCSegNet.from_plans(plans, plans.get_configuration(CONFIGURATION), M, K, False)


def isotropic(dims, *strides):
    return [[stride] * dims for stride in strides]


STRIDES = {
    "2D, six levels": (2, isotropic(2, 1, 2, 2, 2, 2, 2), 3),
    "3D, six levels": (3, isotropic(3, 1, 2, 2, 2, 2, 2), 3),
    "seven levels": (2, isotropic(2, 1, 2, 2, 2, 2, 2, 2), 3),
    "shallow": (3, isotropic(3, 1, 2, 2), 2),
    "one stride per level": (2, [1, 2, 2, 2, 2], 3),
    "anisotropic, 5.0 or 10.1": (3, [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]], 4),
    "anisotropic, 6.3 or 12.7": (3, [[1, 1, 1], [1, 4, 4], [1, 4, 4], [2, 2, 2], [2, 2, 2]], 2),
    "a tie, 6.3 or 10.1": (3, [[1, 1, 1], [1, 4, 4], [1, 4, 4], [1, 2, 2], [2, 2, 2]], 3),
    "a tie, 4 or 16": (2, isotropic(2, 1, 4, 4), 2),
    "a level without a stride": (2, isotropic(2, 1, 2, 2, 2, 1, 2), 4),
    "one axis alone": (2, [[1, 1], [1, 2], [1, 2], [1, 2], [1, 2], [1, 2], [1, 2]], 6),
}


@pytest.mark.parametrize(("dims", "strides", "level"), STRIDES.values(), ids=STRIDES.keys())
def test_the_level_is_the_one_whose_stride_is_nearest_to_8(dims, strides, level):
    assert level_of_stride(architecture_of(deep_plans(strides, dims)), 8) == level


@pytest.mark.parametrize(("anatomy_level", "level"), [(None, 3), ("stride_8", 3), ("bottleneck", 4)])
def test_the_maps_are_those_of_the_level(anatomy_level, level):
    network = build(anatomy_level=anatomy_level)
    images = torch.randn(2, M, 32, 32, generator=torch.Generator().manual_seed(0))
    out = network.train()(images)
    assert out.anatomy.shape[3:] == (32 // 2**level,) * 2
    torch.testing.assert_close(out.anatomy, network.encode(images)[level])


def test_nothing_else_depends_on_the_level():
    """Neither the weights' names, nor z, from which images are rebuilt, nor what a segmentation is made of."""
    networks = [build(anatomy_level=level) for level in ("stride_8", "bottleneck")]
    assert list(networks[0].state_dict()) == list(networks[1].state_dict())
    images = torch.randn(2, M, 32, 32, generator=torch.Generator().manual_seed(0))
    first, second = (network.train()(images) for network in networks)
    for name in set(first._fields) - {"anatomy", "separate_logits", "region_logits"}:
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    for name in ("separate_logits", "region_logits"):
        assert all(map(torch.equal, getattr(first, name), getattr(second, name)))


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="anatomy_level to be one of stride_8, bottleneck, got 'deepest'"):
        build(anatomy_level="deepest")


@pytest.mark.parametrize("dims", [2, 3])
def test_l_ana_learns_from_the_level_down_to_it_alone(dims, tmp_path, monkeypatch):
    plans = deep_plans(patch=[32] * dims, dims=dims)
    trainer = small_trainer(DCSegTrainer, plans, small_dataset_json(M), tmp_path, monkeypatch)
    gathered = []
    monkeypatch.setattr(trainer, "gather", lambda local: gathered.append(local.shape) or local)
    trainer.training_loss(trainer.prepare_batch(random_batch(trainer)))["anatomy"].backward()
    assert gathered[0] == (2, M, 8, *[4] * dims)  # what all ranks see under DDP
    for encoder in trainer.network.anatomy_encoders:
        learned = [any(p.grad is not None and (p.grad != 0).any() for p in s.parameters()) for s in encoder.stages]
        assert learned == [True, True, True, True, False]
