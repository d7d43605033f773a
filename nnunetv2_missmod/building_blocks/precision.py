"""Leaving mixed precision where the maths needs float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off on the device; nnU-Net uses it on CUDA alone."""
    return torch.autocast("cuda", enabled=False) if device.type == "cuda" else nullcontext()
