"""Pictures of a data set: class shares, samples with labels, and augmented samples."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from segacc.commands.check_data.check import Findings
from segacc.commands.check_data.fixes import CROP
from segacc.commands.check_data.split_facts import EXAMPLES, SplitFacts
from segacc.contracts import Facts
from segacc.data.decode import raw_label, read_pixels
from segacc.data.pictures import (
    GAP,
    INK,
    PAPER,
    Pixels,
    colorize,
    legend,
    stacked,
    text_font,
    text_strip,
    write_picture,
)
from segacc.errors import DataError, count_of
from segacc.hookspecs import Chosen, Sample, Stream
from segacc.labels import Color, LabelMap

if TYPE_CHECKING:
    from segacc.data.batches import TrainData

WIDTH = 1240
"""Width of a picture in pixels."""
NAMES, NUMBERS, BAR = 190, 210, 11
"""Widths of the names and of the numbers next to the bars, and height of a bar, in pixels."""
DECADES = 5
"""Powers of ten that a bar covers: from a thousandth of a percent to all pixels."""
MOST = 40
"""Maximum number of classes that are drawn, the most frequent ones."""
NAMED = 130
"""Maximum number of characters in a line of augmentations."""
GRID = (225, 225, 225)
TURNS = 5
"""Number of augmented versions of each sample."""


def draw_check(found: Findings, path: Path) -> None:
    """Write a picture with the share of each class by split, and samples with their labels.

    The file is replaced atomically; its folder is created if missing.
    """
    labels, config = found.data.labels, found.data.config
    inside = WIDTH - 2 * GAP
    parts = [text_strip([found.data.dataset.text], inside, 18), *_chart(found, inside)]
    used = set[int]()
    for name, facts in found.splits.items():
        pairs = [_pixels(sample, labels, config.num_channels) for _, sample in facts.examples]
        if not pairs:
            continue
        used |= {int(k) for _, classes in pairs for k in np.unique(classes)}
        column = (inside - (EXAMPLES - 1) * GAP) // EXAMPLES
        rows = [
            [_fitted(image, column) for image, _ in pairs],
            [_labelled(*pair, labels.palette, column) for pair in pairs],
        ]
        parts.append(text_strip([f"{name}: {facts.read} samples read"], inside, 15))
        parts += [_row(tiles, column) for tiles in rows]
        parts.append(text_strip([sample.id for _, sample in facts.examples], column, 12))
    if used:
        parts.append(legend(labels.names, labels.palette, used, inside))
    write_picture(stacked(parts, WIDTH), path)


def _pixels(sample: Sample, labels: LabelMap, num_channels: int) -> tuple[Pixels, Pixels]:
    """Read the image (H, W, 3) and the classes (H, W), both uint8, of a sample without faults."""
    given = sample.labels or labels
    classes = given.apply(raw_label(sample.label, given, sample.id), sample.id)
    return _shown(read_pixels(sample.image, sample.id, num_channels, sample.reading)), classes


def _shown(pixels: Pixels) -> Pixels:
    """Convert pixels (C, H, W) with any number of channels to (H, W, 3)."""
    three = pixels[:3] if len(pixels) >= 3 else pixels[:1].repeat(3, axis=0)
    return np.ascontiguousarray(np.moveaxis(three, 0, -1))


def blend(image: Pixels, classes: Pixels, palette: Sequence[Color]) -> Pixels:
    """Overlay class colours on an image (H, W, 3); ignored pixels have grey stripes."""
    mixed = 0.45 * image + 0.55 * colorize(classes, palette)
    return np.rint(mixed).astype(np.uint8)


def _fitted(image: Pixels, column: int) -> Image.Image:
    """Resize an image (H, W, 3) to fit in the square of a column."""
    picture = Image.fromarray(image)
    return picture.resize(_size(picture, column), Image.Resampling.LANCZOS)


def _labelled(image: Pixels, classes: Pixels, palette: Sequence[Color], column: int) -> Image.Image:
    """Resize an image and its label, and overlay the label."""
    small = _fitted(image, column)
    ids = Image.fromarray(classes).resize(small.size, Image.Resampling.NEAREST)
    return Image.fromarray(blend(np.asarray(small), np.asarray(ids), palette))


def _size(picture: Image.Image, column: int) -> tuple[int, int]:
    scale = min(column / picture.width, column / picture.height)
    return max(1, round(scale * picture.width)), max(1, round(scale * picture.height))


def _row(tiles: Sequence[Image.Image], column: int) -> Image.Image:
    """Put tiles next to each other in columns."""
    width = len(tiles) * (column + GAP) - GAP
    row = Image.new("RGB", (width, max(tile.height for tile in tiles)), PAPER)
    for index, tile in enumerate(tiles):
        row.paste(tile, (index * (column + GAP), 0))
    return row


def _chart(found: Findings, width: int) -> list[Image.Image]:
    """Draw a bar for each class and split on a logarithmic scale, under a title."""
    labels, splits = found.data.labels, [one for one in found.splits.values() if one.labelled]
    if not splits:
        return [text_strip(["no split has a pixel of any class"], width, 15)]
    order = sorted(range(len(labels.names)), key=lambda k: -max(one.share(k) for one in splits))
    shown = sorted(order[:MOST])
    left_out = f"; the {MOST} most frequent of {len(order)} classes" if len(order) > MOST else ""
    title = f"pixel share per class, 0.001 % to 100 % (log scale, one grid line = x10){left_out}"
    height = len(splits) * (BAR + 2) + 6
    chart = Image.new("RGB", (width, len(shown) * height), PAPER)
    draw = ImageDraw.Draw(chart)
    for decade in range(DECADES + 1):
        x = NAMES + decade * (width - NAMES - NUMBERS) // DECADES
        draw.line((x, 0, x, chart.height), GRID)
    for turn, k in enumerate(shown):
        draw.text((0, turn * height), labels.names[k][:26], INK, text_font(13))
        for index, facts in enumerate(splits):
            y = turn * height + index * (BAR + 2)
            _bar(draw, (width, y), facts, k, labels.palette[k])
    return [text_strip([title], width, 15), chart]


def bar_length(share: float, full: int) -> int:
    """Return the length of a bar in pixels for a share 0..1: `full` for 1, and 0 for 0.001 %."""
    return round(full * min(1.0, max(0.0, 1 + math.log10(share) / DECADES))) if share else 0


def _bar(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], facts: SplitFacts, k: int, color: Color
) -> None:
    """Draw one bar with its numbers; `position` is the chart's width and the bar's top."""
    width, y = position
    length = bar_length(facts.share(k), width - NAMES - NUMBERS)
    if length:
        draw.rectangle((NAMES, y, NAMES + length, y + BAR), color, outline=INK)
    told = f"{facts.name}: {100 * facts.share(k):.3f} %, {count_of(facts.images[k], 'image')}"
    if not facts.pixels[k]:
        told = f"{facts.name}: -"
    draw.text((width - NUMBERS + GAP, y), told[:34], INK, text_font(11))


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
    column = (WIDTH - 2 * GAP - TURNS * GAP) // (TURNS + 1)
    heads = ("original", *(f"epoch {turn + 1}" for turn in range(TURNS)))
    named = textwrap.wrap(", ".join(one.text for one in chosen) or "none", NAMED)
    titles = (f"augmentations: {named[0]}", *named[1:])
    parts = [text_strip([title], WIDTH - 2 * GAP, 15) for title in titles]
    parts.append(text_strip(heads, column, 15))
    used = set[int]()
    for index, (_, sample) in zip(indices, facts.examples, strict=True):
        given = _pixels(sample, labels, data.source.num_channels)
        pairs = [given, *(augmented(data, epoch, index) for epoch in range(TURNS))]
        used |= {int(k) for _, classes in pairs for k in np.unique(classes)}
        parts.append(_row([_fitted(image, column) for image, _ in pairs], column))
        parts.append(_row([_labelled(*pair, labels.palette, column) for pair in pairs], column))
        parts.append(text_strip([sample.id], WIDTH - 2 * GAP, 12))
    parts.append(legend(labels.names, labels.palette, used, WIDTH - 2 * GAP))
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
        crop_size=found.data.crop_size or CROP,
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


def augmented(data: "TrainData", epoch: int, index: int) -> tuple[Pixels, Pixels]:
    """Return a sample as augmented in an epoch: image (H, W, 3) and classes (H, W), both uint8.

    Raises:
        SegaccError: an augmentation refuses it.
    """
    from segacc.data.items import collate

    batch = collate([data[(epoch, index)]])
    if isinstance(batch, Exception):
        raise batch
    batch = data.pipeline.on_device(batch)
    image = batch.images[0].float().round().clamp(0, 255).byte()
    return _shown(image.numpy()), batch.labels[0].numpy()
