"""Memory of a CPU's networks that the C library keeps for the next layer.

glibc asks the system for each large block and gives it back at once, and the system clears it anew for every layer: a
quarter to a third of the time of a prediction (benchmarks/README.md).
"""

from __future__ import annotations

import ctypes

# Of mallopt, in malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
PAD = 64 * 2**20  # bytes that are asked for on top, so that the heap grows in few steps


def keep_freed_memory() -> None:
    """Keep freed memory until this process ends; where the C library is not glibc nothing changes.

    For a command's own process: what others share should not grow to its peak and stay there.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, PAD)):
            set_option(option, value)
