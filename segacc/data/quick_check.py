"""A glance at the data before a run: a few samples of each split, in about two seconds."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from segacc.contracts import IGNORE
from segacc.data.decode import read_sample, turn_is_open, unused_bits
from segacc.data.samples import evenly_spaced, lost_samples, read_shard
from segacc.errors import DataError, SegaccError, UnreadableError, count_of
from segacc.hookspecs import Sample, Stream
from segacc.labels import LabelMap

LOOK = 16
"""Samples of each split that are read, evenly spread."""
SECONDS = 2.0
"""After which no further sample is read."""
ENOUGH = 4
"""Labels of a split that must agree before it is said of all of them."""


@dataclass
class _Seen:
    """What was read of a split."""

    name: str
    samples: Sequence[Sample]
    classes: list[set[int]] = field(default_factory=list)
    """Of each label."""
    open_turns: int = 0
    """Images that EXIF turns, and perhaps their labels."""
    uppers: list[int] = field(default_factory=list)
    """The largest upper bytes of images of 16 bits."""

    def look(self, place: int, labels: LabelMap, num_channels: int) -> None:
        """Read a sample as the run will.

        Raises:
            DataError: see `read_sample`.
        """
        sample = self.samples[place]
        image, label = read_sample(sample, labels, num_channels)
        self.classes.append(set(np.unique(label.numpy()).tolist()))
        size = image.shape[-2], image.shape[-1]
        self.open_turns += turn_is_open(sample, size, num_channels)
        self.uppers += [one for one in (unused_bits(sample, image),) if one is not None]


def quick_check(
    splits: Mapping[str, Sequence[Sample] | Stream],
    labels: LabelMap,
    num_channels: int,
    *,
    skip_unreadable: bool,
    seconds: float = SECONDS,
) -> tuple[str, ...]:
    """Read a few samples of each split, and say what is nearly certain to be wrong.

    Args:
        splits: the training split, then the scored one. Of a stream the first shard's first
            samples are read if it is a file here; for others a look would have to wait.
        labels: the map of the data set.
        num_channels: of the images.
        skip_unreadable: the run may pass over unreadable files, and so does this.
        seconds: after which no further sample is read.

    Returns:
        Warnings, a line each.

    Raises:
        DataError: the first sample that would stop the run.
    """
    until = time.monotonic() + seconds
    streamed = any(isinstance(some, Stream) for some in splits.values())
    seen = [
        _Seen(name, _first(some) if isinstance(some, Stream) else some)
        for name, some in splits.items()
    ]
    for one, place in _turns(seen):
        if time.monotonic() > until:
            break
        with _passing(skip_unreadable):
            one.look(place, labels, num_channels)
    streams = {name: some for name, some in splits.items() if isinstance(some, Stream)}
    lost = [line for name, some in streams.items() for line in lost_samples(name, some, 1)]
    warnings = lost + [
        line for one in seen for line in (*_of_labels(one, labels), *_of_images(one))
    ]
    if len(seen) == 2 and not streamed and seen[0].samples is not seen[1].samples:
        warnings += _leak(seen[0], seen[1], time.monotonic() + seconds / 4)
    return tuple(warnings)


@contextmanager
def _passing(skip_unreadable: bool) -> Iterator[None]:
    """Pass over an unreadable file where the run would, or say how it would."""
    try:
        yield
    except UnreadableError as error:
        if not skip_unreadable:
            told = " To pass over up to N such files, add --skip-unreadable N."
            raise DataError(f"{error}{told}") from None


def _first(stream: Stream) -> list[Sample]:
    """Read the first samples of a stream, undecoded; none of what is far away.

    Raises:
        DataError: the shard cannot be read.
    """
    if not stream.shards or not Path(stream.shards[0]).is_file():
        return []
    return [sample for sample, _ in islice(read_shard(stream, stream.shards[0]), LOOK)]


def _turns(seen: Sequence[_Seen]) -> Iterator[tuple[_Seen, int]]:
    """Yield what to read, the splits in turn: if time runs out, something of each was read."""
    rows = [[(one, place) for place in evenly_spaced(len(one.samples), LOOK)] for one in seen]
    for turn in zip_longest(*rows):
        yield from filter(None, turn)


def _of_labels(one: _Seen, labels: LabelMap) -> Iterator[str]:
    """Warn of labels that are all ignored, or all of one and the same class."""
    count, held = len(one.classes), set[int]().union(*one.classes)
    if count < min(ENOUGH, len(one.samples)) or not count:
        return
    looked = f"all {count} labels looked at are" if count > 1 else "the only label is"
    if held == {IGNORE}:
        yield (
            f"{one.name}: {looked} ignored everywhere: nothing can be learned or scored. "
            "`python -m segacc check-data` tells what they hold."
        )
    elif len(held - {IGNORE}) == 1 and count >= ENOUGH:
        name = labels.names[min(held - {IGNORE})]
        yield (
            f"{one.name}: all {count} labels looked at hold one class only, {name}. "
            "`python -m segacc check-data` tells which values the files have."
        )


def _of_images(one: _Seen) -> Iterator[str]:
    """Warn of images of which it is not certain how they are meant."""
    if one.open_turns:
        yield open_turns_text(one.name, one.open_turns, len(one.classes))
    yield from unused_bits_text(one.name, one.uppers)


def unused_bits_text(name: str, uppers: Sequence[int]) -> Iterator[str]:
    """Warn of images of 16 bits that hold values of 8, 10 or 12 bits only.

    Args:
        name: of the split.
        uppers: the largest upper byte of each that was looked at.
    """
    bits = next((n for n in (8, 10, 12) if uppers and max(uppers) < 1 << n - 8), None)
    if bits:
        yield (
            f"{name}: {count_of(len(uppers), 'image')} of 16 bits looked at, and no value above "
            f"{(1 << bits) - 1}: only the upper 8 of 16 bits are kept, which leaves "
            f"{1 << bits - 8} of 256 levels. Add bits={bits} to the options of the data set if its "
            f"values go from 0 to {(1 << bits) - 1}, as in folder:root=DIR,bits={bits}."
        )


def open_turns_text(name: str, count: int, looked: int) -> str:
    """Say that EXIF turns images of a split, and what would say whether it turns labels."""
    return (
        f"{name}: of {count_of(looked, 'image')} looked at, {_many(count, 'is', 'are')} turned by "
        "EXIF, and their sizes do not tell whether the labels are. Add exif=upright to the options "
        "of the data set if labels are drawn on images as they are shown, which is assumed, or "
        "exif=stored if they are drawn on images as they are stored."
    )


def _leak(train: _Seen, scored: _Seen, until: float) -> Iterator[str]:
    """Warn of images that are trained on and scored: files or bytes that are in both splits."""
    if not len(train.samples) or not len(scored.samples):
        return
    own = {name: place for place, name in _ids(train.samples, until)}
    shared = [(place, own[name]) for place, name in _ids(scored.samples, until) if name in own]
    looked = [shared[place] for place in evenly_spaced(len(shared), LOOK)]
    pairs = [(scored.samples[a], train.samples[b]) for a, b in looked]
    same = [one.id for one, other in pairs if _is_same(one.image, other.image)]
    if same:
        told = ", ".join(same[:3]) + (" ..." if len(same) > 3 else "")
        yield (
            f"{_many(len(shared), 'id is', 'ids are')} in {train.name} and in {scored.name}, and "
            f"of the {len(looked)} looked at {_many(len(same), 'has', 'have')} the same image "
            f"({told}): scores will be too good."
        )


def _many(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _ids(samples: Sequence[Sample], until: float) -> Iterator[tuple[int, str]]:
    """Yield the places and ids of samples until the time is up."""
    for place in range(len(samples)):
        if time.monotonic() > until:
            return
        yield place, samples[place].id


def _is_same(one: bytes | Path, other: bytes | Path) -> bool:
    """Compare two pictures, byte by byte where they are not one file."""
    if isinstance(one, Path) and one == other:
        return True
    try:
        return _content(one) == _content(other)
    except OSError:
        return False


def _content(source: bytes | Path) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def check_for_all(
    splits: Mapping[str, Sequence[Sample] | Stream],
    labels: LabelMap,
    num_channels: int,
    accelerator: Any,
    *,
    skip_unreadable: bool,
) -> tuple[str, ...]:
    """Let the main process of a run make the `quick_check` for all of them.

    Returns:
        Its warnings, on every process.

    Raises:
        SegaccError: as `quick_check`, on every process.
    """
    told: list[tuple[str, ...] | SegaccError] = [()]
    if accelerator.is_main_process:
        try:
            told = [quick_check(splits, labels, num_channels, skip_unreadable=skip_unreadable)]
        except SegaccError as error:  # carried to the others, which wait
            told = [error]
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        told = broadcast_object_list(told)
    if isinstance(told[0], SegaccError):
        raise told[0]
    return told[0]
