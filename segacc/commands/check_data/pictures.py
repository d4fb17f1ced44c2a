"""Pictures of a data set: how much there is of each class, samples, and how training sees them."""

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
"""Of a sheet, in pixels."""
NAMES, NUMBERS, BAR = 190, 210, 11
"""Widths of the names and the numbers beside the bars, and a bar's height, in pixels."""
DECADES = 5
"""Powers of ten that a bar covers: from a thousandth of a percent to all pixels."""
MOST = 40
"""Classes that are drawn; of more, the most frequent ones."""
NAMED = 130
"""Letters in a line of augmentations."""
GRID = (225, 225, 225)
TURNS = 5
"""What training would make of a sample, so many times."""


def draw_check(found: Findings, path: Path) -> None:
    """Write a sheet: the share of each class by split, and samples with their labels.

    The file appears whole or not at all; its folder is made when it is missing.
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
    """Read image (H, W, 3) and classes (H, W), both uint8; the sample has no fault."""
    given = sample.labels or labels
    classes = given.apply(raw_label(sample.label, given, sample.id), sample.id)
    return _shown(read_pixels(sample.image, sample.id, num_channels, sample.reading)), classes


def _shown(pixels: Pixels) -> Pixels:
    """Turn (C, H, W) of any number of channels into (H, W, 3)."""
    three = pixels[:3] if len(pixels) >= 3 else pixels[:1].repeat(3, axis=0)
    return np.ascontiguousarray(np.moveaxis(three, 0, -1))


def blend(image: Pixels, classes: Pixels, palette: Sequence[Color]) -> Pixels:
    """Lay class colours over a picture (H, W, 3); ignored pixels bear grey stripes."""
    mixed = 0.45 * image + 0.55 * colorize(classes, palette)
    return np.rint(mixed).astype(np.uint8)


def _fitted(image: Pixels, column: int) -> Image.Image:
    """Scale a picture (H, W, 3) to the width of a column, or to its square where it is tall."""
    picture = Image.fromarray(image)
    return picture.resize(_size(picture, column), Image.Resampling.LANCZOS)


def _labelled(image: Pixels, classes: Pixels, palette: Sequence[Color], column: int) -> Image.Image:
    """Scale a picture and its label, and lay the one over the other."""
    small = _fitted(image, column)
    ids = Image.fromarray(classes).resize(small.size, Image.Resampling.NEAREST)
    return Image.fromarray(blend(np.asarray(small), np.asarray(ids), palette))


def _size(picture: Image.Image, column: int) -> tuple[int, int]:
    scale = min(column / picture.width, column / picture.height)
    return max(1, round(scale * picture.width)), max(1, round(scale * picture.height))


def _row(tiles: Sequence[Image.Image], column: int) -> Image.Image:
    """Put tiles beside each other in columns."""
    width = len(tiles) * (column + GAP) - GAP
    row = Image.new("RGB", (width, max(tile.height for tile in tiles)), PAPER)
    for place, tile in enumerate(tiles):
        row.paste(tile, (place * (column + GAP), 0))
    return row


def _chart(found: Findings, width: int) -> list[Image.Image]:
    """Draw a bar for each class and split on a logarithmic scale, under a line that says so."""
    labels, splits = found.data.labels, [one for one in found.splits.values() if one.labelled]
    if not splits:
        return [text_strip(["no pixel of any split is of a class"], width, 15)]
    order = sorted(range(len(labels.names)), key=lambda k: -max(one.share(k) for one in splits))
    shown = sorted(order[:MOST])
    left_out = f"; the {MOST} most frequent of {len(order)} classes" if len(order) > MOST else ""
    title = f"share of the labelled pixels, from 0.001 % to 100 %, each line ten times{left_out}"
    height = len(splits) * (BAR + 2) + 6
    chart = Image.new("RGB", (width, len(shown) * height), PAPER)
    draw = ImageDraw.Draw(chart)
    for decade in range(DECADES + 1):
        x = NAMES + decade * (width - NAMES - NUMBERS) // DECADES
        draw.line((x, 0, x, chart.height), GRID)
    for turn, k in enumerate(shown):
        draw.text((0, turn * height), labels.names[k][:26], INK, text_font(13))
        for place, facts in enumerate(splits):
            y = turn * height + place * (BAR + 2)
            _bar(draw, (width, y), facts, k, labels.palette[k])
    return [text_strip([title], width, 15), chart]


def bar_length(share: float, full: int) -> int:
    """Return the pixels of a bar for a share 0..1; `full` is that of 1, 0 that of 0.001 %."""
    return round(full * min(1.0, max(0.0, 1 + math.log10(share) / DECADES))) if share else 0


def _bar(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], facts: SplitFacts, k: int, color: Color
) -> None:
    """Draw one bar with its numbers; `place` is the chart's width and the bar's top."""
    width, y = place
    length = bar_length(facts.share(k), width - NAMES - NUMBERS)
    if length:
        draw.rectangle((NAMES, y, NAMES + length, y + BAR), color, outline=INK)
    told = f"{facts.name}: {100 * facts.share(k):.3f} %, {count_of(facts.images[k], 'image')}"
    if not facts.pixels[k]:
        told = f"{facts.name}: -"
    draw.text((width - NUMBERS + GAP, y), told[:34], INK, text_font(11))


def draw_augmented(found: Findings, chosen: Sequence[Chosen], path: Path) -> None:
    """Write a sheet with two rows for each of some samples: as it is, then as training sees it.

    The upper row has the images, the lower one their labels laid over them.

    The first epochs of a run with this seed would show these very pictures, unless it draws samples
    by chances, streams them, or passes over some with faults.

    Raises:
        SegaccError: there is no sample without a fault, or an augmentation cannot be built.
    """
    facts = found.splits.get(found.data.config.train_split)
    if facts is None or not facts.examples:
        raise DataError("--show-augmented: the training split has no sample without a fault.")
    data, places = _training(found, facts, chosen)
    labels = found.data.labels
    column = (WIDTH - 2 * GAP - TURNS * GAP) // (TURNS + 1)
    heads = ("original", *(f"epoch {turn + 1}" for turn in range(TURNS)))
    named = textwrap.wrap(", ".join(one.text for one in chosen) or "none", NAMED)
    titles = (f"augmentations: {named[0]}", *named[1:])
    parts = [text_strip([title], WIDTH - 2 * GAP, 15) for title in titles]
    parts.append(text_strip(heads, column, 15))
    used = set[int]()
    for place, (_, sample) in zip(places, facts.examples, strict=True):
        given = _pixels(sample, labels, data.source.num_channels)
        pairs = [given, *(augmented(data, epoch, place) for epoch in range(TURNS))]
        used |= {int(k) for _, classes in pairs for k in np.unique(classes)}
        parts.append(_row([_fitted(image, column) for image, _ in pairs], column))
        parts.append(_row([_labelled(*pair, labels.palette, column) for pair in pairs], column))
        parts.append(text_strip([sample.id], WIDTH - 2 * GAP, 12))
    parts.append(legend(labels.names, labels.palette, used, WIDTH - 2 * GAP))
    write_picture(stacked(parts, WIDTH), path)


def _training(
    found: Findings, facts: SplitFacts, chosen: Sequence[Chosen]
) -> tuple["TrainData", list[int]]:
    """Build the training data, and say where in it the examples are.

    Of a split that is streamed or has faults it is made of the examples alone.
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
    built = [(one.record, one.options, one.record.build(one.options, told)) for one in chosen]
    samples, places = found.data.splits[facts.name], [place for place, _ in facts.examples]
    if isinstance(samples, Stream) or facts.faults:
        samples = [sample for _, sample in facts.examples]
        places = list(range(len(samples)))
    source = Source(samples, labels, config.num_channels)
    pipeline = Pipeline.of(built, num_classes=told.num_classes)
    return TrainData(source, pipeline, Order(len(samples), seed=config.seed)), places


def augmented(data: "TrainData", epoch: int, place: int) -> tuple[Pixels, Pixels]:
    """Return what training sees of a sample in an epoch: image (H, W, 3), classes (H, W), uint8.

    Raises:
        SegaccError: an augmentation refuses it.
    """
    from segacc.data.batches import collate

    batch = collate([data[(epoch, place)]])
    if isinstance(batch, Exception):
        raise batch
    batch, seeds = batch.laid_out(), [seed for _, seed, _ in batch.items]
    images, classes = data.pipeline.on_device(batch.images, batch.labels, batch.drawn, seeds)
    image = images[0].float().round().clamp(0, 255).byte()
    return _shown(image.numpy()), classes[0].numpy()
