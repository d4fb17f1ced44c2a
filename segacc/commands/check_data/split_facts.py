"""Statistics over the samples of a split, and duplicates in and between splits."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segacc.commands.check_data.duplicates import Match, TwinKind, Twins, exact, near, stack
from segacc.commands.check_data.scan import Fault, SampleFacts
from segacc.contracts import IGNORE
from segacc.hookspecs import Sample

EXAMPLES = 4
"""Number of samples of each split that a picture shows."""

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass
class SplitFacts:
    """Statistics over the samples of a split. Classes are 0..K-1, and 255 for ignored pixels."""

    name: str
    total: int | None
    """Number of samples; None for a stream of unknown length."""
    ids: list[str] = field(default_factory=list)
    """Ids of the samples that were read, in the order of the digests and prints below."""
    faults: list[Fault] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    """Number of pixels by class."""
    images: Counter[int] = field(default_factory=Counter)
    """Number of labels that contain a class, by class."""
    raw: Counter[int] = field(default_factory=Counter)
    """Number of pixels by raw id, including those outside the map."""
    all_ignored: list[str] = field(default_factory=list)
    """Labels whose pixels are all ignored."""
    constant: Counter[int] = field(default_factory=Counter)
    """Number of labels with a single class, by that class."""
    sizes: Counter[Size] = field(default_factory=Counter)
    """Number of images by (height, width)."""
    image_modes: Counter[str] = field(default_factory=Counter)
    label_kinds: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)
    """Paths of the images; empty strings if they are not files."""
    image_digests: list[bytes] = field(default_factory=list)
    label_digests: list[bytes] = field(default_factory=list)
    """Also empty for labels of a single class, which are often equal."""
    prints: list[bytes] = field(default_factory=list)
    sums: list[tuple[int, int]] = field(default_factory=list)
    """Sum of the pixels and sum of their squares, by channel."""
    open_turns: list[str] = field(default_factory=list)
    """Samples whose image EXIF rotates, if it is not known whether it applies to the label."""
    uppers: list[int] = field(default_factory=list)
    """Largest upper bytes of 16-bit images whose number of used bits is not known."""
    examples: list[tuple[int, Sample]] = field(default_factory=list)
    """Samples without faults for pictures, with their indices in the split."""

    @property
    def read(self) -> int:
        """Number of samples that were read."""
        return len(self.ids)

    def add(self, sample: Sample, facts: SampleFacts) -> None:
        """Add the facts of one sample."""
        self.ids.append(facts.id)
        self.faults += facts.faults
        self.pixels.update(facts.classes)
        self.images.update(facts.classes.keys())
        self.raw.update(facts.raw)
        labelled = [k for k in facts.classes if k != IGNORE]
        if facts.all_ignored:
            self.all_ignored.append(facts.label_file)
        elif len(labelled) == 1:
            self.constant[labelled[0]] += 1
        if facts.image_size:
            self.sizes[facts.image_size] += 1
            self._add_sums(facts)
        # Damaged files have no kind, but a TIFF that Pillow cannot open counts as `other`.
        if facts.image_digest and (facts.image_size or facts.image_mode != "other"):
            self.image_modes[facts.image_mode] += 1
        if facts.label_digest and (facts.raw or facts.label_kind != "other"):
            self.label_kinds[facts.label_kind] += 1
        if facts.turn_is_open:
            self.open_turns.append(facts.id)
        if facts.upper is not None:
            self.uppers.append(facts.upper)
        self.files.append(str(sample.image) if isinstance(sample.image, Path) else "")
        self.image_digests.append(facts.image_digest)
        self.label_digests.append(facts.label_digest if len(labelled) > 1 else b"")
        self.prints.append(facts.print)

    def _add_sums(self, facts: SampleFacts) -> None:
        old = self.sums or [(0, 0)] * len(facts.sums)
        self.sums = [(a + c, b + d) for (a, b), (c, d) in zip(old, facts.sums, strict=True)]

    @property
    def labelled(self) -> int:
        """Number of pixels that have a class."""
        return self.pixels.total() - self.pixels[IGNORE]

    @property
    def ignored_share(self) -> float:
        """Share of ignored pixels among those whose id is in the map, 0..1."""
        return self.pixels[IGNORE] / self.pixels.total() if self.pixels.total() else 0.0

    def share(self, k: int) -> float:
        """Return the share of a class among the labelled pixels, 0..1."""
        return self.pixels[k] / self.labelled if self.labelled else 0.0

    def statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel, in 0..1."""
        pixels = sum(h * w * count for (h, w), count in self.sizes.items())
        means = [first / pixels for first, _ in self.sums]
        spread = [
            math.sqrt(max(0.0, second / pixels - mean**2))
            for (_, second), mean in zip(self.sums, means, strict=True)
        ]
        return [mean / 255 for mean in means], [one / 255 for one in spread]

    def by_area(self) -> list[Size]:
        """Return the size of each image, sorted by area."""
        return sorted(self.sizes.elements(), key=lambda size: (size[0] * size[1], size))

    def keep(self, sample: Sample, index: int, *, out_of: int) -> None:
        """Keep a sample without faults for pictures: `EXAMPLES` of them, evenly spaced.

        Args:
            sample: the sample that was added last.
            index: its index in the split.
            out_of: the number of samples; 0 if not known, then the first ones are kept.
        """
        due = index * EXAMPLES >= len(self.examples) * out_of
        if due and len(self.examples) < EXAMPLES:
            self.examples.append((index, sample))


def find_twins(splits: Sequence[SplitFacts], run: Collection[str]) -> list[Twins]:
    """Find duplicates between each two splits, then inside each split.

    Args:
        splits: the splits of one data set.
        run: names of the splits used for training and validation. Other splits may share files by
            design, as VOC's `trainval` does with `train`, which is not reported.
    """
    pairs: list[tuple[SplitFacts, SplitFacts | None]] = [
        (second, first) for index, second in enumerate(splits) for first in splits[:index]
    ]
    found = []
    for second, first in [*pairs, *((one, None) for one in splits)]:
        other = second if first is None else first
        by_design = first is not None and not {second.name, other.name} <= set(run)
        for kind, matches in _kinds(second, first):
            told = tuple(
                (second.ids[a], other.ids[b], bits)
                for a, b, bits in matches
                if not (by_design and second.files[a] and second.files[a] == other.files[b])
            )
            if told:
                found.append(Twins(kind, (second.name, other.name), told))
    return found


def _kinds(second: SplitFacts, first: SplitFacts | None) -> Iterator[tuple[TwinKind, list[Match]]]:
    """Yield the matches of each kind; labels of duplicate images are not reported again."""
    other = second if first is None else first
    same = exact(second.image_digests, None if first is None else first.image_digests)
    yield "exact", same
    rows, columns = _seen(second), _seen(other)
    matches = near(
        stack([second.prints[index] for index in rows]),
        None if first is None else stack([other.prints[index] for index in columns]),
    )
    twins = [(rows[a], columns[b], bits) for a, b, bits in matches]
    digests = second.image_digests, other.image_digests
    alike = [match for match in twins if digests[0][match[0]] != digests[1][match[1]]]
    yield "near", alike
    told = {match[0] for match in (*same, *alike)}
    labels = exact(second.label_digests, None if first is None else first.label_digests)
    yield "label", [match for match in labels if match[0] not in told]


def _seen(facts: SplitFacts) -> list[int]:
    """Return the indices of the images that could be read."""
    return [index for index, one in enumerate(facts.prints) if one]
