"""Convolutions of one sample: the same within rounding, by oneDNN, whose bits do not depend on the batch."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_missmod.machine.convolutions import OneSampleConvolutions


class Operators(TorchDispatchMode):
    """Writes down which operators run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def operators_of(call):
    with Operators() as seen:
        call()
    return seen.names


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
@torch.no_grad()
def test_a_convolution_is_what_it_was(kernel, stride, groups):
    conv = nn.Conv3d(8, 6, kernel, stride, kernel // 2, groups=groups)
    images = torch.randn(3, 8, 9, 8, 7)
    expected = conv(images)
    with OneSampleConvolutions():
        torch.testing.assert_close(conv(images), expected, rtol=1e-5, atol=1e-5)
        assert "mkldnn_convolution" in operators_of(lambda: conv(images[:1]))


@torch.no_grad()
def test_a_sample_has_the_same_bits_in_every_batch():
    conv, images = nn.Conv3d(8, 6, 3, padding=1), torch.randn(5, 8, 8, 8, 8)
    with OneSampleConvolutions():
        together = conv(images)
        assert all(torch.equal(together[b : b + 1], conv(images[b : b + 1])) for b in range(5))


def test_other_calls_are_pytorchs():
    images, conv = torch.randn(1, 4, 6, 6, 6), nn.Conv3d(4, 4, 3, padding=1)
    with OneSampleConvolutions():
        assert "mkldnn_convolution" not in operators_of(lambda: conv(images))  # gradients
        conv(images).sum().backward()
        with torch.no_grad():
            for other in (
                lambda: conv.double()(images.double()),
                lambda: nn.Conv3d(4, 4, 3, padding="same")(images),
                lambda: nn.Conv3d(4, 4, 3, padding=1)(images[0]),
                lambda: torch.conv3d(images, torch.randn(4, 4, 3, 3, 3), padding=1),
                lambda: nn.Conv2d(4, 4, 3)(images[:, :, 0]),
            ):
                assert "mkldnn_convolution" not in operators_of(other)


@torch.no_grad()
def test_without_onednn_everything_is_pytorchs():
    conv, images = nn.Conv3d(4, 4, 3, padding=1), torch.randn(1, 4, 6, 6, 6)
    with torch.backends.mkldnn.flags(enabled=False), OneSampleConvolutions():
        assert "mkldnn_convolution" not in operators_of(lambda: conv(images))
