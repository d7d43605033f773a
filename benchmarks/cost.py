"""What a piece of work costs: time on the clock and of the CPU, peak memory, multiplications."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Cost(NamedTuple):
    """Cost of one call, the mean over several.

    Args:
        seconds: on the clock.
        cpu: CPU seconds of this process.
        memory: bytes at the peak; on the CPU beyond the process as it was before, on CUDA what PyTorch has reserved.
    """

    seconds: float
    cpu: float
    memory: int


def cost_of(call: Callable[[], object], repeats: int, device: torch.device, memory_before: int) -> Cost:
    """Measure a call, after one to warm up."""
    call()
    forget_peak(device)
    synchronize(device)
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return Cost(clock / repeats, cpu / repeats, peak(device) - memory_before)


def memory_now(device: torch.device) -> int:
    """Bytes that this process holds; on CUDA nothing but PyTorch's allocator counts."""
    return 0 if device.type == "cuda" else resident("VmRSS")


def forget_peak(device: torch.device) -> None:
    """Let the peak begin anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Bytes at the peak."""
    return torch.cuda.max_memory_reserved() if device.type == "cuda" else resident("VmHWM")


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def resident(field: str) -> int:
    """Bytes of VmRSS or VmHWM of this process (Linux)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def in_own_process(command: list[str]) -> dict[str, Any]:
    """Measure in a new process, whose last line is JSON."""
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured
