"""Reads CVAT's XML, `CVAT for images 1.1` (docs.cvat.ai/docs/other/xml_format)."""

from collections import Counter
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from segacc.errors import DataError, refuse_special
from segacc.labels.annotations.reading import (
    Faults,
    ShapeError,
    class_name,
    ellipse,
    image_size,
    left_out,
    number,
    polygon,
    rectangle,
    refuse_twice,
)
from segacc.labels.annotations.shapes import AnnotatedImage, Annotations, Patch, Shape

LINES = ("polyline", "points", "cuboid", "skeleton")
"""Shapes that are no area of the image; a tag is no shape."""


def read_cvat(path: Path) -> dict[str, Annotations]:
    """Read a CVAT file, whose images may belong to subsets, such as Train and Validation.

    Polygons, boxes, ellipses and masks are read, in the order of their layers (`z_order`); lines,
    points, cuboids and skeletons, which are no areas, are counted in the notes.

    Returns:
        The images of each subset, by its name; an empty one for images of no subset.

    Raises:
        DataError: it is not such a file, or a shape is faulty; the error names it and its image.
    """
    root = _root(path)
    names = _names(path, root)
    faults, lines = Faults(path), Counter[str]()
    found = dict[str, list[AnnotatedImage]]()
    for element in root.iter("image"):
        subset = element.get("subset", "")
        found.setdefault(subset, []).append(_image(element, names, faults, lines))
    faults.stop()
    for images in found.values():
        cure = "Export each task by itself, or keep one of the entries."
        refuse_twice(path, "the images list", (one.name for one in images), cure)
    used = {shape.label for images in found.values() for one in images for shape in one.shapes}
    listed = [name for name, has_area in names.items() if has_area or name in used]
    kept = tuple(listed or sorted(used))
    notes = left_out(path, lines)
    return {
        subset: Annotations(kept, tuple(images), notes if k == 0 else ())
        for k, (subset, images) in enumerate(found.items())
    }


def _root(path: Path) -> Element:
    """Return the root of a file.

    Raises:
        DataError: it is not XML of CVAT for images.
    """
    try:
        refuse_special(path)
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise DataError(f"{path}: the CVAT file cannot be read: {error.strerror}.") from None
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: the CVAT file is not valid XML: {error}.") from None
    if root.find("track") is not None:
        raise DataError(
            f"{path}: this is `CVAT for video`, whose tracks are interpolated between frames. "
            "Export the task as `CVAT for images 1.1`, which has the shapes of each frame."
        )
    if root.tag != "annotations" or root.find("image") is None:
        raise DataError(
            f"{path}: not a file of `CVAT for images 1.1`: it has no images inside <annotations>."
        )
    return root


def _names(path: Path, root: Element) -> dict[str, bool]:
    """Return the names of the labels, and whether they are for areas.

    Raises:
        DataError: two labels have the same name.
    """
    labels = [one for one in root.iterfind("meta/*/labels/label") if one.find("parent") is None]
    names = [label.findtext("name", "").strip() for label in labels]
    refuse_twice(path, "the labels name", names, "Rename one of them in CVAT.")
    kinds = (label.findtext("type", "any") for label in labels)
    return {name: kind not in (*LINES, "tag") for name, kind in zip(names, kinds, strict=True)}


def _image(
    element: Element, names: dict[str, bool], faults: Faults, lines: Counter[str]
) -> AnnotatedImage:
    """Return an image and its shapes, from the lowest layer to the uppermost."""
    name, size = element.get("name", ""), (1, 1)
    with faults.of(f"the image {name or '?'}"):
        if not name:
            raise ShapeError('it has no "name"')
        size = image_size(number(element.attrib, "height"), number(element.attrib, "width"))
    layers = list[tuple[int, Shape]]()
    for index, one in enumerate(element, 1):
        label, kind = one.get("label", ""), one.tag
        where = f'shape {index}, a {kind} "{label}"'
        if kind in LINES:
            lines[kind] += 1
        elif kind != "tag":
            with faults.of(where, name):
                own = class_name(label)
                if names and own not in names:
                    raise ShapeError(f"its label is none of the task's: {', '.join(names)}")
                layers.append((_layer(one), _shape(one, own, where, size)))
    layers.sort(key=lambda pair: pair[0])  # stable
    return AnnotatedImage(name, tuple(shape for _, shape in layers), size)


def _layer(element: Element) -> int:
    return int(number({"z_order": element.get("z_order", "0")}, "z_order"))


def _shape(element: Element, label: str, where: str, size: tuple[int, int]) -> Shape:
    """Return a shape that has an area.

    Raises:
        ShapeError: it is faulty, or of an unknown kind.
    """
    told, kind = element.attrib, element.tag
    turn = number(told, "rotation") if "rotation" in told else 0.0
    if kind == "mask":
        return Shape(label, where, patch=_patch(element, size))
    if kind == "polygon":
        corners = polygon(_points(told.get("points", "")), size)
    elif kind == "box":
        left, top, right, bottom = (number(told, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        corners = polygon(rectangle(left, top, right, bottom, turn), size)
    elif kind == "ellipse":
        x, y, radius_x, radius_y = (number(told, key) for key in ("cx", "cy", "rx", "ry"))
        corners = polygon(ellipse(x, y, radius_x, radius_y, turn), size)
    else:
        raise ShapeError("segacc reads polygons, boxes, ellipses and masks, and skips lines")
    return Shape(label, where, (corners,))


def _points(text: str) -> list[list[str]]:
    return [pair.split(",") for pair in text.split(";") if pair.strip()]


def _patch(element: Element, size: tuple[int, int]) -> Patch:
    """Return the pixels of a mask: runs along the rows of its box, the first one outside.

    Raises:
        ShapeError: the runs do not fill the box, or it is far outside the image.
    """
    told = element.attrib
    left, top, width, height = (
        int(number(told, key)) for key in ("left", "top", "width", "height")
    )
    polygon(rectangle(left, top, left + width, top + height), size)  # raises if it is outside
    try:
        runs = [int(run) for run in told.get("rle", "").split(",")]
    except ValueError:
        raise ShapeError('its "rle" is not a list of whole numbers') from None
    if min(runs) < 0 or sum(runs) != width * height:
        raise ShapeError(
            f"the runs of its rle add up to {sum(runs)}; expected {width * height}, the pixels of "
            f"its {width}x{height} box"
        )
    packed = np.array(runs, np.int64)
    return Patch(top, left, height, width, partial(_decoded, packed, (height, width)))


def _decoded(runs: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size)
