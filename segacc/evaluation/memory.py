"""How a process on the CPU keeps and gives back memory that it has freed."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""What glibc's mallopt calls the bytes above which freed memory goes back to the kernel, and above
which a buffer is asked of the kernel by itself."""


def keep_memory() -> None:
    """Let a process on the CPU keep what it frees, for the same buffers in the next step.

    glibc gives large ones back to the kernel, which clears every page anew: a sixth of the time of
    a step of SegFormer-b0. What is computed is the same. An environment that sets glibc's
    MALLOC_TRIM_THRESHOLD_ decides by itself.
    """
    if platform.libc_ver()[0] == "glibc" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def memory_returned() -> Iterator[None]:
    """Give back what was freed before the block, and in it each large buffer when it is freed.

    For a picture so large that its buffers would leave gaps that nothing fits in.
    """
    ours = platform.libc_ver()[0] == "glibc" and "MALLOC_TRIM_THRESHOLD_" not in os.environ
    if ours:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)
        libc.malloc_trim(0)
    try:
        yield
    finally:
        if ours:
            keep_memory()
