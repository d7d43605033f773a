"""Blocks that are freed are kept for the next ones."""

import platform
import subprocess
import sys

import pytest

from nnunetv2_missmod.machine import kept_memory

SCRIPT = """
import ctypes, resource
from nnunetv2_missmod.machine.kept_memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        block = libc.malloc(2**24)
        ctypes.memset(block, 1, 2**24)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{keep}
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_a_block_that_was_freed_is_not_cleared_again():
    found = {}
    for keep in ("", "keep_freed_memory()"):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, text=True, check=True
        )
        found[keep] = int(run.stdout)
    # glibc may raise its threshold after the first block, so that only the kept ones are sure.
    assert found["keep_freed_memory()"] < 20
    assert found["keep_freed_memory()"] <= found[""]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(kept_memory.ctypes, "CDLL", lambda _: object())
    kept_memory.keep_freed_memory()
