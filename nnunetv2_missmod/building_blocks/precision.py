"""Leaving mixed precision where the maths needs float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

MIXED_ON = ("cuda", "meta")  # nnU-Net uses autocast on CUDA alone; meta stands for it when a plan is fitted


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off on the device."""
    return torch.autocast("cuda", enabled=False) if device.type in MIXED_ON else nullcontext()
