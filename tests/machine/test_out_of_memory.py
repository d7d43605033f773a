import errno

import numpy as np
import pytest
import torch

from nnunetv2_missmod.machine.out_of_memory import is_out_of_memory

FAR_TOO_MUCH = 2**50


def raised(action):
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


@pytest.mark.parametrize(
    "action",
    [
        lambda: torch.empty(FAR_TOO_MUCH, dtype=torch.uint8),
        lambda: np.empty(FAR_TOO_MUCH, dtype=np.uint8),
        lambda: bytearray(FAR_TOO_MUCH),
    ],
    ids=["torch", "numpy", "python"],
)
def test_what_the_cpu_really_raises_is_known(action):
    assert is_out_of_memory(raised(action))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=repr,
)
def test_other_forms_of_it_are_known(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("expected input to have 4 channels"),
        RuntimeError("One or more background workers are no longer alive."),
        ValueError("out of memory is what this text speaks of"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_nothing_else_is_taken_for_it(error):
    assert not is_out_of_memory(error)


def test_an_error_raised_from_it_counts():
    error = ValueError("Case a could not be segmented.")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory.")
    assert is_out_of_memory(error)
    error.__cause__ = ValueError("another")
    assert not is_out_of_memory(error)
