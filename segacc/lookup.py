"""Integers through a table, whole pictures at a time; a colour is an integer, too."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Ids = np.ndarray[Any, np.dtype[np.int64]]


def packed_color(color: tuple[int, int, int]) -> int:
    """Make one number of a colour, as the bytes of a pixel are in memory."""
    return color[0] | color[1] << 8 | color[2] << 16


def unpacked_color(value: int) -> tuple[int, int, int]:
    """Return the colour that `packed_color` made a number of."""
    return value & 255, value >> 8 & 255, value >> 16


def sorted_table(table: Mapping[int, int]) -> "tuple[Ids, Ids]":
    """Return the keys in order, and what each stands for: what `look_up` takes."""
    import numpy as np

    keys = sorted(table)
    return np.array(keys, np.int64), np.array([table[key] for key in keys], np.int64)


def look_up(values: "np.ndarray[Any, Any]", keys: "Ids", results: "Ids") -> "Ids":
    """Map integers (H, W) through sorted keys to (H, W) int64, -1 for what is no key.

    Neighbours in a label are mostly alike: only the first of each run is searched for.
    """
    import numpy as np

    flat = values.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    heads = flat[starts]
    places = np.minimum(np.searchsorted(keys, heads), len(keys) - 1)
    mapped = np.where(keys[places] == heads, results[places], -1)
    return np.repeat(mapped, np.diff(starts, append=len(flat))).reshape(values.shape)
