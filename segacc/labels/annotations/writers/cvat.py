"""Writes CVAT's XML (`CVAT for images 1.1`) image by image, and its list of labels."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from segacc.labels import Color
from segacc.labels.annotations.shapes import AnnotatedImage, Patch
from segacc.labels.annotations.writers.parts import Add, hexadecimal


@contextmanager
def write_cvat(path: Path, names: Sequence[str], palette: Sequence[Color]) -> Iterator[Add]:
    """Write an XML file of polygons and masks; memory does not grow with the images.

    Shapes are layers: the last one of an image is the uppermost.

    Args:
        path: the file.
        names: of the labels, in order.
        palette: their RGB colours, 0..255.

    Yields:
        A function to call for each image, with shapes of these names.
    """
    meta = Element("meta")
    labels = SubElement(SubElement(meta, "job"), "labels")
    for name, color in zip(names, palette, strict=True):
        label = SubElement(labels, "label")
        SubElement(label, "name").text, SubElement(label, "color").text = name, hexadecimal(color)
        SubElement(label, "attributes")
    with path.open("w", encoding="utf-8") as file:
        file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        )
        file.write(f"{tostring(meta, 'unicode')}\n")
        count = 0

        def add(image: AnnotatedImage) -> None:
            nonlocal count
            file.write(f"{tostring(_element(image, count), 'unicode')}\n")
            count += 1

        yield add
        file.write("</annotations>\n")


def _element(image: AnnotatedImage, number: int) -> Element:
    height, width = image.size or (0, 0)
    told = {"id": number, "name": image.name, "width": width, "height": height}
    found = Element("image", {key: str(value) for key, value in told.items()})
    for layer, shape in enumerate(image.shapes):
        common = {"label": shape.label, "source": "auto", "occluded": "0"}
        for corners in shape.polygons:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners.tolist())
            SubElement(found, "polygon", {**common, "points": points, "z_order": str(layer)})
        if shape.patch:
            SubElement(found, "mask", {**common, **_runs(shape.patch), "z_order": str(layer)})
    return found


def _runs(patch: Patch) -> dict[str, str]:
    """Return pixels as lengths of runs in rows, off and on in turns, and their box."""
    pixels = np.concatenate(([False], patch.read().reshape(-1)))
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    lengths = np.diff(changes, prepend=0, append=len(pixels) - 1)
    told = {"left": patch.left, "top": patch.top, "width": patch.width, "height": patch.height}
    return {
        "rle": ", ".join(map(str, lengths.tolist())),
        **{key: str(value) for key, value in told.items()},
    }


def cvat_labels(names: Sequence[str], palette: Sequence[Color]) -> str:
    """Return the JSON for the `Raw` tab of CVAT's label constructor."""
    pairs = zip(names, palette, strict=True)
    rows = [{"name": name, "color": hexadecimal(color), "attributes": []} for name, color in pairs]
    return json.dumps(rows, indent=1, ensure_ascii=False)
