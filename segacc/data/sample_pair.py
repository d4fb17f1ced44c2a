"""Reads the image and the label of a sample together, and checks that their sizes agree."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segacc.data.codecs import LYING, picture_size, turn_of
from segacc.data.decode import MODES, read_image, read_label
from segacc.errors import DataError, UnreadableError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap

if TYPE_CHECKING:
    from torch import Tensor


def read_sample(sample: Sample, labels: LabelMap, num_channels: int = 3) -> "tuple[Tensor, Tensor]":
    """Decode a sample to image (C, H, W) uint8 and label (H, W) uint8.

    Args:
        sample: its own label map, where it has one, goes before `labels`.
        labels: of the data set.
        num_channels: C, see `read_image`.

    Raises:
        DataError: see `read_image` and `read_label`; or their sizes differ.
    """
    where = name_of_label(sample)
    picture = str(sample.image) if isinstance(sample.image, Path) else where
    try:
        label = read_label(sample.label, sample.labels or labels, where, sample.reading)
    except DataError:
        read_image(sample.image, picture, num_channels, sample.reading)  # whose error comes first
        raise
    image = _read_like(label, sample, picture, num_channels)
    if image is None or image.shape[-2:] != label.shape:
        found = _stated_size(sample) if image is None else (image.shape[-2], image.shape[-1])
        sizes = (label.shape[0], label.shape[1]), found
        raise DataError(sizes_text(sample, where, *sizes, num_channels))
    return image, label


def name_of_label(sample: Sample) -> str:
    """Return the name of a label in errors: its path, or `sample ID` if it is in no file."""
    return f"sample {sample.id}" if isinstance(sample.label, bytes) else str(sample.label)


def _read_like(label: "Tensor", sample: Sample, picture: str, num_channels: int) -> "Tensor | None":
    """Read the image of a label; None, without decoding it, if it has more pixels than the label.

    Raises:
        DataError: see `read_image`.
    """
    most = min(label.numel(), sample.reading.max_pixels)
    try:
        reading = replace(sample.reading, max_pixels=most)
        return read_image(sample.image, picture, num_channels, reading)
    except UnreadableError:
        height, width = _stated_size(sample)
        if most < height * width <= sample.reading.max_pixels:
            return None
        return read_image(sample.image, picture, num_channels, sample.reading)


def _stated_size(sample: Sample) -> tuple[int, int]:
    """Return (height, width) of an image by its header, as it is read; (0, 0) if unknown."""
    return picture_size(sample.image, stored=sample.reading.exif == "stored") or (0, 0)


def is_turned(
    sample: Sample, label: tuple[int, int], image: tuple[int, int], num_channels: int
) -> bool:
    """Return whether EXIF may be why a label has not its image's size; see `sizes_text`."""
    return label == image[::-1] and num_channels in MODES and turn_of(sample.image) in LYING


def sizes_text(
    sample: Sample,
    where: str,
    label: tuple[int, int],
    image: tuple[int, int],
    num_channels: int,
) -> str:
    """Return the error for a label that has not its image's size, and name EXIF if it may be why.

    Args:
        sample: the sample.
        where: name of the label.
        label: (height, width) in pixels.
        image: (height, width) of the image as it was read.
        num_channels: number of channels that it was read with.
    """
    if not is_turned(sample, label, image, num_channels):
        return (
            f"{where}: the label is {label[0]}x{label[1]} pixels, its image {image[0]}x{image[1]} "
            "(height x width). They must be of one size: export the label again, "
            "or resize it with nearest neighbour."
        )
    kept = sample.reading.exif == "stored"
    stored, shown = (image, label) if kept else (label, image)
    name = sample.image if isinstance(sample.image, Path) else "its image"
    now = f", which says exif={sample.reading.exif} now" if sample.reading.exif else ""
    return (
        f"{where}: the label is {label[0]}x{label[1]} pixels (height x width), but {name} is read "
        f"as {image[0]}x{image[1]}: its EXIF turns it from {stored[0]}x{stored[1]} to "
        f"{shown[0]}x{shown[1]}. Add exif=stored to the options of the data set{now}, as in "
        "folder:root=DIR,exif=stored, if its labels are drawn on images as they are stored, or "
        "exif=upright if they are drawn on images as they are shown; a label of the other kind "
        "must be exported again."
    )
