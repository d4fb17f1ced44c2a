"""Writes COCO's JSON (cocodataset.org/#format-data) image by image."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TextIO

import numpy as np

from segacc.contracts import VERSION
from segacc.labels.annotations.draw import polygon_area
from segacc.labels.annotations.shapes import AnnotatedImage, Patch, Shape
from segacc.labels.annotations.writers.parts import Add, Outlines, whole


@contextmanager
def write_coco(path: Path, outlines: Outlines) -> Iterator[Add]:
    """Write a COCO file of polygons and compressed RLE; memory does not grow with the images.

    Ids of categories, images and annotations count from 1; areas are in pixels. Shapes that are
    ignored are crowds.

    Yields:
        A function to call for each image.
    """
    about = {"description": "written by segacc", "version": VERSION}
    with (
        path.open("w", encoding="utf-8") as file,
        TemporaryFile("w+", encoding="utf-8", dir=path.parent) as later,
    ):
        file.write(f'{{"info": {json.dumps(about)},\n"annotations": [')
        num_images, num_annotations = count(1), count(1)

        def add(image: AnnotatedImage) -> None:
            number, (height, width) = next(num_images), image.size or (0, 0)
            ids = outlines.ids
            entry: dict[str, Any] = {"id": number, "file_name": image.name}
            _add(later, {**entry, "height": height, "width": width})
            for shape in image.shapes:
                entry = {"id": next(num_annotations), "image_id": number}
                entry["category_id"] = ids[shape.label] + 1
                _add(file, {**entry, **_outline(shape, (height, width))})

        yield add
        file.write('],\n"images": [')
        later.seek(0)
        shutil.copyfileobj(later, file)
        pairs = enumerate(outlines.classes, 1)
        categories = [{"id": k, "name": name, "supercategory": ""} for k, name in pairs]
        file.write(f'],\n"categories": {json.dumps(categories)}}}\n')


def _add(file: TextIO, entry: dict[str, Any]) -> None:
    """Write an item of a list, whose ids count from 1."""
    file.write(f"{',' if entry['id'] > 1 else ''}\n{json.dumps(entry)}")


def _outline(shape: Shape, size: tuple[int, int]) -> dict[str, Any]:
    """Return segmentation, area, box and `iscrowd` of a shape."""
    if shape.patch is None:
        corners = np.concatenate(shape.polygons)
        (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
        outline: Any = [one.reshape(-1).tolist() for one in shape.polygons]
        area = sum(map(polygon_area, shape.polygons))
        box = [left, top, right - left, bottom - top]
    else:
        patch = shape.patch
        outline, area = _encoded(patch, size)
        box = [patch.left, patch.top, patch.width, patch.height]
    return {
        "segmentation": outline,
        "area": area,
        "bbox": box,
        "iscrowd": int(shape.ignored),
    }


def _encoded(patch: Patch, size: tuple[int, int]) -> tuple[dict[str, Any], float]:
    """Return a patch as COCO's compressed RLE, and its area."""
    from pycocotools import mask

    pixels = np.asfortranarray(whole(patch, size).astype(np.uint8))
    counts = mask.encode(pixels)["counts"].decode()
    return {"size": list(size), "counts": counts}, float(pixels.sum())
