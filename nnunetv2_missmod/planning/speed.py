"""How fast a device convolves, and what that says of a training's length."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import cache

import torch
from torch import nn

CHANNELS, SIZE = 32, 32  # of the convolution that is timed: usual within a network
AT_LEAST = 0.2  # seconds that it is timed for
FORWARD_AND_BACKWARD = 3  # times the operations of the forward pass


@cache
def macs_per_second(device: torch.device) -> float:
    """Measure the multiplications with additions of a second of convolutions, forward and backward."""
    half = device.type == "cuda"
    convolution = nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1).to(device)
    volume = torch.randn(1, CHANNELS, SIZE, SIZE, SIZE, device=device, requires_grad=True)
    steps, begun = -1, 0.0
    while steps < 1 or time.perf_counter() - begun < AT_LEAST:
        if steps == 0:  # the first one sets up
            begun = time.perf_counter()
        with torch.autocast(device.type, enabled=half):
            convolution(volume).sum().backward()
        if half:
            torch.cuda.synchronize(device)
        steps += 1
    seconds = time.perf_counter() - begun
    return FORWARD_AND_BACKWARD * steps * CHANNELS**2 * 27 * SIZE**3 / seconds


def least_duration(macs: float, speed: float) -> str:
    """Say how long operations take at the least, in the unit that suits: all else of a training comes on top.

    Args:
        macs: multiplications with additions of a whole training.
        speed: of ``macs_per_second``.
    """
    took = timedelta(seconds=macs / speed)
    for unit, name in ((timedelta(days=1), "days"), (timedelta(hours=1), "hours"), (timedelta(minutes=1), "minutes")):
        if took >= 2 * unit:
            return f"{took / unit:.0f} {name}"
    return "a minute or two"
