"""Rows of samples: their ids, a digest that tells one row from another, and those of a shard."""

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from segacc.errors import DataError, SegaccError
from segacc.hookspecs import Sample, Stream

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def spread(total: int, count: int) -> list[int]:
    """Return up to `count` of the places 0..total-1, evenly spread."""
    count = min(total, count)
    return [turn * total // count for turn in range(count)]


def ids_of(samples: Sequence[Sample]) -> Sequence[str]:
    """List the ids of a split; one that has them at hand need not read its samples."""
    known: Sequence[str] | None = getattr(samples, "ids", None)
    return [one.id for one in samples] if known is None else known


def digest(ids: Sequence[str], chances: "ArrayLike | None" = None) -> str:
    """Return 12 hexadecimal digits over ids in their order, and over the chances to be drawn.

    Chances count in 32 bits: another processor may round those of rare-class sampling differently
    in the last of their 64.
    """
    import numpy as np

    found = blake2b(json.dumps(list(ids)).encode(), digest_size=6)
    if chances is not None:
        found.update(np.asarray(chances, "<f4").tobytes())
    return found.hexdigest()


def read_shard(stream: Stream, shard: str, position: Any = None) -> Iterator[tuple[Sample, Any]]:
    """Yield the samples of a shard from a position on, as `Stream.read` does.

    Raises:
        DataError: whatever `read` raised, a broken connection perhaps: one process alone that ends
            with it would leave the others waiting, a SegaccError stops them all.
    """
    try:
        yield from stream.read(shard, position)
    except SegaccError:
        raise
    except Exception as error:
        why = " ".join(f"{type(error).__name__} {error}".split()).rstrip(".")
        raise DataError(f"{shard}: the shard cannot be read: {why}.") from error
