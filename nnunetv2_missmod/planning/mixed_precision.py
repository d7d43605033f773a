"""CUDA's mixed precision on the device meta, for which PyTorch has none.

Why not a simpler bound: in float32 the rehearsal of the six trainers (patch 128 x 128 x 128, four modalities, nnU-Net's
widths) needs 1.6 to 1.9 times as much, so that a plan would get about half of the patch that fits. The share that
mixed precision saves differs by trainer, and no single factor bounds it. PyTorch's own autocast cannot be asked where
there is no GPU: its tensors without values on cuda have no backward pass there. A function that the lists below lack is
computed in the type of its input, as by autocast what its own lists lack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

# Of PyTorch's lists (Automatic Mixed Precision, "CUDA Op-Specific Behavior") what networks and losses here call.
CONVOLUTIONS = {f"conv{transpose}{dims}d" for transpose in ("", "_transpose") for dims in (2, 3)}
IN_HALF = CONVOLUTIONS | {"linear", "matmul", "bmm", "mm", "addmm", "baddbmm", "einsum", "scaled_dot_product_attention"}
IN_FLOAT = {
    *("softmax", "log_softmax", "softplus", "layer_norm", "group_norm", "normalize", "cosine_similarity", "norm"),
    *("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "kl_div", "binary_cross_entropy_with_logits"),
    *("exp", "log", "pow", "rsqrt", "reciprocal", "sum", "prod", "cumsum"),
}


class MixedPrecision:
    """Casts the inputs of functions to the types in which CUDA's autocast would compute them.

    PyTorch's own flag says where ``full_precision`` has it off. Weights are cast anew in every call, where autocast
    keeps them: a little is counted twice.
    """

    def __init__(self) -> None:
        self.is_on = False

    @contextmanager
    def on(self) -> Iterator[None]:
        """Cast in this context; within it again, nothing changes."""
        if self.is_on:
            yield
            return
        before = torch.is_autocast_enabled("cuda")
        torch.set_autocast_enabled("cuda", True)
        self.is_on = True
        try:
            with _CastInputs():
                yield
        finally:
            self.is_on = False
            torch.set_autocast_enabled("cuda", before)

    def use_in(self, trainer: Any, modules: nn.Module) -> None:
        """Let a trainer's steps compute so, and its modules where they are computed again in the backward pass."""
        trainer.autocast = self.on
        for module in modules.modules():
            module.forward = self.on()(module.forward)


class _CastInputs(TorchFunctionMode):
    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if torch.is_autocast_enabled("cuda") and name in IN_HALF | IN_FLOAT:
            dtype = torch.float16 if name in IN_HALF else torch.float32
            args, kwargs = tree_map(lambda value: _cast(value, dtype), (args, kwargs))
        return func(*args, **kwargs)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    is_half_or_float = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.float32)
    return value.to(dtype) if is_half_or_float and value.device.type == "meta" else value
