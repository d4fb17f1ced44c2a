"""Reads COCO's JSON (cocodataset.org/#format-data): polygons and run-length encodings (RLE)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segacc.errors import DataError, count_of, cut
from segacc.labels.annotations.reading import (
    Faults,
    ShapeError,
    image_size,
    no_collection,
    number,
    numbers,
    polygon,
    read_json,
    rectangle,
    refuse_twice,
    value,
)
from segacc.labels.annotations.shapes import AnnotatedImage, Annotations, Patch, Shape

PARTS = ("images", "annotations", "categories")


@dataclass
class _Image:
    """An image of the file, and what was read of it."""

    name: str
    size: tuple[int, int]
    shapes: list[Shape] = field(default_factory=list)


def read_coco(path: Path) -> Annotations:
    """Read a COCO file: all its images, also those without annotations, in its order.

    Crowds are ignored, and so is the box of an annotation that has no outline. A category that is
    only the supercategory of others, as Roboflow writes one, is left out. Classes are in the order
    of their ids, which may have gaps.

    Raises:
        DataError: it is not such a file, or an annotation is faulty; the error names its id, its
            image and what is wrong.
    """
    with no_collection():
        return _read(path)


def _read(path: Path) -> Annotations:
    content = read_json(path, "the COCO file")
    _refuse_others(path, content)
    faults = Faults(path)
    names = _categories(path, content["categories"], faults)
    images = _images(path, content["images"], faults)
    used, boxes = _fill(content["annotations"], names, images, faults)
    faults.stop()
    if boxes and boxes == len(content["annotations"]):
        raise DataError(
            f"{path}: its annotations are boxes without outlines, which are for detection: none of "
            f"the {boxes} has a segmentation. Export polygons or masks."
        )
    parents = {  # but for a category that names itself, as COCO's own person does
        one.get("supercategory")
        for one in content["categories"]
        if one.get("supercategory") != one["name"]
    }
    kept = [name for key, name in names.items() if key in used or name not in parents]
    note = (
        f"{path}: {count_of(boxes, 'annotation has', 'annotations have')} a box and no outline: "
        "the pixels of the box are ignored"
    )
    found = tuple(AnnotatedImage(one.name, tuple(one.shapes), one.size) for one in images.values())
    return Annotations(tuple(kept), found, (note,) if boxes else ())


def _fill(
    entries: list[Any], names: Mapping[int, str], images: Mapping[int, _Image], faults: Faults
) -> tuple[set[int], int]:
    """Add the annotations to their images; return their categories and the number of boxes."""
    used, boxes = set[int](), 0
    for index, entry in enumerate(entries, 1):
        known = isinstance(entry, dict) and "id" in entry
        where = f"annotation {entry['id']}" if known else f"annotation {index} of the list"
        image: _Image | None = None
        try:
            image = _image_of(entry, images)
            shape, is_box = _shape(entry, where, names, image.size)
        except ShapeError as error:
            faults.add(where, image.name if image else "", error)
            continue
        image.shapes.append(shape)
        used.add(entry["category_id"])
        boxes += is_box
    return used, boxes


def _image_of(entry: Any, images: Mapping[int, _Image]) -> _Image:
    key = value(entry, "image_id", int)
    if key not in images:
        raise ShapeError(f"its image_id is {key}, which no image of the file has")
    return images[key]


def _refuse_others(path: Path, content: Any) -> None:
    """Refuse other JSON files, such as COCO's results, captions and panoptic labels."""
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in PARTS):
        seen = f"the keys {cut(', '.join(content))}" if isinstance(content, dict) else "a list"
        raise DataError(
            f"{path}: not a COCO file of annotations: it has {seen or 'no keys'}; expected lists "
            '"images", "annotations" and "categories".'
        )
    first = next(iter(content["annotations"]), None)
    if isinstance(first, dict) and "segments_info" in first:
        raise DataError(
            f"{path}: this is COCO's panoptic format, whose labels are PNG files. Export instances "
            "(polygons or RLE), or convert the PNG files to class ids and use --dataset folder."
        )


def _categories(path: Path, entries: list[Any], faults: Faults) -> dict[int, str]:
    """Return the names of the categories by id, in the order of the ids."""
    found = dict[int, str]()
    for index, entry in enumerate(entries):
        with faults.of(f"category {index + 1} of the list"):
            key, name = value(entry, "id", int), value(entry, "name", str).strip()
            if not name:
                raise ShapeError("its name is empty")
            if key in found:
                raise ShapeError(f'its id {key} is also that of "{found[key]}"')
            found[key] = name
    faults.stop()
    cure = "Give each category a name of its own, or merge them in the file."
    refuse_twice(path, "the categories name", found.values(), cure)
    return dict(sorted(found.items()))


