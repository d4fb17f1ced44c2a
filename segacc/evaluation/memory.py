"""When glibc returns freed memory to the kernel, for speed on the CPU; and the peak memory."""

import ctypes
import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import psutil
import torch
from torch import Tensor

from segacc.data.batches import MOST_PIXELS
from segacc.settings.machine import available_memory

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt: the size in bytes above which free memory at the top of the heap
is returned to the kernel, and above which a buffer is allocated by mmap."""


def keep_memory() -> None:
    """Make glibc keep freed memory in the process, for the same buffers in the next step.

    By default glibc returns large buffers to the kernel, which must zero every page again: a sixth
    of the time of a SegFormer-b0 training step on the CPU. Results are unchanged. Does nothing if
    the environment sets glibc's MALLOC_TRIM_THRESHOLD_.
    """
    if platform.libc_ver()[0] == "glibc" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes so far: of the tensors on a GPU, else of this process.

    Linux would count that of the process that started this one in getrusage.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory() -> int:
    """Return the bytes that this process can still take: of its machine, container and `ulimit`."""
    free, (limit, _) = available_memory(), resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return free
    used = int(psutil.Process().memory_info().vms)
    return min(free, max(0, limit - used))


@contextmanager
def memory_returned() -> Iterator[None]:
    """Return free memory to the kernel at the start, and large buffers as they are freed inside.

    For images so large that their buffers would fragment the heap.
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


def returned_of(pixels: Tensor) -> AbstractContextManager[None]:
    """Return freed memory to the kernel at once for large images (..., H, W)."""
    large = pixels.shape[-2] * pixels.shape[-1] > MOST_PIXELS
    return memory_returned() if large else nullcontext()
