"""Reads Label Studio's JSON export (labelstud.io/guide/export#JSON)."""

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np
from numpy.typing import NDArray

from segacc.errors import DataError, count_of, cut
from segacc.labels.annotations.reading import (
    Faults,
    ShapeError,
    class_name,
    ellipse,
    embedded,
    image_size,
    left_out,
    number,
    pixels_of,
    polygon,
    read_json,
    rectangle,
    refuse_twice,
    turned,
    value,
)
from segacc.labels.annotations.shapes import AnnotatedImage, Annotations, Patch, Shape

PERCENT = 100
LINES = ("keypoint", "vector")
"""Kinds of regions that have no area; their labels are keypointlabels, ..."""
AREAS = ("brush", "bitmask", "polygon", "rectangle", "ellipse")
"""Kinds of regions that are areas."""


def read_labelstudio(path: Path) -> Annotations:
    """Read a file that Label Studio exported as JSON.

    Of several annotations of a task, the newest that was not cancelled is used. Tasks without one
    are left out; an annotation without regions is an image that is all background. The classes are
    in alphabetical order, since the file does not list them.

    Raises:
        DataError: it is not such a file, or a region is faulty; the error names it and its image.
    """
    tasks = read_json(path, "the Label Studio file")
    if not isinstance(tasks, list) or not all(isinstance(one, dict) for one in tasks):
        raise DataError(f"{path}: not a JSON export of Label Studio, which is a list of tasks.")
    if tasks and "annotations" not in tasks[0]:
        raise DataError(
            f"{path}: the tasks have no list of annotations, as in the export `JSON-MIN` or in "
            "tasks that are not labelled. Export them as `JSON`."
        )
    faults, counts = Faults(path), Counter[str]()
    images = list[AnnotatedImage]()
    for index, task in enumerate(tasks, 1):
        with faults.of(f"task {task.get('id', index)}"):
            chosen = _newest(task, counts)
            if chosen is not None:
                images.append(_image(task, chosen, faults, counts))
    faults.stop()
    cure = "Keep one of the tasks of each image."
    refuse_twice(path, "the tasks name", (one.name for one in images), cure)
    names = {shape.label for one in images for shape in one.shapes}
    notes = [f"{path}: {text}" for key, text in _notes(counts).items() if counts[key]]
    lines = {kind: counts[kind] for kind in LINES if counts[kind]}
    return Annotations(tuple(sorted(names)), tuple(images), (*notes, *left_out(path, lines)))


def _notes(counts: Mapping[str, int]) -> dict[str, str]:
    many = {key: count_of(counts[key], "task") for key in ("without", "several")}
    return {
        "without": f"{many['without']} without an annotation that is not cancelled left out",
        "several": f"{many['several']} with several annotations; the newest is used",
    }


def _newest(task: Mapping[str, Any], counts: Counter[str]) -> Any:
    """Return the annotation of a task that was changed last; None if there is none."""
    found = value(task, "annotations", list)
    if not all(isinstance(one, dict) for one in found):
        raise ShapeError("its annotations are only numbered, not included")
    done = [one for one in found if not one.get("was_cancelled")]
    if not done:
        counts["without"] += 1
        return None
    counts["several"] += len(done) > 1
    return max(done, key=lambda one: one.get("updated_at") or one.get("created_at") or "")


def _image(
    task: Mapping[str, Any], chosen: Mapping[str, Any], faults: Faults, counts: Counter[str]
) -> AnnotatedImage:
    """Return the image of a task, with the regions of an annotation.

    Raises:
        ShapeError: the task names no image, or the sizes in its regions differ.
    """
    name = _name(value(task, "data", dict))
    regions, sizes, shapes = _regions(value(chosen, "result", list)), set[tuple[int, int]](), []
    for key, region in regions.items():
        where = f"region {key}"
        with faults.of(where, name):
            kind = _kind(region)
            if kind in AREAS:
                size = image_size(
                    number(region, "original_height"), number(region, "original_width")
                )
                sizes.add(size)
                shapes.append(_shape(region, kind, where, size))
            elif kind in LINES:
                counts[kind] += 1
            elif any(key.endswith("labels") for key in region["value"]):
                known = "brush, bitmask, polygon, rectangle, ellipse"
                raise ShapeError(f"its type is {kind}; segacc reads {known}, and skips lines")
    if len(sizes) > 1:
        raise ShapeError(f"its regions state several sizes (height, width): {sorted(sizes)}")
    return AnnotatedImage(name, tuple(shapes), next(iter(sizes), None))


def _name(data: Mapping[str, Any]) -> str:
    """Return the name of an image: the local file that it is, or the last part of its address.

    Raises:
        ShapeError: the task has no image, or several.
    """
    texts = {key: one for key, one in data.items() if isinstance(one, str) and one}
    found = [texts["image"]] if "image" in texts else [one for one in texts.values() if "/" in one]
    if len(found) != 1:
        raise ShapeError(
            f"it has {count_of(len(found), 'image')}; expected one, as its data's image"
        )
    address = urlparse(found[0])
    local = parse_qs(address.query).get("d", [""])[0]  # /data/local-files/?d=folder/name.jpg
    return local or unquote(address.path).rpartition("/")[2]


def _regions(results: list[Any]) -> dict[str, dict[str, Any]]:
    """Join the results of each region: its shape, and its labels if they are a result of their own.

    Raises:
        ShapeError: a result is no object.
    """
    found = dict[str, dict[str, Any]]()
    for index, one in enumerate(results, 1):
        if isinstance(one, dict) and one.get("type") == "relation":  # between two regions
            continue
        told = value(one, "value", dict)
        region = found.setdefault(str(one.get("id", index)), {"value": {}, "types": []})
        region |= {key: one[key] for key in one if key not in ("value", "type")}
        region["value"] |= told
        region["types"].append(str(one.get("type", "")))
    return found