def _images(path: Path, entries: list[Any], faults: Faults) -> dict[int, _Image]:
    """Return the images by id, in the order of the file."""
    found = dict[int, _Image]()
    for index, entry in enumerate(entries):
        with faults.of(f"image {index + 1} of the list"):
            key, name = value(entry, "id", int), value(entry, "file_name", str)
            size = image_size(number(entry, "height"), number(entry, "width"))
            if key in found:
                raise ShapeError(f"its id {key} is also that of {found[key].name}")
            found[key] = _Image(name, size)
    faults.stop()
    cure = "Keep one of the entries, with the annotations of both."
    refuse_twice(path, "the images list", (one.name for one in found.values()), cure)
    return found


def _shape(
    entry: Any, where: str, names: Mapping[int, str], size: tuple[int, int]
) -> tuple[Shape, bool]:
    """Return the shape of an annotation, and whether it is a box that is ignored.

    Raises:
        ShapeError: it is faulty.
    """
    category = value(entry, "category_id", int)
    if category not in names:
        known = ", ".join(f"{key} {name}" for key, name in names.items())
        raise ShapeError(f"its category_id is {category}, which no category has ({cut(known)})")
    outline, label, crowd = entry.get("segmentation"), names[category], bool(entry.get("iscrowd"))
    if isinstance(outline, dict):
        return Shape(label, where, patch=_patch(outline, size), ignored=crowd), False
    if outline:
        if not isinstance(outline, list):
            raise ShapeError('its "segmentation" is neither polygons nor an RLE')
        rings = outline if isinstance(outline[0], list) else [outline]
        polygons = tuple(polygon(ring, size) for ring in rings)
        return Shape(label, where, polygons, ignored=crowd), False
    if not entry.get("bbox"):
        raise ShapeError("it has neither a segmentation nor a box")
    left, top, width, height = numbers(entry["bbox"], 4, '"bbox"')
    corners = polygon(rectangle(left, top, left + width, top + height), size)
    return Shape(label, where, (corners,), ignored=True), True


def _patch(rle: Mapping[str, Any], size: tuple[int, int]) -> Patch:
    """Return the pixels of a run-length encoding, which is decoded later.

    Raises:
        ShapeError: it is not of the image's size.
    """
    if rle.get("size") != list(size):
        raise ShapeError(
            f"its RLE has the size {cut(str(rle.get('size')))}, its image {list(size)} (height, "
            "width)"
        )
    counts: Any = rle.get("counts")
    if isinstance(counts, list) and all(type(one) is int and one >= 0 for one in counts):
        if sum(counts) != size[0] * size[1]:
            raise ShapeError(
                f"the counts of its RLE add up to {sum(counts)}; expected {size[0] * size[1]}"
            )
        counts = np.array(counts, np.uint32)
    elif not isinstance(counts, str):
        raise ShapeError('the "counts" of its RLE are neither a text nor whole numbers')
    return Patch(0, 0, *size, partial(decoded, counts, size))


def decoded(counts: str | NDArray[np.uint32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode COCO's run-length encoding, which goes down the columns, with pycocotools.

    Raises:
        ShapeError: it is damaged.
    """
    from pycocotools import mask

    if isinstance(counts, str):
        if total_of(counts) != size[0] * size[1]:
            raise ShapeError(f"its RLE is damaged: it does not fill {size[0]}x{size[1]} pixels")
        rle: Any = {"size": list(size), "counts": counts.encode()}
    else:
        rle = mask.frPyObjects({"size": list(size), "counts": counts.tolist()}, *size)
    pixels: NDArray[np.bool_] = mask.decode(rle).astype(np.bool_)
    return pixels


def total_of(counts: str) -> int:
    """Return the sum of the runs in a compressed RLE, which pycocotools does not check; -1 if bad.

    A character has five bits of a number, the lowest first, and a sixth if more follow; the fifth
    bit of the last is the sign. From the fourth run on, a number is the difference to the run
    before the last.
    """
    runs, number, width = list[int](), 0, 0
    for letter in counts.encode("ascii", "replace"):
        bits = letter - 48
        if not 0 <= bits < 64:
            return -1
        number |= (bits & 31) << width
        width += 5
        if not bits & 32:
            number -= 1 << width if bits & 16 else 0
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = width = 0
    return sum(runs) if runs and min(runs) >= 0 and not width else -1
