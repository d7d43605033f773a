"""Convolutions of kernel 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _OneProduct(nn.Module):
    """On the CPU one matrix product for each sample.

    There a forward and backward pass takes half to nine tenths of the convolution's time (benchmarks/README.md).
    """

    weight: Any
    bias: Any

    def forward(self, input: Tensor) -> Tensor:
        """Convolve maps (B, C, *spatial) to (B, F, *spatial)."""
        if input.device.type != "cpu":
            convolved: Tensor = super().forward(input)
            return convolved
        weight, voxels = self.weight.flatten(1).expand(len(input), -1, -1), input.flatten(2)
        product: Tensor = weight @ voxels if self.bias is None else torch.baddbmm(self.bias[:, None], weight, voxels)
        return product.view(*product.shape[:2], *input.shape[2:])


class Pointwise2d(_OneProduct, nn.Conv2d):
    """``nn.Conv2d`` of kernel 1."""


class Pointwise3d(_OneProduct, nn.Conv3d):
    """``nn.Conv3d`` of kernel 1."""


POINTWISE: dict[type, type] = {nn.Conv2d: Pointwise2d, nn.Conv3d: Pointwise3d}


def as_product(conv: Any) -> Any:
    """Make a convolution a matrix product, itself, if it looks at single voxels, and at all channels of each."""
    ones = all(number == 1 for number in (*conv.kernel_size, *conv.stride, conv.groups))
    if ones and not any(conv.padding) and type(conv) in POINTWISE:
        conv.__class__ = POINTWISE[type(conv)]  # a new one would draw weights, and all drawn after it be others
    return conv
