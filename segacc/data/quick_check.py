"""The data set of a run, read and checked before torch is imported.

The check reads a few samples of each split, in about two seconds.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path

from segacc.contracts import IGNORE
from segacc.data.samples import evenly_spaced, lost_samples, read_shard
from segacc.data.scan import SplitFacts, loaded, scan
from segacc.data.splits import data_splits, pick_split
from segacc.errors import DataError, count_of, first_of
from segacc.hookspecs import Chosen, DataSplits, Sample, Stream
from segacc.labels import LabelMap
from segacc.labels.names import is_unlabelled
from segacc.settings.config import TrainConfig

LOOK = 16
"""Number of samples of each split that are read, evenly spaced."""
SECONDS = 2.0
"""Time after which no further sample is read."""
ENOUGH = 4
"""Number of labels that must agree before a warning is given."""


@dataclass(frozen=True)
class GivenData:
    """The data set of a run, with its training and its evaluation split."""

    splits: DataSplits
    train: Sequence[Sample] | Stream
    scored: Sequence[Sample] | Stream
    notes: tuple[str, ...] = field(default=())

    def check(self, dataset: Chosen, config: TrainConfig) -> tuple[str, ...]:
        """Return the warnings of `quick_check`.

        Raises:
            DataError: the first sample that would stop the run.
        """
        seen = {config.train_split: self.train, config.eval_split: self.scored}
        skip = config.skip_unreadable > 0
        with dataset.doing("reading samples"):
            labels, channels = self.splits.labels, config.num_channels
            return quick_check(seen, labels, channels, skip_unreadable=skip)


def read_data(dataset: Chosen, config: TrainConfig, where: Callable[[str], str]) -> GivenData:
    """Build the data set of a run and pick its splits; no sample is read yet.

    Args:
        dataset: the chosen data set.
        config: the settings of the splits.
        where: says where a setting was typed.

    Raises:
        SegaccError: the data set or a split is not found, or not as it should be.
    """
    names = {"train": config.train_split, "scored": config.eval_split}
    at = where("val_fraction")
    splits, notes = data_splits(dataset, config.val_fraction, config.seed, **names, where=at)
    train = pick_split(splits, config.train_split, where("train_split"))
    hint = " --val-fraction 0.2 holds out a part of the training split."
    scored = pick_split(splits, config.eval_split, where("eval_split"), hint=hint)
    return GivenData(splits, train, scored, notes)


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
        skip_unreadable: whether the run may skip faulty samples; the check then skips them too.
        seconds: time after which no further sample is read.

    Returns:
        Warnings, one line each.

    Raises:
        DataError: the first sample that would stop the run.
    """
    until = time.monotonic() + seconds
    streams = {name: some for name, some in splits.items() if isinstance(some, Stream)}
    samples = {
        name: _first(some) if isinstance(some, Stream) else some for name, some in splits.items()
    }
    found = {name: SplitFacts(name, len(some)) for name, some in samples.items()}
    for name, index in _turns(samples):
        if time.monotonic() > until:
            break
        sample = samples[name][index]
        facts = scan(sample, labels, num_channels)
        if facts.faults and not skip_unreadable:
            hint = "To skip up to N such files, add --skip-unreadable N."
            raise DataError(f"{facts.faults[0].text} {hint}")
        if not facts.faults:
            found[name].add(sample, facts)
    brief = seconds / 4
    warnings = [text for _, text in class_warnings(labels)]
    for name, some in streams.items():
        warnings += lost_samples(name, some, brief)
    for one in found.values():
        warnings += _label_warnings(one, labels)
        warnings += [text for text, _ in image_warnings(one)]
    if len(samples) == 2 and not streams:
        warnings += _leak(samples, time.monotonic() + seconds / 4)
    return tuple(warnings)


def _first(stream: Stream) -> list[Sample]:
    """Read the first samples of a local stream, undecoded; remote shards are not read.

    Raises:
        DataError: the shard cannot be read.
    """
    if not stream.shards or not Path(stream.shards[0]).is_file():
        return []
    return [sample for sample, _ in islice(read_shard(stream, stream.shards[0]), LOOK)]


def _turns(samples: Mapping[str, Sequence[Sample]]) -> Iterator[tuple[str, int]]:
    """Yield what to read, alternating between splits, so that each is covered if time runs out."""
    rows = [
        [(name, index) for index in evenly_spaced(len(some), LOOK)]
        for name, some in samples.items()
    ]
    for turn in zip_longest(*rows):
        yield from filter(None, turn)


