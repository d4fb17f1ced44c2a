"""Writes Label Studio's tasks as JSON, image by image, and its labelling configuration."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
from numpy.typing import NDArray

from segacc.labels import Color
from segacc.labels.annotations.shapes import AnnotatedImage, Shape
from segacc.labels.annotations.writers.parts import Add, hexadecimal, whole

IMAGE = "image"
"""Name of the image in the configuration, and its key in the data of a task."""
TAGS = {"polygon": "PolygonLabels", "brush": "BrushLabels"}
"""Name and tag of the two kinds of labels in the configuration."""
LENGTHS = (4, 8, 12, 16)
"""Bits of the length of a run; each run names one of these."""


@contextmanager
def write_labelstudio(path: Path, kind: Literal["annotations", "predictions"]) -> Iterator[Add]:
    """Write the tasks of an import; memory does not grow with the images.

    Args:
        path: the file.
        kind: what the shapes are; predictions are shown to annotators, who accept or correct them.

    Yields:
        A function to call for each image, whose name is its URL for Label Studio.
    """
    with path.open("w", encoding="utf-8") as file:
        before = "[\n"

        def add(image: AnnotatedImage) -> None:
            nonlocal before
            results = [one for shape in image.shapes for one in _results(shape, image)]
            for number, result in enumerate(results, 1):
                result["id"] = f"region{number}"
            told: dict[str, Any] = {"result": results}
            if kind == "predictions":
                told["model_version"] = "segacc"
            task = {"data": {IMAGE: image.name}, kind: [told]}
            file.write(f"{before}{json.dumps(task, ensure_ascii=False)}")
            before = ",\n"

        yield add
        file.write("[]\n" if before == "[\n" else "\n]\n")


def _results(shape: Shape, image: AnnotatedImage) -> Iterator[dict[str, Any]]:
    """Yield the results of a shape; polygons are in percent of width and height."""
    height, width = image.size or (0, 0)
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    for corners in shape.polygons:
        points = (corners * (100 / width, 100 / height)).tolist()
        yield {**_named("polygon", shape, {"points": points, "closed": True}), **size}
    if shape.patch:
        rle = encoded(whole(shape.patch, (height, width)))
        yield {**_named("brush", shape, {"format": "rle", "rle": rle.tolist()}), **size}


def _named(name: str, shape: Shape, value: dict[str, Any]) -> dict[str, Any]:
    kind = TAGS[name].lower()
    told = {"type": kind, "from_name": name, "to_name": IMAGE}
    return {**told, "value": {**value, kind: [shape.label]}}


def encoded(pixels: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Encode pixels (H, W) as Label Studio's RLE, that of the library @thi.ng/rle-pack.

    It is a row of bits: the number of values (32), the bits of a value less 1 (5), and of the four
    lengths less 1 (4 each); then for each run a 1, which of the lengths follows (2), the run less 1
    and the value (8). A pixel has four values, red, green, blue and alpha: 255 if it belongs to the
    mask, and 0 otherwise.

    Returns:
        The bytes, the last one filled with 0.
    """
    flat = pixels.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    runs, on = 4 * np.diff(starts, append=len(flat)), flat[starts]
    longest = 1 << LENGTHS[-1]
    pieces = -(-runs // longest)
    lengths = np.full(pieces.sum(), longest)
    lengths[np.cumsum(pieces) - 1] = runs - longest * (pieces - 1)
    value = np.repeat(np.where(on, 255, 0), pieces)
    kind = np.searchsorted(1 << np.array(LENGTHS), lengths)
    bits = np.array(LENGTHS)[kind]
    codes = ((4 + kind << bits) + lengths - 1 << 8) + value
    head = [(4 * len(flat), 32), (7, 5), *((length - 1, 4) for length in LENGTHS)]
    all_codes = np.concatenate(([code for code, _ in head], codes))
    return _packed(all_codes, np.concatenate(([count for _, count in head], bits + 11)))


def _packed(codes: NDArray[np.int64], bits: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Write numbers with so many bits each, the highest bit first."""
    ends = np.cumsum(bits)
    places = np.repeat(ends, bits) - 1 - np.arange(ends[-1])
    return np.packbits((np.repeat(codes, bits) >> places & 1).astype(np.uint8))


def labelstudio_settings(classes: Mapping[str, Color]) -> str:
    """Return the labelling configuration in XML: polygons and brushes for each class."""
    view = Element("View")
    SubElement(view, "Image", {"name": IMAGE, "value": f"${IMAGE}", "zoom": "true"})
    for name, tag in TAGS.items():
        labels = SubElement(view, tag, {"name": name, "toName": IMAGE})
        for one, color in classes.items():
            SubElement(labels, "Label", {"value": one, "background": hexadecimal(color)})
    indent(view)
    return f"{tostring(view, 'unicode')}\n"
