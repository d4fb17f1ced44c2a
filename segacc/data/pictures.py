"""Pictures for people: validation panels, overlays with a legend."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segacc.contracts import IGNORE
from segacc.labels import Color

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]

TILE = 256
"""Height of a picture in a panel, in pixels; a wide one gets at most twice this width."""
GAP = 12
NEAREST = Image.Resampling.NEAREST
PAPER, INK, WRONG = (255, 255, 255), (30, 30, 30), (255, 0, 40)
HATCH = np.array([[205, 205, 205], [165, 165, 165]], np.uint8)
"""The two greys of the stripes that mark ignored pixels."""


@dataclass(frozen=True)
class Example:
    """One validation picture of the fixed set, for pictures/step-N.png."""

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
    rows, columns = np.indices(shape)
    return cast(Pixels, HATCH[(rows + columns) // 4 % 2])


def overlay(
    image: Pixels, prediction: Pixels, palette: Sequence[Color], *, alpha: float = 0.55
) -> Pixels:
    """Blend class colours into a picture.

    Args:
        image: (H, W, 3) uint8.
        prediction: (H, W) uint8; pixels of 255 stay as they are.
        palette: K RGB colours, 0..255.
        alpha: the colours' share, 0..1.

    Returns:
        (H, W, 3) uint8.
    """
    blend = (1 - alpha) * image + alpha * colorize(prediction, palette)
    kept = (prediction == IGNORE)[..., None]
    return np.where(kept, image, np.rint(blend).astype(np.uint8))


def errors(image: Pixels, label: Pixels, prediction: Pixels) -> Pixels:
    """Show where a prediction is wrong: (H, W, 3) uint8.

    Right pixels are the picture in dim grey, wrong ones red, ignored ones grey stripes. `image` is
    (H, W, 3), `label` and `prediction` are (H, W), all uint8.
    """
    grey = (0.45 * image.mean(axis=2, keepdims=True) + 20).astype(np.uint8).repeat(3, axis=2)
    grey[label != prediction] = WRONG
    return np.where((label == IGNORE)[..., None], _stripes(label.shape), grey)


def legend(
    names: Sequence[str], palette: Sequence[Color], used: Iterable[int], width: int
) -> Image.Image:
    """Draw colour squares and names of the classes in `used`, in rows of at most `width` pixels.

    The 255 in `used` is told as `ignored`. A name longer than a row ends in an ellipsis.
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
    """Return the font of captions and legends, which matplotlib brings."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut a text that is wider than `width` pixels, and end it in an ellipsis."""
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
    """Write a panel with a row for each example: image, truth, prediction, error; a legend below.

    The file appears whole or not at all; its folder is made when it is missing. A caption stands
    over each row; by default it tells the id and the share of the pixels that is right.
    """
    captions = captions or [_caption(example) for example in examples]
    rows = [_tiles(example, palette) for example in examples]
    column = max(tile.width for row in rows for tile in row)
    width = 4 * column + 5 * GAP
    headings = ("image", "truth", "prediction", "error (wrong pixels red)")
    parts = [text_strip([title], width, 18), text_strip(headings, column, 15)]
    for caption, row in zip(captions, rows, strict=True):
        strip = Image.new("RGB", (width - 2 * GAP, max(tile.height for tile in row)), PAPER)
        for place, tile in enumerate(row):
            strip.paste(tile, (place * (column + GAP), 0))
        parts += [text_strip([caption], width - 2 * GAP, 13), strip]
    ids = [part.numpy() for e in examples for part in (e.label, e.prediction)]
    used = {int(k) for part in ids for k in np.unique(part)}
    parts.append(legend(names, palette, used, width - 2 * GAP))
    write_picture(stacked(parts, width), path)


def visible(image: "Tensor") -> Pixels:
    """Turn an image (C, H, W) uint8 of 1, 3 or more channels into (H, W, 3) uint8."""
    shown = image.expand(3, -1, -1) if image.shape[0] == 1 else image[:3]
    return cast(Pixels, shown.permute(1, 2, 0).contiguous().numpy())


def shrunk(example: Example) -> Example:
    """Bring an example to the size that a panel shows it at, its image to RGB.

    What is of that size already stays as it is.
    """
    import torch

    image = Image.fromarray(visible(example.image))
    scale = min(TILE / image.height, 2 * TILE / image.width)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    small = np.array(image.resize(size, Image.Resampling.LANCZOS))
    label, prediction = (
        torch.from_numpy(np.array(Image.fromarray(ids.numpy()).resize(size, NEAREST)))
        for ids in (example.label, example.prediction)
    )
    pixels = torch.from_numpy(small).permute(2, 0, 1)
    return Example(example.id, pixels, label, prediction)


def _tiles(example: Example, palette: Sequence[Color]) -> list[Image.Image]:
    """Return image, truth, prediction and error at one size."""
    small = shrunk(example)
    image, label, prediction = visible(small.image), small.label.numpy(), small.prediction.numpy()
    pixels = (image, colorize(label, palette), colorize(prediction, palette))
    return [Image.fromarray(tile) for tile in (*pixels, errors(image, label, prediction))]


def _caption(example: Example) -> str:
    valid = example.label != IGNORE
    right = (example.label == example.prediction)[valid].float().mean().item()
    return f"{example.id}: {100 * right:.1f} % of the pixels right" if valid.any() else example.id


def text_strip(texts: Sequence[str], column: int, size: int) -> Image.Image:
    """Write texts into columns of `column` pixels."""
    font = text_font(size)
    strip = Image.new("RGB", (len(texts) * (column + GAP), round(1.3 * size)), PAPER)
    draw = ImageDraw.Draw(strip)
    for place, text in enumerate(texts):
        x = place * (column + GAP)
        draw.text((x, 0.65 * size), _fit(text, font, column), INK, font, anchor="lm")
    return strip


def stacked(parts: Sequence[Image.Image], width: int, *, first: int = GAP) -> Image.Image:
    """Put pictures under each other on white paper, the first one `first` from the edges."""
    height = first + sum(part.height + GAP // 2 for part in parts) + GAP // 2
    paper = Image.new("RGB", (width, height), PAPER)
    x, y = first, first
    for part in parts:
        paper.paste(part, (x, y))
        x, y = GAP, y + part.height + GAP // 2
    return paper


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG that appears whole or not at all; its folder is made when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    picture.save(temporary, format="PNG")
    temporary.replace(path)
