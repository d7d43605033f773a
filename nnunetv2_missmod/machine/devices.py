"""Whether a device is there."""

from __future__ import annotations

import torch


def require_device(device: str) -> None:
    """Check that a device is there.

    Args:
        device: cuda, cpu or mps.

    Raises:
        ValueError: it is not.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        raise ValueError(f"Expected a {device.upper()} device, found none. Take -device cpu.")
