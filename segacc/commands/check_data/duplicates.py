"""Duplicate images: identical files, or near duplicates by a difference hash of 64 bits."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segacc.data.scan import SIDE, SplitFacts

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
PAIRS_AT_ONCE = 250_000
"""Number of pairs compared at once, which fit in the processor's cache."""

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


def find_twins(splits: Sequence[SplitFacts], run: Collection[str]) -> list[Twins]:
    """Find duplicates between each two splits, then inside each split.

    Args:
        splits: the splits of one data set.
        run: names of the splits used for training and validation. Other splits may share files by
            design, as VOC's `trainval` does with `train`, which is not reported.
    """
    pairs = [(second, first) for index, second in enumerate(splits) for first in splits[:index]]
    found = []
    for second, first in [*pairs, *((one, one) for one in splits)]:
        by_design = first is not second and not {second.name, first.name} <= set(run)
        for kind, matches in _kinds(second, first):
            told = tuple(
                (second.ids[a], first.ids[b], bits)
                for a, b, bits in matches
                if not (by_design and second.files[a] and second.files[a] == first.files[b])
            )
            if told:
                found.append(Twins(kind, (second.name, first.name), told))
    return found


def _kinds(second: SplitFacts, first: SplitFacts) -> Iterator[tuple[TwinKind, list[Match]]]:
    """Yield the matches of each kind; labels of duplicate images are not reported again."""
    same = exact(second.image_digests, first.image_digests)
    yield "exact", same
    alike = [
        (a, b, bits)
        for a, b, bits in near(second.prints, first.prints)
        if second.image_digests[a] != first.image_digests[b]
    ]
    yield "near", alike
    told = {match[0] for match in (*same, *alike)}
    labels = exact(second.label_digests, first.label_digests)
    yield "label", [match for match in labels if match[0] not in told]


def exact(second: Sequence[bytes], first: Sequence[bytes]) -> list[Match]:
    """Find the digests of `second` that occur in `first`, or earlier if both are one sequence.

    Returns:
        The index into `second`, the index of the first equal digest, and 0. Empty digests are never
        equal.
    """
    indices: dict[bytes, int] = {}
    for index, key in enumerate(first):
        indices.setdefault(key, index)
    return [
        (index, indices[key], 0)
        for index, key in enumerate(second)
        if key and key in indices and (first is not second or indices[key] < index)
    ]


def near(second: Sequence[bytes], first: Sequence[bytes]) -> list[Match]:
    """Find the near duplicates of images in another split, or earlier in the same split.

    Args:
        second: N fingerprints; each has at most one match, the nearest. Empty ones have none.
        first: M fingerprints of the other split, or the same sequence.

    Returns:
        The index into `second`, the index into `first`, and the number of differing bits. Flat
        images have no duplicates.
    """
    rows, hashes, thumbnails = _told_apart(second)
    columns, others, other_thumbnails = _told_apart(first)
    if not len(rows) or not len(columns):
        return []
    height = max(1, PAIRS_AT_ONCE // len(others))
    found = []
    for start in range(0, len(rows), height):
        block = hashes[start : start + height]
        apart = np.bitwise_count(block[:, None] ^ others[None])  # (rows of the block, M) uint8
        if first is second:  # earlier ones only
            later = np.arange(len(others)) >= start + np.arange(len(block))[:, None]
            apart[later] = 64
        nearest = apart.argmin(axis=1)
        bits = apart[np.arange(len(block)), nearest]
        for row in np.flatnonzero(bits <= BITS_APART).tolist():
            pair = thumbnails[start + row], other_thumbnails[nearest[row]]
            if np.corrcoef(*pair)[0, 1] >= ALIKE:
                found.append((int(rows[start + row]), int(columns[nearest[row]]), int(bits[row])))
    return found


def _told_apart(
    prints: Sequence[bytes],
) -> tuple[NDArray[np.intp], NDArray[np.uint64], NDArray[np.uint8]]:
    """Return index, hash and thumbnail of the images that could be read and are not flat."""
    seen = np.flatnonzero([len(one) for one in prints])
    table = np.frombuffer(b"".join(prints), np.uint8).reshape(len(seen), 8 + SIDE * SIDE)
    varied = table[:, 8:].std(axis=1) >= FLAT
    hashes = np.ascontiguousarray(table[varied, :8]).view(np.uint64)[:, 0]
    return seen[varied], hashes, table[varied, 8:]
