"""Read samples as training does, and collect the faults and statistics of each and of a split."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segacc.contracts import IGNORE, MAX_BYTES, Drawn
from segacc.data.codecs import LYING, encoded, opened, refuse_huge, turn_of
from segacc.data.decode import BACK, MODES, raw_label, read_pixels, unused_bits
from segacc.data.sample_pair import is_turned, name_of_label, sizes_text
from segacc.errors import DataError, UnreadableError
from segacc.hookspecs import Sample
from segacc.kernels import LUMA
from segacc.labels import LabelMap

EXAMPLES = 4
"""Number of samples of each split that are kept for pictures."""
SIDE = 16
"""Side of the thumbnail in a fingerprint, in pixels."""
LABEL_KINDS = {"1": "1 bit", "L": "8 bit", "P": "palette", "I": "32 bit", "F": "float"}
"""Names of Pillow's modes of labels; I;16 and its variants are 16 bit."""
UNREADABLE = ("missing image", "missing label", "unreadable image", "unreadable label")
"""The kinds of faults that `skip_unreadable` lets a run skip."""

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Fault:
    """A fault of a sample at which training would stop."""

    kind: str
    """One of UNREADABLE; `image` or `label`: a readable file with invalid content; `size`: image
    and label differ in size; `exif`: because EXIF rotates the image; `values`: raw ids outside the
    map; `shard`: an unreadable part of a stream."""
    file: str
    """The path, or `sample ID` if the data set has no files."""
    text: str
    """The error message of training, which starts with the file."""
    values: Mapping[int, int] = field(default_factory=dict)
    """For the kind `values`: number of pixels of each raw id outside the map."""


@dataclass
class SampleFacts:
    """One sample of a split; what cannot be read keeps its default."""

    label_file: str
    """The path, or `sample ID`."""
    image_mode: str
    """Pillow's mode, as RGB; `other` if Pillow cannot open the file."""
    label_kind: str
    """The kind of label pixels, as `8 bit`, `palette`, `RGB`."""
    image_digest: bytes
    label_digest: bytes
    """Digests of the encoded files; empty if they cannot be read."""
    faults: list[Fault] = field(default_factory=list)
    """The first one is the error with which training stops."""
    image_size: Size | None = None
    """Size of the upright image."""
    turn_is_open: bool = False
    """Whether EXIF rotates the image, and it is not known whether it applies to the label."""
    upper: int | None = None
    """Largest upper byte of a 16-bit image; None if its number of used bits is known."""
    raw: Mapping[int, int] = field(default_factory=dict)
    """Number of pixels of each raw id."""
    classes: Counter[int] = field(default_factory=Counter)
    """Number of pixels of each class; 255 is ignored; ids outside the map are not counted."""
    print: bytes = b""
    """See `fingerprint`."""
    sums: tuple[tuple[int, int], ...] = ()
    """Sum of the pixels and sum of their squares, for each channel."""


def scan(sample: Sample, labels: LabelMap, num_channels: int = 3) -> SampleFacts:
    """Read a sample once and collect its facts and all its faults.

    Args:
        sample: the sample; its own label map, if any, overrides `labels`.
        labels: the label map of the data set.
        num_channels: number of channels that training would read of each image.
    """
    labels = sample.labels or labels
    label_file = name_of_label(sample)
    image_file = str(sample.image) if isinstance(sample.image, Path) else label_file
    most = sample.reading.max_bytes
    image, label = loaded(sample.image, most), loaded(sample.label, most)
    facts = SampleFacts(
        label_file=label_file,
        image_mode=_mode(image) or "other",
        label_kind=_label_kind(_mode(label)),
        image_digest=_digest(image),
        label_digest=_digest(label),
    )
    try:
        pixels = read_pixels(image, image_file, num_channels, sample.reading)
        facts.image_size = pixels.shape[1], pixels.shape[2]
        facts.turn_is_open = _turn_is_open(sample, facts.image_size, num_channels)
        facts.upper = unused_bits(sample, pixels)
        facts.print, facts.sums = fingerprint(pixels), tuple(map(_sums, pixels))
    except DataError as error:
        facts.faults.append(_fault("image", image_file, image, error))
    try:
        raw = raw_label(label, labels, label_file, sample.reading)
        facts.raw = counts(raw)
        for value, count in facts.raw.items():
            if value in labels.classes:
                facts.classes[labels.classes[value]] += count
        facts.faults += _wrong_values(raw, facts.raw, labels, label_file)
        size, shape = facts.image_size, (raw.shape[0], raw.shape[1])
        if size and size != shape:
            text = sizes_text(sample, label_file, shape, size, num_channels)
            kind = "exif" if is_turned(sample, shape, size, num_channels) else "size"
            facts.faults.append(Fault(kind, label_file, text))
    except DataError as error:
        facts.faults.append(_fault("label", label_file, label, error))
    return facts


Encoded = TypeVar("Encoded", bytes | Path, bytes | Path | Drawn)


def loaded(source: Encoded, max_bytes: int = MAX_BYTES) -> Encoded:
    """Return the content of a file, or its path if reading fails, which is reported later."""
    try:
        if isinstance(source, bytes | Path):
            refuse_huge(source, max_bytes)
        return source if isinstance(source, bytes) else source.read_bytes()
    except (OSError, ValueError, DataError):
        return source


def _digest(source: bytes | Path | Drawn) -> bytes:
    return blake2b(source, digest_size=16).digest() if isinstance(source, bytes) else b""


