"""Files that are replaced atomically, so that a killed process leaves the old or the new one.

Also the shared memory that workers pass their batches through, and what happens if it is full.
"""

import errno
import os
import shutil
import signal
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from segacc.errors import WriteError

SHM = "/dev/shm"
"""Folder of shared memory on Linux."""
SHM_FULL = ("No space left on device", "Bus error", "out of shared memory")
"""Parts of the errors of workers that have too little shared memory."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which it replaces at the end.

    The folder is created if necessary. If the block fails, the temporary file is removed, and an
    error of writing names `path`.
    """
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name a file or folder in an error of writing that does not name one, as on a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def shared_memory(num_workers: int) -> Iterator[None]:
    """Explain errors of a full /dev/shm, through which workers pass their batches.

    Raises:
        WriteError: it is full.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not num_workers or not no_room(error):
            raise
        size = ""
        with suppress(OSError):
            found = shutil.disk_usage(SHM)
            size = f" ({found.total / 1e6:.1f} MB, of which {found.free / 1e6:.1f} MB are free)"
        raise WriteError(
            f"--num-workers {num_workers}: the shared memory {SHM}{size} is full, through which "
            "data workers pass their batches. Make it larger (in a container, with an option such "
            "as `docker run --shm-size 8g`), or load in the training process, --num-workers 0."
        ) from error


def no_room(error: Exception) -> bool:
    """Return whether it is an error of a full /dev/shm."""
    full = getattr(error, "errno", None) == errno.ENOSPC
    return full or any(sign in str(error) for sign in SHM_FULL)


def pass_on_or_end() -> None:
    """Let this worker end if its queue cannot pass on a batch; else it is waited for for ever."""
    queue: Any = Queue
    queue._on_queue_feeder_error = staticmethod(_end)  # multiprocessing's own prints the error


def _end(error: Exception, batch: object) -> None:
    """End this process; if the shared memory is full, as the system does that notices it itself."""
    if no_room(error):
        os.kill(os.getpid(), signal.SIGBUS)
    traceback.print_exception(error)
    os._exit(1)


def filled(batches: Iterable[list[Any]], count: int) -> Iterator[list[Any]]:
    """Yield so many batches; once the workers' shared memory is full, its error for each one left.

    All processes thus make the same number of calls, and one alone may have no memory.
    """
    taken = 0
    try:
        for batch in batches:
            taken += 1
            yield batch
    except WriteError as error:
        for _ in range(taken, count):
            yield [error]
