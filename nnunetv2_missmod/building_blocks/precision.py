"""Leaving mixed precision where the maths needs float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

MIXED_ON = ("cuda", "meta")  # nnU-Net uses autocast on CUDA alone; meta stands for it when a plan is fitted


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off on the device."""
    return torch.autocast("cuda", enabled=False) if device.type in MIXED_ON else nullcontext()


def at_least_float32(values: Tensor) -> Tensor:
    """Give the values in float32, or as they are where they are more precise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
