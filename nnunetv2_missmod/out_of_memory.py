"""Telling memory that ended, on the GPU or the CPU, from every other error."""

from __future__ import annotations

import errno

import torch

# What PyTorch says in plain RuntimeErrors: CUDA's and MPS's own, cuBLAS's and cuDNN's, the CPU's allocator.
MESSAGES = ("out of memory", "_STATUS_ALLOC_FAILED", "can't allocate memory", "unable to allocate shared memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ended: of the GPU, of the CPU, or of the system; errors raised ``from`` such a one count too."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)
