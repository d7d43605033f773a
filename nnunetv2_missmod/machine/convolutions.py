"""Convolutions of one sample on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OneSampleConvolutions(TorchFunctionMode):
    """Within it convolutions in 3D on the CPU, in float32 and without gradients, are oneDNN's.

    PyTorch computes a batch of one with few channels and slices, or a kernel of 1 in one thread, by unfolding and a
    matrix product, all others by oneDNN, which is quicker there too (benchmarks/README.md). A sample has the same bits
    in every batch then.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute a call of a torch function."""
        if func is torch.conv3d and not kwargs and is_onednns(*args):
            images, weight, bias, stride, padding, dilation, groups = args
            return torch.mkldnn_convolution(images, weight, bias, padding, stride, dilation, groups)
        return func(*args, **(kwargs or {}))


def is_onednns(images: Tensor, weight: Tensor, *others: Any) -> bool:
    """Whether oneDNN is to compute a convolution, whose arguments are those of ``torch.nn.Conv3d``'s own call."""
    _, _, padding, _, _ = others if len(others) == 5 else (None,) * 5
    return bool(
        isinstance(padding, tuple)
        and images.ndim == weight.ndim
        and all(tensor.device.type == "cpu" and tensor.dtype is torch.float32 for tensor in (images, weight))
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.enabled
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )
