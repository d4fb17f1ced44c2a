"""Pictures of a data set: class shares, samples with labels, and augmented samples."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segacc.commands.check_data.check import Findings
from segacc.contracts import Drawn, Facts
from segacc.data.decode import raw_label, read_pixels
from segacc.data.pictures import (
    GAP,
    INK,
    PAPER,
    Pixels,
    blend,
    classes_in,
    legend,
    resized,
    stacked,
    text_font,
    text_strip,
    tile_row,
    visible,
    write_picture,
)
from segacc.data.scan import EXAMPLES, SplitFacts
from segacc.errors import DataError, count_of
from segacc.hookspecs import Chosen, Sample, Stream
from segacc.labels import Color, LabelMap

if TYPE_CHECKING:
    from segacc.data.batches import TrainData

WIDTH = 1240
"""Width of a picture in pixels."""
INSIDE = WIDTH - 2 * GAP
NAMES, SPLITS, NUMBERS, BAR = 190, 80, 140, 11
"""Widths of the names of classes and of splits left of the bars and of the numbers right of them,
and height of a bar, in pixels."""
LEFT = NAMES + SPLITS
FULL = INSIDE - LEFT - NUMBERS
"""Length of the longest bar in pixels."""
DECADES = 5
"""Powers of ten that a bar covers: from a thousandth of a percent to all pixels."""
AXIS = 16
"""Height of the numbers of the axis in pixels."""
MOST = 40
"""Maximum number of classes that are drawn, the most frequent ones."""
NAMED = 130
"""Maximum number of characters in a line of augmentations."""
GRID = (225, 225, 225)
OUTLINE = (255, 255, 255)
"""Colour of the outlines of annotation files."""
TURNS = 5
"""Number of augmented versions of each sample."""
Pair = tuple[Pixels, Pixels]
"""Image (H, W, 3) and classes (H, W), both uint8."""


def draw_check(found: Findings, path: Path) -> None:
    """Write a picture with the share of each class by split, and samples with their labels.

    The file is replaced atomically; its folder is created if missing.
    """
    labels, config = found.data.labels, found.data.config
    parts = [text_strip([found.data.dataset.text], INSIDE, 18), *_chart(found)]
    used = set[int]()
    for name, facts in found.splits.items():
        pairs = [_pixels(sample, labels, config.num_channels) for _, sample in facts.examples]
        if not pairs:
            continue
        used |= classes_in(classes for _, classes in pairs)
        column = (INSIDE - (EXAMPLES - 1) * GAP) // EXAMPLES
        parts.append(text_strip([f"{name}: {facts.read} samples read"], INSIDE, 15))
        outlines = [_outlines(sample) for _, sample in facts.examples]
        parts += _rows(pairs, labels.palette, column, outlines)
        parts.append(text_strip([sample.id for _, sample in facts.examples], column, 12))
    if used:
        parts.append(legend(labels.names, labels.palette, used, INSIDE))
    write_picture(stacked(parts, WIDTH), path)


def _pixels(sample: Sample, labels: LabelMap, num_channels: int) -> Pair:
    """Read the image and the classes of a sample without faults."""
    given = sample.labels or labels
    raw = raw_label(sample.label, given, sample.id, sample.reading)
    classes = given.apply(raw, sample.id)
    return visible(read_pixels(sample.image, sample.id, num_channels, sample.reading)), classes


def _outlines(sample: Sample) -> Sequence[NDArray[np.float64]]:
    """Return the outlines of the shapes that the label is drawn from, if any, as x and y."""
    return sample.label.outlines() if isinstance(sample.label, Drawn) else ()


def _rows(
    pairs: Sequence[Pair],
    palette: Sequence[Color],
    column: int,
    outlines: Sequence[Sequence[NDArray[np.float64]]] = (),
) -> list[Image.Image]:
    """Draw a row of images, and a row of the same images with their labels and outlines."""
    small = [[resized(pixels, column, column) for pixels in pair] for pair in pairs]
    images = [Image.fromarray(image) for image, _ in small]
    labelled = [Image.fromarray(blend(image, classes, palette)) for image, classes in small]
    for tile, (whole, _), polygons in zip(labelled, pairs, outlines, strict=False):
        draw, scale = ImageDraw.Draw(tile), tile.width / whole.shape[1]
        for corners in polygons:
            # The centre of a pixel is at 0.5 in the annotation, and at 0 for Pillow's lines.
            closed = np.concatenate([corners, corners[:1]]) * scale - 0.5
            draw.line([(x, y) for x, y in closed.tolist()], OUTLINE)
    return [tile_row(images, column), tile_row(labelled, column)]


def _chart(found: Findings) -> list[Image.Image]:
    """Draw a bar for each class and split on a logarithmic scale, under a title."""
    labels, splits = found.data.labels, [one for one in found.splits.values() if one.labelled]
    if not splits:
        return [text_strip(["no split has a pixel of any class"], INSIDE, 15)]
    order = sorted(range(len(labels.names)), key=lambda k: -max(one.share(k) for one in splits))
    shown = sorted(order[:MOST])
    left_out = f"; the {MOST} most frequent of {len(order)} classes" if len(order) > MOST else ""
    title = f"share of the labelled pixels by class, on a logarithmic scale{left_out}"
    height = len(splits) * (BAR + 2) + 6
    chart = Image.new("RGB", (INSIDE, AXIS + len(shown) * height), PAPER)
    draw = ImageDraw.Draw(chart)
    for decade in range(DECADES + 1):
        x = LEFT + decade * FULL // DECADES
        draw.text((x, 0), f"{10.0 ** (decade - DECADES + 2):g} %", INK, text_font(11), anchor="ma")
        draw.line((x, AXIS, x, chart.height), GRID)
    for turn, k in enumerate(shown):
        top = AXIS + turn * height
        draw.text((0, top), labels.names[k][:26], INK, text_font(13))
        for index, facts in enumerate(splits):
            _bar(draw, top + index * (BAR + 2), facts, k, labels.palette[k])
    return [text_strip([title], INSIDE, 15), chart]


def bar_length(share: float, full: int) -> int:
    """Return the length of a bar in pixels for a share 0..1: `full` for 1, and 0 for 0.001 %."""
    return round(full * min(1.0, max(0.0, 1 + math.log10(share) / DECADES))) if share else 0


def _bar(draw: ImageDraw.ImageDraw, y: int, facts: SplitFacts, k: int, color: Color) -> None:
    """Draw one bar with its numbers; `y` is its top."""
    draw.text((LEFT - GAP // 2, y), facts.name[:14], INK, text_font(11), anchor="ra")
    if length := bar_length(facts.share(k), FULL):
        draw.rectangle((LEFT, y, LEFT + length, y + BAR), color, outline=INK)
    told = f"{100 * facts.share(k):.3f} %, {count_of(facts.images[k], 'image')}"
    told = told if facts.pixels[k] else "-"
    draw.text((INSIDE - NUMBERS + GAP, y), told[:26], INK, text_font(11))


def draw_augmented(found: Findings, chosen: Sequence[Chosen], path: Path) -> None:
    """Write a picture of some samples, each in its original form and augmented as in training.

    Each sample has a row of images and a row of the same images with labels overlaid.

    The first epochs of a run with this seed have exactly these augmented samples, unless the run
    samples by weights, streams, or skips unreadable files.

    Raises:
        SegaccError: there is no sample without a fault, or an augmentation cannot be built.
    """
    facts = found.splits.get(found.data.config.train_split)
    if facts is None or not facts.examples:
        raise DataError("--show-augmented: the training split has no sample without a fault.")
    data, indices = _training(found, facts, chosen)
    labels = found.data.labels
    column = (INSIDE - TURNS * GAP) // (TURNS + 1)
    heads = ("original", *(f"epoch {turn + 1}" for turn in range(TURNS)))
    title = f"augmentations: {', '.join(one.text for one in chosen) or 'none'}"
    parts = [text_strip([line], INSIDE, 15) for line in textwrap.wrap(title, NAMED)]
    parts.append(text_strip(heads, column, 15))
    used = set[int]()
    for index, (_, sample) in zip(indices, facts.examples, strict=True):
        given = _pixels(sample, labels, data.source.num_channels)
        pairs = [given, *(augmented(data, epoch, index) for epoch in range(TURNS))]
        used |= classes_in(classes for _, classes in pairs)
        parts += _rows(pairs, labels.palette, column)
        parts.append(text_strip([sample.id], INSIDE, 12))
    parts.append(legend(labels.names, labels.palette, used, INSIDE))
    write_picture(stacked(parts, WIDTH), path)


def _training(
    found: Findings, facts: SplitFacts, chosen: Sequence[Chosen]
) -> tuple["TrainData", list[int]]:
    """Build the training data; return it and the indices of the examples in it.

    For a stream, or a split with faults, it contains only the examples.
    """
    from segacc.data.augment import Pipeline
    from segacc.data.batches import Source, TrainData
    from segacc.data.order import Order

    labels, config = found.data.labels, found.data.config
    told = Facts(
        num_classes=len(labels.names),
        class_names=labels.names,
        crop_size=found.data.crop_size,
        num_channels=config.num_channels,
        seed=config.seed,
        class_shares=tuple(facts.share(k) for k in range(len(labels.names))),
    )
    samples, indices = found.data.splits[facts.name], [index for index, _ in facts.examples]
    if isinstance(samples, Stream) or facts.faults:
        samples = [sample for _, sample in facts.examples]
        indices = list(range(len(samples)))
    source = Source(samples, labels, config.num_channels)
    return TrainData(
        source, Pipeline.of(chosen, told), Order(len(samples), seed=config.seed)
    ), indices


def augmented(data: "TrainData", epoch: int, index: int) -> Pair:
    """Return a sample as augmented in an epoch.

    Raises:
        SegaccError: an augmentation refuses it.
    """
    from segacc.data.items import collate

    batch = collate([data[(epoch, index)]])
    if isinstance(batch, Exception):
        raise batch
    batch = data.pipeline.on_device(batch)
    image = batch.images[0].float().round().clamp(0, 255).byte()
    return visible(image), batch.labels[0].numpy()
