"""Trading time for memory: activations that are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recompute(part: Callable[..., Any], *inputs: Any) -> Any:
    """Call a part of a network; where gradients are recorded, its activations are computed again, not kept."""
    return checkpoint(part, *inputs, use_reentrant=False) if torch.is_grad_enabled() else part(*inputs)
