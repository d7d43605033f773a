"""Trading time for memory: activations that are computed again in the backward pass."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

# Read as nnU-Net reads nnUNet_compile; "f" where memory is to spare.
RECOMPUTES = os.environ.get("missmod_recompute", "t").lower() in ("true", "1", "t")  # noqa: SIM112


def recompute(part: Callable[..., Any], *inputs: Any) -> Any:
    """Call a part of a network; where gradients are recorded, its activations are computed again, not kept."""
    if not RECOMPUTES or not torch.is_grad_enabled():
        return part(*inputs)
    return checkpoint(part, *inputs, use_reentrant=False)
