"""Telling memory that ended, on the GPU or the CPU, from every other error, and what a training can do about it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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


@contextmanager
def training_levers(trainer: str, planned: str, step: str, device: torch.device, own: Sequence[str]) -> Iterator[None]:
    """Say of a training whose memory ended what makes its steps smaller.

    Args:
        trainer: its name.
        planned: the flags that name its plan, such as ``-d 501 -c 3d_fullres``.
        step: what a step works on: batch, patch, modalities.
        device: where its memory ended.
        own: the method's own settings that decide it.

    Raises:
        RuntimeError: from the error that is out of memory; others pass as they are.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        settings = f", lower {' or '.join(own)} in the plan's missmod block" if own else ""
        raise RuntimeError(
            f"Memory ended ({device}) while {trainer} trained on {step}. Fit the plan to the memory that there is with "
            f"`missmod plan {planned} -tr {trainer} -gpu_memory_target GB`, or lower batch_size or patch_size in the "
            f"plan{settings}; fewer modalities need less as well. A plan with the same network goes on with "
            f"--c. It said: {error}"
        ) from error
