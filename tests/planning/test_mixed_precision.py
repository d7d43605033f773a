"""Which types functions compute in, against those of PyTorch's autocast."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunetv2_missmod.building_blocks.precision import full_precision
from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.planning.mixed_precision import MixedPrecision

META = torch.device("meta")
IMAGES = torch.empty(2, 4, 8, 8, 8, device=META)


def conv():
    return nn.Conv3d(4, 4, 3, padding=1, device=META)


@pytest.mark.parametrize(
    "compute",
    [
        conv(),
        nn.ConvTranspose3d(4, 4, 2, 2, device=META),
        nn.Linear(8, 8, device=META),
        lambda x: x @ x,
        lambda x: nn.InstanceNorm3d(4, affine=True, device=META)(conv()(x)),
        lambda x: F.interpolate(conv()(x), scale_factor=2),
    ],
)
def test_what_autocast_computes_in_half(compute):
    with MixedPrecision().on():
        assert compute(IMAGES).dtype == torch.float16


@pytest.mark.parametrize(
    "compute", [lambda x: x.softmax(1), lambda x: x.sum(), lambda x: x.exp(), lambda x: F.mse_loss(x, x)]
)
def test_what_autocast_computes_in_float(compute):
    with MixedPrecision().on():
        assert compute(conv()(IMAGES)).dtype == torch.float32


def test_it_ends_where_it_began():
    before = torch.is_autocast_enabled("cuda")
    with pytest.raises(KeyError), MixedPrecision().on():
        raise KeyError
    assert torch.is_autocast_enabled("cuda") == before
    assert conv()(IMAGES).dtype == torch.float32


def test_full_precision_leaves_it():
    with MixedPrecision().on():
        with full_precision(META):
            assert conv()(IMAGES).dtype == torch.float32
        assert conv()(IMAGES).dtype == torch.float16


class Recomputing(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(conv(), conv())

    def forward(self, images):
        return recompute(self.part, images)


class Trainer:
    pass


def test_what_is_computed_again_in_the_backward_pass_is_computed_alike():
    network, trainer = Recomputing(), Trainer()
    MixedPrecision().use_in(trainer, nn.ModuleList([network]))
    with trainer.autocast():
        out = network(IMAGES)
    out.sum().backward()  # PyTorch's checkpoint refuses other types
    assert out.dtype == torch.float16
    assert network.part[0].weight.grad.dtype == torch.float32
