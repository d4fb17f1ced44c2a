"""Data sets in the files of annotation tools: their shapes become labels when they are read."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segacc.contracts import IGNORE, MAX_PIXELS
from segacc.data.samples import is_image
from segacc.errors import DataError, UnreadableError, count_of, did_you_mean, first_of, twice_in
from segacc.hookspecs import DataSplits, Sample
from segacc.labels import LabelMap, read_names
from segacc.labels.annotations import IGNORED, Overlap
from segacc.labels.label_map import naming, refuse_many
from segacc.plugins.datasets.located import refuse_wrong

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from segacc.labels.annotations.shapes import AnnotatedImage, Annotations

BACKGROUND = "background"
BACKGROUNDS = (BACKGROUND, "_background_")
"""Names of a category, in lower case, that is the background; the second one is labelme's."""


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """Options of every data set whose labels are drawn from shapes."""

    background: Literal["class", "ignore"] = "class"
    """What the pixels of no shape are: the class `background`, which is class 0, or ignored."""
    overlap: Overlap = "order"
    """What a pixel of several shapes is: the last of them in the file, or the uppermost if the file
    has layers (`order`), or the smallest (`small_on_top`)."""


@dataclass(frozen=True)
class Rules:
    """How shapes become raw ids, which are class indices; 255 is ignored."""

    values: Mapping[str, int]
    """Raw id of each class name in the files."""
    background: int
    overlap: Overlap


@dataclass(frozen=True)
class Part:
    """The annotated images of a split."""

    annotations: "Annotations"
    images: Sequence[Path]
    """The image file of each."""
    files: Sequence[Path]
    """The annotation file of each, which may be the same for all."""


@dataclass(frozen=True, eq=False)
class DrawnLabel:
    """The label of an image, which is drawn when it is read; see `Drawn`."""

    file: Path
    """The annotation file."""
    image: Path
    read: Callable[[], "AnnotatedImage"]
    drawn_by: Rules

    def __str__(self) -> str:
        """Return the annotation file and the image."""
        return f"{self.file} (image {self.image.name})"

    def __eq__(self, other: object) -> bool:
        """Return whether it is the same label of the same image."""
        if not isinstance(other, DrawnLabel):
            return False
        same = (self.file, self.image, self.rules) == (other.file, other.image, other.rules)
        return same and self.read_bytes() == other.read_bytes()

    def __hash__(self) -> int:
        """Return a hash of the image's path."""
        return hash(self.image)

    @property
    def rules(self) -> str:
        """Return the options that the pixels depend on."""
        return repr(self.drawn_by)

    def read_bytes(self) -> bytes:
        """Draw the label: a PGM, which is encoded and decoded faster than a PNG.

        Raises:
            DataError: the annotation is faulty; or its image is needed for its size, and missing.
        """
        from segacc.labels.annotations.draw import draw
        from segacc.labels.annotations.reading import ShapeError

        told, rules = self.read(), self.drawn_by
        size = self._size(told)
        try:
            pixels = draw(
                told.shapes,
                size,
                rules.values,
                background=rules.background,
                overlap=rules.overlap,
            )
        except ShapeError as error:
            raise DataError(f"{self}: {error}.") from None
        return b"P5\n%d %d\n255\n" % (size[1], size[0]) + pixels.tobytes()

    def _size(self, told: "AnnotatedImage") -> tuple[int, int]:
        """Return (height, width) as stated, which is the image's, perhaps before its EXIF turns it.

        Raises:
            DataError: it is another one, or unknown.
        """
        from segacc.data.codecs import picture_size

        found = picture_size(self.image)
        stated = told.size or found
        if stated is None or (found is None and stated[0] * stated[1] > MAX_PIXELS):
            raise UnreadableError(f"{self}: the image cannot be read, so its size is unknown.")
        if found and stated not in (found, found[::-1]):
            raise DataError(
                f"{self}: the file states {stated[0]}x{stated[1]} pixels (height x width), but the "
                f"image has {found[0]}x{found[1]}. Was it resized after it was annotated? Export "
                "the annotations again, for this image."
            )
        return stated

    def outlines(self) -> "Sequence[NDArray[float64]]":
        """Return the outlines of all shapes; see `Drawn`."""
        from segacc.labels.annotations.draw import outlines

        told = self.read()
        return outlines(told.shapes, self._size(told))


