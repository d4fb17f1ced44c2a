"""Rendered pictures: validation panels, and overlays with a legend."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from segacc.contracts import IGNORE
from segacc.data.atomic import replacing
from segacc.labels import Color

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]

SOFTWARE = "segacc"
"""The author in PNG files, by which `predict` knows which files it may replace."""
COMPRESSION = 3
"""zlib's level of PNG files: half the time of its default, and photographs are as small."""
TILE = 256
"""Height of an image in a panel, in pixels; the width is at most twice this."""
GAP = 12
PAPER, INK, WRONG = (255, 255, 255), (30, 30, 30), (255, 0, 40)
HATCH = np.array([[205, 205, 205], [165, 165, 165]], np.uint8)
"""The two greys of the stripes on ignored pixels."""
HEADINGS = ("image", "truth", "prediction", "error")
"""The tiles of an example, from left to right."""
ROWS = "segacc"
"""Text in the PNG of a panel: JSON with id, caption and the boxes of the tiles of each example."""


@dataclass(frozen=True)
class Example:
    """One image of the fixed validation examples in pictures/step-N.png."""

    id: str
    image: "Tensor"
    """(C, H, W) uint8."""
    label: "Tensor"
    """(H, W) uint8, 255 ignored."""
    prediction: "Tensor"
    """(H, W) uint8."""


def colorize(classes: Pixels, palette: Sequence[Color]) -> Pixels:
    """Colour classes (H, W) uint8 as (H, W, 3) uint8; ignored pixels (255) become grey stripes."""
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[: len(palette)] = palette
    return np.where((classes == IGNORE)[..., None], _stripes(classes.shape), table[classes])