def _mode(source: bytes | Path | Drawn) -> str:
    """Return Pillow's mode of an image file; an empty string if Pillow cannot open it."""
    try:
        with opened(encoded(source)) as picture:
            return picture.mode
    except Exception:  # Pillow may raise anything for a damaged file, which is reported elsewhere
        return ""


def _label_kind(mode: str) -> str:
    return "16 bit" if mode.startswith("I;16") else LABEL_KINDS.get(mode, mode or "other")


def _turn_is_open(sample: Sample, size: Size, num_channels: int) -> bool:
    """Return whether EXIF rotates an image, and nothing shows whether it applies to the label.

    If height and width differ and are exchanged, the size of the label shows it.
    """
    if sample.reading.exif or num_channels not in MODES:
        return False
    turn = turn_of(sample.image)
    return turn in BACK and (turn not in LYING or size[0] == size[1])


def _fault(
    which: Literal["image", "label"], file: str, source: bytes | Path | Drawn, error: DataError
) -> Fault:
    """Return the fault for an error of `segacc.data.decode`."""
    if not isinstance(error, UnreadableError):
        return Fault(which, file, str(error))
    missing = isinstance(source, Path) and not source.exists()
    first = 0 if missing else 2
    return Fault(UNREADABLE[first + (which == "label")], file, str(error))


def _wrong_values(
    raw: NDArray[Any], found: Mapping[int, int], labels: LabelMap, file: str
) -> list[Fault]:
    """Return a fault with all raw ids outside the label map and their pixels, if any."""
    wrong = {value: pixels for value, pixels in found.items() if value not in labels.classes}
    if not wrong:
        return []
    try:
        labels.apply(raw, file)
    except DataError as error:
        return [Fault("values", file, str(error), wrong)]
    raise AssertionError("a label map applies to ids that it does not have")


def counts(raw: NDArray[Any]) -> dict[int, int]:
    """Count the pixels of each raw id of a label (H, W)."""
    if raw.dtype == np.uint8:
        return {value: pixels for value, pixels in enumerate(_histogram(raw)) if pixels}
    values, pixels = np.unique(raw, return_counts=True)
    return dict(zip(values.tolist(), pixels.tolist(), strict=True))


def _histogram(plane: NDArray[Any]) -> list[int]:
    """Count the 256 values in a plane (H, W) uint8, three times as fast as numpy's bincount."""
    return Image.fromarray(plane).histogram()


def _sums(plane: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the sum of the pixels of a plane (H, W), and the sum of their squares."""
    histogram, levels = np.array(_histogram(plane)), np.arange(256)
    return int(levels @ histogram), int(levels**2 @ histogram)


def fingerprint(pixels: NDArray[np.uint8]) -> bytes:
    """Return a hash and a thumbnail of an image (C, H, W) uint8, which near duplicates share.

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
    def colored(self) -> bool:
        """Whether there are labels of several channels, as those in colours are."""
        return bool(self.label_kinds.keys() - {*LABEL_KINDS.values(), "16 bit", "other"})

    @property
    def read(self) -> int:
        """Number of samples that were read."""
        return len(self.ids)

    def add(self, sample: Sample, facts: SampleFacts) -> None:
        """Add the facts of one sample."""
        self.ids.append(sample.id)
        self.faults += facts.faults
        self.pixels.update(facts.classes)
        self.images.update(facts.classes.keys())
        self.raw.update(facts.raw)
        labelled = [k for k in facts.classes if k != IGNORE]
        if facts.raw and facts.classes[IGNORE] == sum(facts.raw.values()):
            self.all_ignored.append(facts.label_file)
        elif len(labelled) == 1:
            self.constant[labelled[0]] += 1
        if facts.image_size:
            self.sizes[facts.image_size] += 1
            old = self.sums or [(0, 0)] * len(facts.sums)
            self.sums = [(a + c, b + d) for (a, b), (c, d) in zip(old, facts.sums, strict=True)]
        # Damaged files have no kind, but a TIFF that Pillow cannot open counts as `other`.
        if facts.image_digest and (facts.image_size or facts.image_mode != "other"):
            self.image_modes[facts.image_mode] += 1
        if facts.label_digest and (facts.raw or facts.label_kind != "other"):
            self.label_kinds[facts.label_kind] += 1
        self.open_turns += [sample.id] if facts.turn_is_open else []
        self.uppers += [] if facts.upper is None else [facts.upper]
        self.files.append(str(sample.image) if isinstance(sample.image, Path) else "")
        self.image_digests.append(facts.image_digest)
        self.label_digests.append(facts.label_digest if len(labelled) > 1 else b"")
        self.prints.append(facts.print)

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

    @property
    def labelled(self) -> int:
        """Number of pixels that have a class."""
        return self.pixels.total() - self.pixels[IGNORE]

    @property
    def ignored_share(self) -> float:
        """Share of ignored pixels among those whose id is in the map, 0..1."""
        return self.pixels[IGNORE] / self.pixels.total() if self.pixels.total() else 0.0

    def ignored(self, labels: LabelMap) -> str:
        """Return the share of ignored pixels, and their raw ids: `2.50 % (raw id 11)`."""
        ids = [raw for raw in labels.ignored if self.raw[raw]]
        told = f" ({labels.told(ids)})" if ids else ""
        return f"{100 * self.ignored_share:.2f} %{told}"

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
