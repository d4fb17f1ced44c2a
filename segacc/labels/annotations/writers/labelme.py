"""Writes labelme's JSON, a file for each image."""

import base64
import io
import json
from typing import Any

import numpy as np
from PIL import Image

from segacc.labels.annotations.shapes import AnnotatedImage, Patch, Shape

LABELME = "5.5.0"
"""The version of labelme whose format is written."""


def labelme_text(image: AnnotatedImage) -> str:
    """Return the JSON of an image, whose name is its path relative to the file.

    A patch becomes a shape of the type `mask`, with its pixels as a PNG.
    """
    height, width = image.size or (0, 0)
    content: dict[str, Any] = {
        "version": LABELME,
        "flags": {},
        "shapes": [entry for shape in image.shapes for entry in _entries(shape)],
        "imagePath": image.name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    return json.dumps(content, ensure_ascii=False)


def _entries(shape: Shape) -> list[dict[str, Any]]:
    found = [_entry(shape.label, "polygon", points.tolist()) for points in shape.polygons]
    if patch := shape.patch:  # the second corner is that of the last pixel
        last = [patch.left + patch.width - 1, patch.top + patch.height - 1]
        corners = [[patch.left, patch.top], last]
        found.append(_entry(shape.label, "mask", corners, _png(patch)))
    return found


def _entry(label: str, kind: str, points: list[Any], mask: str | None = None) -> dict[str, Any]:
    entry = {"label": label, "points": points, "group_id": None, "description": ""}
    return {**entry, "shape_type": kind, "flags": {}, "mask": mask}


def _png(patch: Patch) -> str:
    """Return pixels as a PNG of 0 and 1 in base64."""
    file = io.BytesIO()
    Image.fromarray(patch.read().astype(np.uint8)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