# -------------------------------------------------------------------------------------- data splits
def build_parts(
    where: str, parts: Mapping[str, Part], options: DrawOptions, listed: Path | None = None
) -> DataSplits:
    """Build the splits, whose classes are those of all parts, matched by name.

    Args:
        where: start of error messages, e.g. `--dataset coco`.
        parts: by split.
        options: how labels are drawn.
        listed: a file of class names, which gives their order.

    Raises:
        DataError: an image is of two annotations or a prediction; there is no class, or more than
            a label map has, or one that is not listed.
    """
    for one in parts.values():
        refuse_wrong(where, one.annotations, one.images, one.files)
    found = (name for one in parts.values() for name in one.annotations.names)
    names = [name for name in dict.fromkeys(found) if name != IGNORED]
    if listed:
        names = _as_listed(names, listed)
    if not names:
        raise DataError(f"{where}: no annotation names a class, so there is nothing to learn.")
    with naming(listed or f"{where}: the classes of the annotations"):
        labels, rules = class_map(names, options)
    splits = {split: _samples(part, rules) for split, part in parts.items()}
    notes = [note for part in parts.values() for note in part.annotations.notes]
    notes += [line for split, part in parts.items() for line in _missing(split, part)]
    return DataSplits(splits, labels, notes=tuple(notes))


def _as_listed(names: Sequence[str], file: Path) -> list[str]:
    """Return the names in a file, without labelme's name for ignored pixels.

    Raises:
        DataError: it lacks one of the names.
    """
    known = [name for name in read_names(file).names if name != IGNORED]
    if others := [name for name in names if name not in known]:
        raise DataError(
            f"{file}: the annotations have {count_of(len(others), 'class', 'classes')} that it "
            f"does not list: {first_of(others, 4)}. {did_you_mean(others[0], known)}Add the name, "
            "or correct the annotations."
        )
    return known


def class_map(names: Sequence[str], options: DrawOptions) -> tuple[LabelMap, Rules]:
    """Return the label map, where raw ids are class indices, and how shapes are drawn.

    Shapes of the class IGNORED, as which `segacc convert` writes ignored pixels, are ignored.
    """
    own = next((name for name in names if name.lower() in BACKGROUNDS), None)
    listed = list(names)
    if options.background == "class":
        listed = [own or BACKGROUND, *(name for name in names if name != own)]
    values = {**{name: k for k, name in enumerate(listed)}, IGNORED: IGNORE}
    shown = [BACKGROUND if name.lower() in BACKGROUNDS else name for name in listed]
    outside = IGNORE if options.background == "ignore" else 0
    refuse_many(shown, "Merge some of them in the tool, or leave them out of its export.")
    return LabelMap.plain(shown), Rules(values, outside, options.overlap)


def _samples(part: Part, rules: Rules) -> list[Sample]:
    """Return the samples of a part."""
    images, names = part.annotations.images, _ids(part.images)
    reader = getattr(images, "reader", lambda index: partial(_given, images[index]))
    return [
        Sample(path, DrawnLabel(file, path, reader(index), rules), name)
        for index, (path, file, name) in enumerate(zip(part.images, part.files, names, strict=True))
    ]


def _ids(paths: Sequence[Path]) -> list[str]:
    """Return stems, or if these repeat, paths below the folder of all images."""
    names = [path.stem for path in paths]
    if twice_in(names):
        above = os.path.commonpath([path.parent for path in paths])
        names = [path.relative_to(above).as_posix() for path in paths]
    return names


def _given(image: "AnnotatedImage") -> "AnnotatedImage":
    return image


def _missing(split: str, part: Part) -> list[str]:
    """Return a line about the images that are not there; reading one raises."""
    parents = {path.parent for path in part.images}
    there = {one: set(os.listdir(one)) if one.is_dir() else set() for one in parents}  # noqa: PTH208
    gone = [path for path in part.images if path.name not in there[path.parent]]
    if not gone:
        return []
    are = "is" if len(gone) == 1 else "are"
    count = f"{len(gone)} of {count_of(len(part.images), 'annotated image')}"
    return [f"{split}: {count} {are} missing, such as {gone[0]}"]


def unlisted(parts: Mapping[str, Part]) -> tuple[str, ...]:
    """Return a line about the images that lie beside annotated ones and are in no annotation."""
    known = {str(path) for part in parts.values() for path in part.images}
    folders = {path.parent for part in parts.values() for path in part.images}
    beside = (path for one in sorted(folders) if one.is_dir() for path in one.iterdir())
    others = sorted(path for path in beside if str(path) not in known and is_image(path))
    if not others:
        return ()
    count = count_of(len(others), "image is", "images are")
    return (f"{count} in no annotation, and not read: {first_of(others, 2)}",)
