"""Duplicate images: identical files, or near duplicates by a difference hash of 64 bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segacc.kernels import LUMA

BITS_APART = 6
"""Maximum number of bits of 64 in which the hashes of near duplicates differ.

Re-encoding an image (JPEG quality 20), halving its size, or making it a third brighter changed up
to 5 bits for 23 images of CamVid and ADE20K. Of CamVid's 37067 pairs of a training and a validation
image, all of which are different images, none is closer than 9 bits; but of its 101 validation
images, frames of one video a fifteenth of a second apart, 97 have a near duplicate. Two random
hashes are this close in one of 2e11 pairs.
"""
ALIKE = 0.97
"""Minimum correlation of the thumbnails of near duplicates; after the changes above it was at least
0.974."""
FLAT = 2.0
"""Standard deviation of a thumbnail, in grey levels, below which an image is flat."""

SIDE = 16
"""Side of the thumbnail in pixels."""
PAIRS_AT_ONCE = 250_000
"""Number of pairs compared at once, which fit in the processor's cache."""

Prints = NDArray[np.uint8]
"""(N, 8 + SIDE * SIDE): a hash of 64 bits and a thumbnail for each image."""
Match = tuple[int, int, int]
"""Two indices, and the number of bits of 64 in which the hashes differ."""

TwinKind = Literal["exact", "near", "label"]


@dataclass(frozen=True)
class Twins:
    """Duplicates in two splits, or in one."""

    kind: TwinKind
    """`exact`: identical image files; `near`: images that look alike; `label`: identical label
    files of different images."""
    splits: tuple[str, str]
    """The split of the second one, and of the first one, of each pair."""
    pairs: tuple[tuple[str, str, int], ...]
    """Ids in these two splits, and the number of bits in which the hashes differ. Each id of the
    second split occurs once, with its nearest duplicate."""


def fingerprint(pixels: NDArray[np.uint8]) -> bytes:
    """Return the fingerprint of an image (C, H, W) uint8 for `near`: a hash and a thumbnail.

    The 8 bytes of hash are the difference hash of Krawetz, "Kind of like that" (2013): whether the
    mean grey level increases from each of 9 x 8 cells to its right neighbour.
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
    """Average an image in cells; `size` is (width, height) in cells."""
    return np.asarray(picture.resize(size, Image.Resampling.BOX), np.float32)


def stack(prints: Sequence[bytes]) -> Prints:
    """Stack fingerprints into an array."""
    width = 8 + SIDE * SIDE
    return np.frombuffer(b"".join(prints), np.uint8).reshape(len(prints), width)


def exact(second: Sequence[bytes], first: Sequence[bytes] | None = None) -> list[Match]:
    """Find the digests of `second` that occur in `first`; without it, earlier in `second`.

    Returns:
        The index into `second`, the index of the first equal digest, and 0. Empty digests are never
        equal.
    """
    indices: dict[bytes, int] = {}
    for index, key in enumerate(first or ()):
        indices.setdefault(key, index)
    found = []
    for index, key in enumerate(second):
        if key and key in indices:
            found.append((index, indices[key], 0))
        elif first is None:
            indices[key] = index
    return found


def near(second: Prints, first: Prints | None = None) -> list[Match]:
    """Find the near duplicates of images in another split, or earlier in the same split.

    Args:
        second: (N, ...) fingerprints; each has at most one match, the nearest.
        first: (M, ...) fingerprints of the other split; None to compare `second` with itself.

    Returns:
        The index into `second`, the index into the other, and the number of differing bits. Flat
        images have no duplicates.
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
        for row in np.flatnonzero(bits <= BITS_APART).tolist():
            one, twin = int(rows[start + row]), int(columns[nearest[row]])
            if _correlation(second[one], other[twin]) >= ALIKE:
                found.append((one, twin, int(bits[row])))
    return found


def _told_apart(prints: Prints) -> NDArray[Any]:
    """Return the indices of the images that are not flat."""
    return np.flatnonzero(prints[:, 8:].std(axis=1) >= FLAT)


def _hashes(prints: Prints) -> NDArray[np.uint64]:
    return np.ascontiguousarray(prints[:, :8]).view(np.uint64)[:, 0]


def _not_before(start: int, rows: int, columns: int) -> NDArray[np.bool_]:
    """Mask the columns that are not before the row; the first row has the index `start`."""
    mask: NDArray[np.bool_] = np.arange(columns)[None] >= start + np.arange(rows)[:, None]
    return mask


def _correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    a, b = (side[8:] - side[8:].mean() for side in (one, other))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
