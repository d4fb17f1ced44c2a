"""A quick check of the data before a run: a few samples of each split, in about two seconds."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from segacc.contracts import IGNORE
from segacc.data.decode import unused_bits
from segacc.data.sample_pair import read_sample, turn_is_open
from segacc.data.samples import evenly_spaced, lost_samples, read_shard
from segacc.errors import DataError, SegaccError, UnreadableError, count_of
from segacc.hookspecs import Sample, Stream
from segacc.labels import LabelMap

LOOK = 16
"""Number of samples of each split that are read, evenly spaced."""
SECONDS = 2.0
"""Time after which no further sample is read."""
ENOUGH = 4
"""Number of labels that must agree before a warning is given."""


@dataclass
class _Seen:
    """What was read of a split."""

    name: str
    samples: Sequence[Sample]
    classes: list[set[int]] = field(default_factory=list)
    """The classes of each label."""
    open_turns: int = 0
    """Number of images with an EXIF rotation that may or may not apply to their labels."""
    uppers: list[int] = field(default_factory=list)
    """The largest upper byte of each 16-bit image."""

    def look(self, index: int, labels: LabelMap, num_channels: int) -> None:
        """Read a sample like the run will.

        Raises:
            DataError: see `read_sample`.
        """
        sample = self.samples[index]
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
    """Read a few samples of each split, and return warnings about likely errors.

    Args:
        splits: the training split, then the evaluation split. Of a stream, the first samples of the
            first shard are read if it is a local file; others are skipped, since access may be
            slow.
        labels: the data set's label map.
        num_channels: channels of the images.
        skip_unreadable: whether the run may skip unreadable files; the check then skips them too.
        seconds: time after which no further sample is read.

    Returns:
        Warnings, one line each.

    Raises:
        DataError: the first sample that would stop the run.
    """
    until = time.monotonic() + seconds
    streamed = any(isinstance(some, Stream) for some in splits.values())
    seen = [
        _Seen(name, _first(some) if isinstance(some, Stream) else some)
        for name, some in splits.items()
    ]
    for one, index in _turns(seen):
        if time.monotonic() > until:
            break
        with _passing(skip_unreadable):
            one.look(index, labels, num_channels)
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
    """Skip an unreadable file if the run would, otherwise add to the error how to skip it."""
    try:
        yield
    except UnreadableError as error:
        if not skip_unreadable:
            told = " To skip up to N such files, add --skip-unreadable N."
            raise DataError(f"{error}{told}") from None


def _first(stream: Stream) -> list[Sample]:
    """Read the first samples of a local stream, undecoded; remote shards are not read.

    Raises:
        DataError: the shard cannot be read.
    """
    if not stream.shards or not Path(stream.shards[0]).is_file():
        return []
    return [sample for sample, _ in islice(read_shard(stream, stream.shards[0]), LOOK)]


def _turns(seen: Sequence[_Seen]) -> Iterator[tuple[_Seen, int]]:
    """Yield what to read, alternating between splits, so that each is covered if time runs out."""
    rows = [[(one, index) for index in evenly_spaced(len(one.samples), LOOK)] for one in seen]
    for turn in zip_longest(*rows):
        yield from filter(None, turn)


def _of_labels(one: _Seen, labels: LabelMap) -> Iterator[str]:
    """Warn about labels that are all ignored, or all of the same class."""
    count, held = len(one.classes), set[int]().union(*one.classes)
    if count < min(ENOUGH, len(one.samples)) or not count:
        return
    looked = f"all {count} labels checked are" if count > 1 else "the only label is"
    if held == {IGNORE}:
        yield (
            f"{one.name}: {looked} ignored everywhere: there is nothing to train on or evaluate. "
            "`python -m segacc check-data` shows which values the files have."
        )
    elif len(held - {IGNORE}) == 1 and count >= ENOUGH:
        name = labels.names[min(held - {IGNORE})]
        yield (
            f"{one.name}: all {count} labels checked contain a single class, {name}. "
            "`python -m segacc check-data` shows which values the files have."
        )


def _of_images(one: _Seen) -> Iterator[str]:
    """Warn about images whose interpretation is uncertain."""
    if one.open_turns:
        yield open_turns_text(one.name, one.open_turns, len(one.classes))
    yield from unused_bits_text(one.name, one.uppers)


def unused_bits_text(name: str, uppers: Sequence[int]) -> Iterator[str]:
    """Warn about 16-bit images that contain only 8-, 10- or 12-bit values.

    Args:
        name: name of the split.
        uppers: the largest upper byte of each image that was checked.
    """
    bits = next((n for n in (8, 10, 12) if uppers and max(uppers) < 1 << n - 8), None)
    if bits:
        yield (
            f"{name}: {count_of(len(uppers), 'image')} with 16 bits checked, and no value is above "
            f"{(1 << bits) - 1}: only the upper 8 of 16 bits are kept, which leaves "
            f"{1 << bits - 8} of 256 levels. Add bits={bits} to the options of the data set if its "
            f"values go from 0 to {(1 << bits) - 1}, as in folder:root=DIR,bits={bits}."
        )


def open_turns_text(name: str, count: int, looked: int) -> str:
    """Warn that images have an EXIF rotation which may or may not apply to their labels."""
    return (
        f"{name}: of {count_of(looked, 'image')} checked, {_many(count, 'is', 'are')} rotated by "
        "EXIF, and their sizes do not show whether the labels are too. Add exif=upright to the "
        "options of the data set if labels match the rotated images (assumed), or exif=stored if "
        "they match the images as stored."
    )


def _leak(train: _Seen, scored: _Seen, until: float) -> Iterator[str]:
    """Warn about images that are in both the training and the evaluation split."""
    if not len(train.samples) or not len(scored.samples):
        return
    own = {name: index for index, name in _ids(train.samples, until)}
    shared = [(index, own[name]) for index, name in _ids(scored.samples, until) if name in own]
    looked = [shared[index] for index in evenly_spaced(len(shared), LOOK)]
    pairs = [(scored.samples[a], train.samples[b]) for a, b in looked]
    same = [one.id for one, other in pairs if _is_same(one.image, other.image)]
    if same:
        told = ", ".join(same[:3]) + (" ..." if len(same) > 3 else "")
        yield (
            f"{_many(len(shared), 'id is', 'ids are')} in {train.name} and in {scored.name}, and "
            f"of the {len(looked)} checked {_many(len(same), 'has', 'have')} the same image "
            f"({told}): scores will be too good."
        )


def _many(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _ids(samples: Sequence[Sample], until: float) -> Iterator[tuple[int, str]]:
    """Yield the indices and ids of samples until the time is up."""
    for index in range(len(samples)):
        if time.monotonic() > until:
            return
        yield index, samples[index].id


def _is_same(one: bytes | Path, other: bytes | Path) -> bool:
    """Compare two images, byte by byte if they are not the same file."""
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
    """Run `quick_check` on the main process, for all processes of a run.

    Returns:
        Its warnings, on every process.

    Raises:
        SegaccError: see `quick_check`; raised on every process.
    """
    told: list[tuple[str, ...] | SegaccError] = [()]
    if accelerator.is_main_process:
        try:
            told = [quick_check(splits, labels, num_channels, skip_unreadable=skip_unreadable)]
        except SegaccError as error:  # sent to the other processes, which wait
            told = [error]
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        told = broadcast_object_list(told)
    if isinstance(told[0], SegaccError):
        raise told[0]
    return told[0]
