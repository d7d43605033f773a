"""Convolutions of kernel 1 as matrix products: what PyTorch's convolutions give, from the same weights."""

import pytest
import torch
from torch import nn

from nnunetv2_missmod.building_blocks.pointwise import Pointwise2d, Pointwise3d, as_product

CLASSES = {2: (nn.Conv2d, Pointwise2d), 3: (nn.Conv3d, Pointwise3d)}


def gradients(conv, images):
    images = images.clone().requires_grad_()
    conv.zero_grad()
    out = conv(images)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out, images.grad, *(p.grad.clone() for p in conv.parameters())]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_product_is_the_convolution_and_has_its_gradients(dims, bias, batch):
    conv_op, pointwise = CLASSES[dims]
    conv, images = conv_op(5, 4, 1, bias=bias).double(), torch.randn(batch, 5, *[6, 5, 4][:dims]).double()
    before, names = gradients(conv, images), list(conv.state_dict())
    assert type(as_product(conv)) is pointwise
    assert list(conv.state_dict()) == names
    for found, expected in zip(gradients(conv, images), before, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_maps_that_are_a_view_are_convolved_too():
    conv = nn.Conv3d(4, 2, 1)
    images = torch.randn(2, 4, 4, 6, 6).transpose(2, 4)[..., ::2]
    expected = conv(images)
    torch.testing.assert_close(as_product(conv)(images), expected)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv3d(4, 4, 3, padding=1),
        nn.Conv3d(4, 4, (1, 1, 3)),
        nn.Conv3d(4, 4, 1, stride=2),
        nn.Conv3d(4, 4, 1, padding=1),
        nn.Conv3d(4, 4, 1, groups=2),
        nn.Conv1d(4, 4, 1),
    ],
)
def test_other_convolutions_are_left_as_they_are(conv):
    before = type(conv)
    assert as_product(conv) is conv
    assert type(conv) is before


def test_no_number_is_drawn_for_it():
    torch.manual_seed(0)
    conv, state = nn.Conv3d(4, 4, 1), torch.get_rng_state()
    as_product(conv)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_has_a_shape_where_there_are_no_values():
    images = torch.empty(2, 4, 3, 3, 3, device="meta")
    assert as_product(nn.Conv3d(4, 2, 1, device="meta"))(images).shape == (2, 2, 3, 3, 3)


def test_it_is_compiled_whole():
    conv = as_product(nn.Conv2d(4, 2, 1))
    images = torch.randn(2, 4, 5, 5)
    compiled = torch.compile(conv, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), conv(images))
