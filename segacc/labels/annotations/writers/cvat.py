"""Writes CVAT's XML (`CVAT for images 1.1`) image by image, and its list of labels."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from segacc.labels import Color
from segacc.labels.annotations.shapes import AnnotatedImage, Patch
from segacc.labels.annotations.writers.parts import Outlines, hexadecimal

AddToSubset = Callable[[AnnotatedImage, str], None]


@contextmanager
def write_cvat(path: Path, outlines: Outlines) -> Iterator[AddToSubset]:
    """Write an XML file of polygons and masks; memory does not grow with the images.

    Shapes are layers: the last one of an image is the uppermost.

    Yields:
        A function to call for each image, with its subset.
    """
    with (
        path.open("w", encoding="utf-8") as file,
        TemporaryFile("w+", encoding="utf-8", dir=path.parent) as later,
    ):
        numbers = count()

        def add(image: AnnotatedImage, subset: str) -> None:
            element = _element(image, next(numbers), subset)
            later.write(f"{tostring(element, 'unicode')}\n")

        yield add
        meta = Element("meta")
        labels = SubElement(SubElement(meta, "task"), "labels")
        for name, color in outlines.classes.items():
            label = SubElement(labels, "label")
            SubElement(label, "name").text = name
            SubElement(label, "color").text = hexadecimal(color)
            SubElement(label, "attributes")
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
        file.write(f"<version>1.1</version>\n{tostring(meta, 'unicode')}\n")
        later.seek(0)
        shutil.copyfileobj(later, file)
        file.write("</annotations>\n")


def _element(image: AnnotatedImage, number: int, subset: str) -> Element:
    height, width = image.size or (0, 0)
    told = {"id": number, "name": image.name, "subset": subset, "width": width, "height": height}
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


def cvat_labels(classes: Mapping[str, Color]) -> str:
    """Return the JSON for the `Raw` tab of CVAT's label constructor."""
    rows = [
        {"name": name, "color": hexadecimal(color), "attributes": []}
        for name, color in classes.items()
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False)
