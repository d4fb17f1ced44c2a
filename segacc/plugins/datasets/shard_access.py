"""Opening of local and remote shards at any byte, with retries."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from segacc.errors import DataError, SegaccError

T = TypeVar("T")

TRIES = 3
"""Number of consecutive attempts to read a remote shard if the connection breaks."""
PAUSE = 1.0
"""Seconds before the second attempt, doubled for each further one."""
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0
"""Seconds without a response of an HTTP server."""
CHUNK = 1 << 16


def is_far(shard: str) -> bool:
    """True for a URL, false for a path."""
    return "://" in shard


def patiently(
    shard: str, read: Callable[[Any], Iterator[tuple[T, Any]]], position: Any = None
) -> Iterator[tuple[T, Any]]:
    """Yield from `read` starting at a position; resume there if a connection breaks.

    Raises:
        DataError: the shard is missing, damaged or unreachable.
    """
    failed = 0
    while True:
        try:
            for thing, behind in read(position):
                yield thing, behind
                position, failed = behind, 0
            return
        except SegaccError:
            raise
        except Exception as error:  # readers and file systems may raise anything
            failed += 1
            final, why = explain(error)
            if final or failed == TRIES or not is_far(shard):
                tried = f" (tried {failed} times)" if failed > 1 else ""
                raise DataError(f"{shard}: the shard cannot be read: {why}{tried}.") from None
            time.sleep(PAUSE * 2 ** (failed - 1))


def once(shard: str, look: Callable[[], T]) -> T:
    """Call a function that inspects a shard, with the same retries and errors."""
    return next(patiently(shard, lambda _: iter([(look(), None)])))[0]


def explain(error: BaseException) -> tuple[bool, str]:
    """Return whether an error is permanent, and a short description."""
    while error.__cause__ is not None and (isinstance(error, FileNotFoundError) or not str(error)):
        error = error.__cause__  # fsspec wraps any error when it requests the size
    status = getattr(error, "status", 0)  # aiohttp's
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return True, "there is no such file"
    why = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    final = isinstance(error, ImportError | ValueError) or 400 <= status < 408
    return final, why.rstrip(".")


# ----------------------------------------------------------------------------------------- opening
def far_system(shard: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if shard.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        limits = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
        options = {"client_kwargs": {"timeout": limits, "trust_env": True}}
    system, path = url_to_fs(shard, **options)
    return system, path


def open_at(shard: str, position: int) -> Any:
    """Open a shard for reading from a byte position to its end.

    An HTTP server sends a single response; if it does not support ranges, the bytes before the
    position are sent too and skipped.
    """
    if not is_far(shard):
        file: Any = Path(shard).open("rb")  # noqa: SIM115
        file.seek(position)
        return file
    system, path = far_system(shard)
    if "http" not in system.protocol:
        file = system.open(path, "rb")
        file.seek(position)
        return file
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={position}-"}
    # Block size 0 means a single response; with a given size, it is not requested first.
    file = system.open(path, "rb", block_size=0, size=1, headers=headers)
    before = 0 if file.r.status == 206 else position
    while before and (passed := len(file.read(min(before, CHUNK)))):
        before -= passed
    return file
