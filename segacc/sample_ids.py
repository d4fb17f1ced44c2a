"""The ids of a split's samples, and a digest that tells one row of samples from another."""

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from segacc.hookspecs import Sample

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


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