def _label_warnings(facts: SplitFacts, labels: LabelMap) -> Iterator[str]:
    """Warn about labels that are all ignored, or all of the same class."""
    count, classes = facts.read, set(facts.pixels) - {IGNORE}
    hint = "`segacc check-data` shows which values the files have."
    if not classes and count >= min(ENOUGH, facts.total or 0) and count:
        looked = f"all {count} labels checked are" if count > 1 else "the only label is"
        yield (
            f"{facts.name}: {looked} ignored everywhere: there is nothing to train on or evaluate. "
            f"{hint}"
        )
    elif len(classes) == 1 and count >= ENOUGH:
        name = labels.names[min(classes)]
        yield f"{facts.name}: all {count} labels checked contain a single class, {name}. {hint}"


def class_warnings(labels: LabelMap) -> Iterator[tuple[list[str], str]]:
    """Warn about classes to drop: names that mean `no label`, and classes without raw ids.

    Yields:
        The names of the classes, and the warning.
    """
    empty = labels.without_pixels
    named = [name for name in labels.names if is_unlabelled(name) and name not in empty]
    reasons = (
        (named, "is trained and scored, though its name means `no label`. To ignore its pixels"),
        (empty, "has no pixels, as its raw id is ignored, but the network predicts it. To drop it"),
    )
    for names, reason in reasons:
        if names and len(labels.names) - len(names) >= 2:
            drop = f"map={{drop: {json.dumps(names, ensure_ascii=False)}}}"
            told = names[0] if len(names) == 1 else f"{names[0]} (like {first_of(names[1:], 8)})"
            yield names, f"the class {told} {reason}, add {drop} to the options of the data set."


def bits_used(facts: SplitFacts) -> int | None:
    """Return the bits that are enough for the 16-bit images of a split, if they are 12 or fewer."""
    most = max(facts.uppers, default=255)
    return next((bits for bits in (8, 10, 12) if most < 1 << bits - 8), None)


def image_warnings(facts: SplitFacts) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Warn about images with an ambiguous rotation, with their ids, or number of used bits."""
    if facts.open_turns:
        turned = count_of(len(facts.open_turns), "is", "are")
        text = (
            f"{facts.name}: of {count_of(facts.read, 'image')} checked, {turned} rotated by EXIF, "
            "and their sizes do not show whether the labels are too. Add exif=upright to the "
            "options of the data set if labels match the rotated images (assumed), or exif=stored "
            "if they match the images as stored."
        )
        yield text, tuple(facts.open_turns)
    if bits := bits_used(facts):
        text = (
            f"{facts.name}: {count_of(len(facts.uppers), 'image')} with 16 bits checked, and no "
            f"value is above {(1 << bits) - 1}: only the upper 8 of 16 bits are kept, which leaves "
            f"{1 << bits - 8} of 256 levels. Add bits={bits} to the options of the data set if its "
            f"values go from 0 to {(1 << bits) - 1}, as in folder:root=DIR,bits={bits}."
        )
        yield text, ()


def _leak(samples: Mapping[str, Sequence[Sample]], until: float) -> Iterator[str]:
    """Warn about images that are in both the training and the evaluation split."""
    (train, own), (scored, others) = samples.items()
    if own is others:
        return
    indices = {name: index for index, name in _ids(own, until)}
    shared = [(index, indices[name]) for index, name in _ids(others, until) if name in indices]
    looked = [shared[index] for index in evenly_spaced(len(shared), LOOK)]
    pairs = [(others[a], own[b]) for a, b in looked]
    same = [one.id for one, other in pairs if _is_same(one.image, other.image)]
    if same:
        yield (
            f"{count_of(len(shared), 'id is', 'ids are')} in {train} and in {scored}, and of the "
            f"{len(looked)} checked {count_of(len(same), 'has', 'have')} the same image "
            f"({first_of(same, 3)}): scores will be too good."
        )


def _ids(samples: Sequence[Sample], until: float) -> Iterator[tuple[int, str]]:
    """Yield the indices and ids of samples until the time is up."""
    for index in range(len(samples)):
        if time.monotonic() > until:
            return
        yield index, samples[index].id


def _is_same(one: bytes | Path, other: bytes | Path) -> bool:
    """Compare two images, byte by byte if they are not the same file."""
    return one == other or (isinstance(first := loaded(one), bytes) and first == loaded(other))