def _kind(region: Mapping[str, Any]) -> str:
    """Return the kind of a region, such as polygon; another type if it is no known shape."""
    types: list[str] = region["types"]
    kinds = [kind.removesuffix("labels") for kind in types]
    return next((kind for kind in kinds if kind in (*AREAS, *LINES)), types[0])


def _shape(region: Mapping[str, Any], kind: str, where: str, size: tuple[int, int]) -> Shape:
    """Return the shape of a region, whose coordinates are percents of the image's size.

    Raises:
        ShapeError: it is faulty, or drawn on a turned image.
    """
    told = region["value"]
    lists = [value(told, key, list) for key in (f"{kind}labels", "labels") if key in told]
    names = [name for some in lists for name in some]
    if others := [name for name in names if not isinstance(name, str)]:
        raise ShapeError(f"its label is {cut(json.dumps(others[0]))}; expected a text")
    labels = list(dict.fromkeys(map(class_name, names)))
    if len(labels) != 1:
        raise ShapeError(f"it has {count_of(len(labels), 'label')}; expected one class")
    if region.get("image_rotation"):
        raise ShapeError(
            f"the image was turned by {region['image_rotation']} degrees while it was annotated; "
            "turn it back in Label Studio, or turn the image file"
        )
    if kind in ("brush", "bitmask"):
        patch = _patch(told, size) if kind == "brush" else _bitmask(told, size)
        return Shape(labels[0], where, patch=patch)
    scale = np.array([size[1], size[0]], np.float64) / PERCENT
    if kind == "polygon":
        corners = polygon(value(told, "points", list), None) * scale
    else:
        corners = _round_or_box(told, kind, scale)
    return Shape(labels[0], where, (polygon(corners, size),))


def _round_or_box(
    told: Mapping[str, Any], kind: str, scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the corners of a rectangle, turned about its first corner, or of an ellipse."""
    x, y = number(told, "x") * scale[0], number(told, "y") * scale[1]
    turn = number(told, "rotation") if told.get("rotation") else 0.0
    if kind == "ellipse":
        radii = number(told, "radiusX") * scale[0], number(told, "radiusY") * scale[1]
        return ellipse(x, y, *radii, turn)
    right, bottom = x + number(told, "width") * scale[0], y + number(told, "height") * scale[1]
    return turned(rectangle(x, y, right, bottom), (x, y), turn)


def _patch(told: Mapping[str, Any], size: tuple[int, int]) -> Patch:
    """Return the pixels of a brush region.

    Raises:
        ShapeError: its encoding is unknown.
    """
    if told.get("format") != "rle":
        raise ShapeError(f"its format is {told.get('format')!r}; expected 'rle'")
    try:
        data = bytes(value(told, "rle", list))
    except (TypeError, ValueError):
        raise ShapeError('its "rle" is not a list of numbers from 0 to 255') from None
    return Patch(0, 0, *size, partial(decoded, data, size))


def _bitmask(told: Mapping[str, Any], size: tuple[int, int]) -> Patch:
    """Return the pixels of a bitmask region: those that are not clear in a PNG of the image's size.

    Raises:
        ShapeError: it is no such PNG.
    """
    address = value(told, "imageDataURL", str)  # data:image/png;base64,...
    data, found = embedded(address.rpartition(",")[2], "imageDataURL")
    if found != size:
        raise ShapeError(
            f"its bitmask has {found[0]}x{found[1]} pixels (height x width), its image "
            f"{size[0]}x{size[1]}"
        )
    return Patch(0, 0, *size, partial(pixels_of, data, "A"))


def decoded(data: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode Label Studio's run-length encoding of an RGBA image: the pixels that are not clear.

    It is that of the JavaScript package @thi.ng/rle-pack: 32 bits with the number of values, 5 with
    the bits of a value less one, and four times 4 with those of a length less one; then for each
    run a bit (1 for a repeated value, 0 for different ones), 2 bits that choose the length's bits,
    the length less one, and the value or the values.

    Raises:
        ShapeError: it is damaged, or of another size.
    """
    bits = _Bits(data)
    count, width = bits.read(32), bits.read(5) + 1
    if count != 4 * size[0] * size[1]:
        raise ShapeError(
            f"its rle has {count} values; expected {4 * size[0] * size[1]}, four for each pixel of "
            f"{size[0]}x{size[1]} (height x width)"
        )
    lengths = [bits.read(4) + 1 for _ in range(4)]
    values, at = np.zeros(count, np.bool_), 0
    while at < count:
        repeated = bits.read(1)
        end = at + bits.read(lengths[bits.read(2)]) + 1
        values[at:end] = bits.read(width) if repeated else bits.many(min(end, count) - at, width)
        at = end
    opaque: NDArray[np.bool_] = values.reshape(*size, 4)[..., 3]
    return opaque


class _Bits:
    """Reads numbers from bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self.text = (self.bits + ord("0")).tobytes()
        self.at = 0

    def read(self, width: int) -> int:
        """Return the next number of so many bits.

        Raises:
            ShapeError: there are no more.
        """
        found = self.text[self.at : self.at + width]
        self.at += width
        if len(found) < width:
            raise ShapeError("its rle ends too early")
        return int(found, 2)

    def many(self, count: int, width: int) -> NDArray[np.bool_]:
        """Return whether the next numbers are not 0.

        Raises:
            ShapeError: there are fewer.
        """
        found = self.bits[self.at : self.at + count * width]
        self.at += count * width
        if len(found) < count * width:
            raise ShapeError("its rle ends too early")
        return np.asarray(found.reshape(count, width).any(axis=1))
