"""Images that come twice: byte for byte, or nearly so by a difference hash of 64 bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS_APART = 6
"""Most bits of 64 by which the hashes of near twins differ.

Encoding a picture again (JPEG quality 20), halving its size, or making it a third brighter moved up
to 5 bits of 23 pictures of CamVid and ADE20K. Of CamVid's 37067 pairs of a training and a
validation image, all of which differ, none is nearer than 9 bits; but of its validation images,
frames of one video a fifteenth of a second apart, 97 of 101 have a near twin. Two hashes of
independent fair bits come so near once in 2e11 pairs.
"""
ALIKE = 0.97
"""Least correlation of the thumbnails of near twins; the changes above left 0.974 or more."""
FLAT = 2.0
"""Standard deviation of a thumbnail in grey levels under which there is nothing to compare."""

SIDE = 16
"""Of the thumbnail, in pixels."""
LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601)."""
PAIRS_AT_ONCE = 250_000
"""Compared in one go; they fit into a cache of the processor."""

Prints = NDArray[np.uint8]
"""(N, 8 + SIDE * SIDE): 64 bits of a hash and a thumbnail for each image."""
Match = tuple[int, int, int]
"""Two indices, and the bits of 64 by which the hashes differ."""

TwinKind = Literal["exact", "near", "label"]


@dataclass(frozen=True)
class Twins:
    """What comes twice in two splits, or in one."""

    kind: TwinKind
    """`exact`: images of the same bytes; `near`: images that look alike; `label`: labels of the
    same bytes under different images."""
    splits: tuple[str, str]
    """Where the second one is, and where the first one."""
    pairs: tuple[tuple[str, str, int], ...]
    """Ids in these two splits, and the bits by which the hashes differ. Each id of the second split
    comes once, with what is nearest to it."""


def fingerprint(pixels: NDArray[np.uint8]) -> bytes:
    """Describe an image (C, H, W) uint8 for `near`: 8 bytes of hash, then a thumbnail.

    The hash is the difference hash of Krawetz, "Kind of like that" (2013): whether the mean grey
    grows from each of 9 x 8 cells to the one right of it.
    """
    planes = pixels[: len(LUMA)] if len(pixels) >= len(LUMA) else pixels[:1]
    parts = [_shrunk(Image.fromarray(plane), (2 * SIDE, 2 * SIDE)) for plane in planes]
    weights = LUMA if len(parts) > 1 else (1.0,)
    grey = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    small = Image.fromarray(np.asarray(grey, np.float32))
    cells = _shrunk(small, (9, 8))
    thumbnail = np.rint(_shrunk(small, (SIDE, SIDE))).astype(np.uint8)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes() + thumbnail.tobytes()


def _shrunk(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.float32]:
    """Average a picture in cells; `size` is (width, height) in cells."""
    return np.asarray(picture.resize(size, Image.Resampling.BOX), np.float32)


def stack(prints: Sequence[bytes]) -> Prints:
    """Put fingerprints under each other."""
    width = 8 + SIDE * SIDE
    return np.frombuffer(b"".join(prints), np.uint8).reshape(len(prints), width)


def exact(second: Sequence[bytes], first: Sequence[bytes] | None = None) -> list[Match]:
    """Find which digests of `second` are in `first`, or, without it, before them in `second`.

    Returns:
        An index into `second`, the first such index into the other, and 0. Empty digests are
        nobody's twins.
    """
    places: dict[bytes, int] = {}
    for place, key in enumerate(first or ()):
        places.setdefault(key, place)
    found = []
    for place, key in enumerate(second):
        if key and key in places:
            found.append((place, places[key], 0))
        elif first is None:
            places[key] = place
    return found


def near(second: Prints, first: Prints | None = None) -> list[Match]:
    """Find for each image the nearest one of another split, or the nearest one before it.

    Args:
        second: (N, ...) fingerprints; each of them comes once at most in the answer.
        first: (M, ...) fingerprints of the other split; None: `second` is compared with itself.

    Returns:
        An index into `second`, one into the other, and the bits they are apart, for those that are
        near twins. Flat images are nobody's.
    """
    own = first is None
    other = second if first is None else first
    rows, columns = _told_apart(second), _told_apart(other)
    if not len(rows) or not len(columns):
        return []
    hashes, others = _hashes(second[rows]), _hashes(other[columns])
    height = max(1, PAIRS_AT_ONCE // len(others))
    found = []
    for start in range(0, len(rows), height):
        block = hashes[start : start + height]
        apart = np.bitwise_count(block[:, None] ^ others[None])  # (rows of the block, M) uint8
        if own:
            apart[_not_before(start, *apart.shape)] = 64
        nearest = apart.argmin(axis=1)
        bits = apart[np.arange(len(block)), nearest]
        for place in np.flatnonzero(bits <= BITS_APART).tolist():
            one, twin = int(rows[start + place]), int(columns[nearest[place]])
            if _correlation(second[one], other[twin]) >= ALIKE:
                found.append((one, twin, int(bits[place])))
    return found


def _told_apart(prints: Prints) -> NDArray[Any]:
    """Return the indices of the images that are not flat."""
    return np.flatnonzero(prints[:, 8:].std(axis=1) >= FLAT)


def _hashes(prints: Prints) -> NDArray[np.uint64]:
    return np.ascontiguousarray(prints[:, :8]).view(np.uint64)[:, 0]


def _not_before(start: int, rows: int, columns: int) -> NDArray[np.bool_]:
    """Mark the columns that do not stand before the row; the first row is number `start`."""
    mask: NDArray[np.bool_] = np.arange(columns)[None] >= start + np.arange(rows)[:, None]
    return mask


def _correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    a, b = (side[8:] - side[8:].mean() for side in (one, other))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
