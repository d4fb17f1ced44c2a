"""Writes the label files of Ultralytics' YOLO for segmentation, and their data.yaml."""

from collections.abc import Iterable, Mapping

import yaml

from segacc.labels.annotations.shapes import AnnotatedImage


def yolo_text(image: AnnotatedImage, ids: Mapping[str, int]) -> str:
    """Return the label file of an image: a line `CLASS x y x y ...` for each polygon.

    Coordinates are fractions of width and height. An image without shapes has an empty file.
    """
    height, width = image.size or (0, 0)
    return "".join(
        f"{ids[shape.label]} {' '.join(map(_fraction, (corners / (width, height)).flat))}\n"
        for shape in image.shapes
        for corners in shape.polygons
    )


def _fraction(value: float) -> str:
    return f"{value:.7f}".rstrip("0").rstrip(".")


def yolo_settings(names: Iterable[str], folders: Mapping[str, str]) -> str:
    """Return data.yaml.

    Args:
        names: of the classes, in order.
        folders: the folder of the images of `train`, `val` and other splits, relative to the file.
    """
    content = {**folders, "names": dict(enumerate(names))}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