def _stripes(shape: tuple[int, ...]) -> Pixels:
    diagonals = np.add.outer(*(np.arange(side, dtype=np.int32) for side in shape))
    return cast(Pixels, HATCH[diagonals // 4 % 2])


def blend(
    image: Pixels, classes: Pixels, palette: Sequence[Color], *, alpha: float = 0.55
) -> Pixels:
    """Blend class colours into an image, and grey stripes into ignored pixels.

    Args:
        image: (H, W, 3) uint8.
        classes: (H, W) uint8.
        palette: K RGB colours, 0..255.
        alpha: opacity of the colours, 0..1.

    Returns:
        (H, W, 3) uint8.
    """
    return np.rint((1 - alpha) * image + alpha * colorize(classes, palette)).astype(np.uint8)


def overlay(
    image: Pixels, prediction: Pixels, palette: Sequence[Color], *, alpha: float = 0.55
) -> Pixels:
    """Blend class colours into an image like `blend`, but leave ignored pixels unchanged."""
    kept = (prediction == IGNORE)[..., None]
    return np.where(kept, image, blend(image, prediction, palette, alpha=alpha))


def errors(image: Pixels, label: Pixels, prediction: Pixels) -> Pixels:
    """Show where a prediction is wrong: (H, W, 3) uint8.

    Correct pixels show the image in dim grey, wrong ones are red, ignored ones grey stripes.
    `image` is (H, W, 3), `label` and `prediction` are (H, W), all uint8.
    """
    grey = (0.45 * image.mean(axis=2, keepdims=True) + 20).astype(np.uint8).repeat(3, axis=2)
    grey[label != prediction] = WRONG
    return np.where((label == IGNORE)[..., None], _stripes(label.shape), grey)


def legend(
    names: Sequence[str], palette: Sequence[Color], used: Iterable[int], width: int
) -> Image.Image:
    """Draw colour squares and names of the classes in `used`, in rows of at most `width` pixels.

    The value 255 in `used` is labelled `ignored`. A name longer than a row is truncated.
    """
    font = text_font(max(13, width // 90))
    side = round(1.2 * font.size)
    rows: list[list[tuple[int, str]]] = [[]]
    x = 0
    for k in sorted(used):
        name = _fit("ignored" if k == IGNORE else names[k], font, width - 2 * side)
        advance = round(font.getlength(name)) + 3 * side
        if rows[-1] and x + advance - side > width:
            rows.append([])
            x = 0
        rows[-1].append((k, name))
        x += advance
    picture = Image.new("RGB", (width, len(rows) * round(1.6 * side)), PAPER)
    for number, row in enumerate(rows):
        _legend_row(picture, row, palette, font, number * round(1.6 * side))
    return picture


def _legend_row(
    picture: Image.Image,
    row: Sequence[tuple[int, str]],
    palette: Sequence[Color],
    font: ImageFont.FreeTypeFont,
    y: int,
) -> None:
    side, x = round(1.2 * font.size), 0
    draw = ImageDraw.Draw(picture)
    for k, name in row:
        swatch = colorize(np.full((side, side), k, np.uint8), palette)
        picture.paste(Image.fromarray(swatch), (x, y + side // 5))
        draw.rectangle((x, y + side // 5, x + side - 1, y + side // 5 + side - 1), outline=INK)
        draw.text((x + 1.4 * side, y + 0.7 * side), name, INK, font, anchor="lm")
        x += round(font.getlength(name)) + 3 * side


def text_font(size: float) -> ImageFont.FreeTypeFont:
    """Return the font of captions and legends, which is part of matplotlib."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Truncate a text to `width` pixels, with an ellipsis at the end."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def draw_prediction(
    image: Pixels, prediction: Pixels, names: Sequence[str], palette: Sequence[Color]
) -> Image.Image:
    """Draw the overlay of an image (H, W, 3) and a prediction (H, W), with a legend below."""
    picture = Image.fromarray(overlay(image, prediction, palette))
    used = np.unique(prediction).tolist()
    width = max(picture.width, 240)
    return stacked([picture, legend(names, palette, used, width - 2 * GAP)], width, first=0)


def draw_examples(
    examples: Sequence[Example],
    *,
    names: Sequence[str],
    palette: Sequence[Color],
    path: Path,
    title: str,
    captions: Sequence[str] = (),
) -> None:
    """Write a panel with a row per example: image, truth, prediction, error; a legend below.

    The file is written atomically; its folder is created if necessary. Each row has a caption, by
    default the id and the percentage of correct pixels.
    """
    captions = captions or [_caption(example) for example in examples]
    rows = [_tiles(example, palette) for example in examples]
    column = max(tile.width for row in rows for tile in row)
    width = 4 * column + 5 * GAP
    headings = (*HEADINGS[:3], f"{HEADINGS[3]} (wrong pixels red)")
    parts = [text_strip([title], width, 18), text_strip(headings, column, 15)]
    for caption, row in zip(captions, rows, strict=True):
        parts += [text_strip([caption], width - 2 * GAP, 13), tile_row(row, column)]
    ids = [part.numpy() for e in examples for part in (e.label, e.prediction)]
    parts.append(legend(names, palette, classes_in(ids), width - 2 * GAP))
    notes = _row_notes(examples, captions, rows, parts)
    write_picture(stacked(parts, width), path, notes=notes)


def _row_notes(
    examples: Sequence[Example],
    captions: Sequence[str],
    rows: Sequence[Sequence[Image.Image]],
    parts: Sequence[Image.Image],
) -> str:
    """Return the text ROWS of a panel whose parts are two strips, then two parts per example."""
    column = max(tile.width for row in rows for tile in row)
    tops = [GAP + sum(part.height + GAP // 2 for part in parts[:k]) for k in range(len(parts))]
    notes = []
    for example, caption, row, top in zip(examples, captions, rows, tops[3::2], strict=False):
        lefts = (GAP + k * (column + GAP) for k in range(len(row)))
        boxes = [
            [x, top, x + tile.width, top + tile.height] for x, tile in zip(lefts, row, strict=True)
        ]
        notes.append({"id": example.id, "caption": caption, "boxes": boxes})
    return json.dumps(notes)


@dataclass(frozen=True)
class Panel:
    """An example in a panel that `draw_examples` wrote."""

    id: str
    caption: str
    tiles: dict[str, Image.Image]
    """By HEADINGS: image, truth, prediction and error, of one size."""


def read_panels(path: Path) -> list[Panel]:
    """Read the examples of a panel; none if another version of segacc wrote it.

    Raises:
        OSError: it is not a picture.
    """
    with Image.open(path) as picture:
        notes = json.loads(picture.info.get(ROWS, "[]"))
        return [
            Panel(
                note["id"],
                note["caption"],
                {
                    name: picture.crop(box).convert("RGB")
                    for name, box in zip(HEADINGS, note["boxes"], strict=True)
                },
            )
            for note in notes
        ]


def visible(image: "Tensor | Pixels") -> Pixels:
    """Convert an image (C, H, W) uint8 with any number of channels to (H, W, 3) uint8."""
    pixels = np.asarray(image)
    three = pixels[:3] if len(pixels) >= 3 else pixels[:1].repeat(3, axis=0)
    return np.ascontiguousarray(np.moveaxis(three, 0, -1))


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize an image (H, W, 3) or classes (H, W) to fit in `width` x `height` pixels."""
    picture = Image.fromarray(pixels)
    scale = min(height / picture.height, width / picture.width)
    size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    smooth = pixels.ndim == 3
    return np.array(
        picture.resize(size, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
    )


def classes_in(labels: Iterable[Pixels]) -> set[int]:
    """Return the classes that occur in some labels."""
    return {int(k) for classes in labels for k in np.unique(classes)}


def shrunk(example: Example) -> Example:
    """Resize an example to its size in a panel, and its image to RGB.

    An example of that size is returned unchanged.
    """
    import torch

    image, label, prediction = (
        torch.from_numpy(resized(pixels, 2 * TILE, TILE))
        for pixels in (visible(example.image), example.label.numpy(), example.prediction.numpy())
    )
    return Example(example.id, image.permute(2, 0, 1), label, prediction)


def _tiles(example: Example, palette: Sequence[Color]) -> list[Image.Image]:
    """Return image, truth, prediction and error in the same size."""
    small = shrunk(example)
    image, label, prediction = visible(small.image), small.label.numpy(), small.prediction.numpy()
    pixels = (image, colorize(label, palette), colorize(prediction, palette))
    return [Image.fromarray(tile) for tile in (*pixels, errors(image, label, prediction))]


def _caption(example: Example) -> str:
    valid = example.label != IGNORE
    right = (example.label == example.prediction)[valid].float().mean().item()
    return f"{example.id}: {100 * right:.1f} % of pixels correct" if valid.any() else example.id


def text_strip(texts: Sequence[str], column: int, size: int) -> Image.Image:
    """Draw texts into columns of `column` pixels."""
    font = text_font(size)
    strip = Image.new("RGB", (len(texts) * (column + GAP), round(1.3 * size)), PAPER)
    draw = ImageDraw.Draw(strip)
    for index, text in enumerate(texts):
        x = index * (column + GAP)
        draw.text((x, 0.65 * size), _fit(text, font, column), INK, font, anchor="lm")
    return strip


def tile_row(tiles: Sequence[Image.Image], column: int) -> Image.Image:
    """Put pictures next to each other in columns of `column` pixels."""
    width = len(tiles) * (column + GAP) - GAP
    row = Image.new("RGB", (width, max(tile.height for tile in tiles)), PAPER)
    for index, tile in enumerate(tiles):
        row.paste(tile, (index * (column + GAP), 0))
    return row


def stacked(parts: Sequence[Image.Image], width: int, *, first: int = GAP) -> Image.Image:
    """Stack pictures vertically on a white page, the first one `first` pixels from the edges."""
    height = first + sum(part.height + GAP // 2 for part in parts) + GAP // 2
    paper = Image.new("RGB", (width, height), PAPER)
    x, y = first, first
    for part in parts:
        paper.paste(part, (x, y))
        x, y = GAP, y + part.height + GAP // 2
    return paper


def write_picture(picture: Image.Image, path: Path, *, notes: str = "") -> None:
    """Write a PNG atomically, with SOFTWARE as its author; its folder is created if necessary.

    Args:
        picture: the picture.
        path: the file.
        notes: ASCII text that is stored as ROWS.
    """
    about = PngInfo()
    about.add_text("Software", SOFTWARE)
    if notes:
        about.add_text(ROWS, notes)
    with replacing(path) as part:
        picture.save(part, format="PNG", pnginfo=about, compress_level=COMPRESSION)


def is_own(path: Path) -> bool:
    """Return whether a file is a PNG that `write_picture` wrote."""
    with path.open("rb") as file:
        return f"tEXtSoftware\0{SOFTWARE}".encode() in file.read(2048)
