"""Writes COCO's JSON (cocodataset.org/#format-data) image by image."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from segacc.contracts import VERSION
from segacc.labels.annotations.draw import polygon_area
from segacc.labels.annotations.shapes import AnnotatedImage, Patch, Shape
from segacc.labels.annotations.writers.parts import Add, whole


@contextmanager
def write_coco(path: Path, names: Sequence[str]) -> Iterator[Add]:
    """Write a COCO file of polygons and compressed RLE; memory does not grow with the images.

    Ids of categories, images and annotations count from 1; areas are in pixels. Shapes that are
    ignored are crowds.

    Args:
        path: the file.
        names: of the categories, in order.

    Yields:
        A function to call for each image, with shapes of these names.
    """
    ids = {name: k for k, name in enumerate(names, 1)}
    categories = [{"id": k, "name": name, "supercategory": ""} for name, k in ids.items()]
    with path.open("w", encoding="utf-8") as file, TemporaryFile("w+", encoding="utf-8") as later:
        about = {"description": "written by segacc", "version": VERSION}
        file.write(f'{{"info": {json.dumps(about)},\n"categories": {json.dumps(categories)},\n')
        file.write('"annotations": [')
        counts = [0, 0]

        def add(image: AnnotatedImage) -> None:
            counts[0] += 1
            height, width = image.size or (0, 0)
            entry: dict[str, Any] = {"id": counts[0], "file_name": image.name}
            entry |= {"height": height, "width": width}
            later.write(f"{',' if counts[0] > 1 else ''}\n{json.dumps(entry)}")
            for shape in image.shapes:
                counts[1] += 1
                entry = {"id": counts[1], "image_id": counts[0], "category_id": ids[shape.label]}
                entry |= _outline(shape, (height, width))
                file.write(f"{',' if counts[1] > 1 else ''}\n{json.dumps(entry)}")

        yield add
        file.write('],\n"images": [')
        later.seek(0)
        shutil.copyfileobj(later, file)
        file.write("]}\n")


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
