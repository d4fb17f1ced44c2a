"""The image files of `segacc convert`: their names, their copies, and the labels that fit them."""

import errno
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segacc.errors import DataError, OptionError, UnreadableError, cut
from segacc.hookspecs import Sample

if TYPE_CHECKING:
    import numpy as np

    from segacc.labels import LabelMap

NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')
"""Characters that a file name cannot have on some system."""


def refuse_no_folder(split: str) -> None:
    """Refuse the name of a split that cannot be that of a folder.

    Raises:
        DataError: it has such characters, or begins with a dot, like hidden folders and `..`.
    """
    if NOT_IN_NAMES.search(split) or split.startswith(".") or not split:
        raise DataError(
            f"The split {cut(split)!r} cannot be written, since a folder cannot have this name. "
            "Rename it in the data set, or choose other splits with --split."
        )


@dataclass
class Names:
    """The file names of the images of a split, which are unique also without their endings."""

    used: dict[str, str] = field(default_factory=dict)
    """The sample of each name, in lower case."""

    def of(self, sample: Sample) -> str:
        """Return the name of a sample's image: its id, and the ending of its kind of image.

        Raises:
            DataError: another sample has the same name, or the same id.
        """
        stem = NOT_IN_NAMES.sub("_", sample.id).removeprefix(".") or "_"
        if (first := self.used.get(stem.lower())) is not None:
            both = f"samples {first} and {sample.id}"
            both = both if first != sample.id else f"two samples with the id {first}"
            raise DataError(
                f"The {both} would both be written as {stem}; rename the image of one, or convert "
                "them to different folders."
            )
        self.used[stem.lower()] = sample.id
        return f"{stem}{ending(sample)}"


def ending(sample: Sample) -> str:
    """Return the ending of an image file, or of the format of an encoded image.

    Raises:
        UnreadableError: the format is unknown.
    """
    if isinstance(sample.image, Path):
        return sample.image.suffix
    from segacc.data.codecs import opened

    try:
        with opened(sample.image) as file:
            kind = (file.format or "").lower()
    except Exception as error:  # a damaged file makes Pillow raise anything
        raise UnreadableError(
            f"sample {sample.id}: the image cannot be read, so that its format is unknown."
        ) from error
    return {"jpeg": ".jpg", "tiff": ".tif"}.get(kind, f".{kind}")


def place(sample: Sample, path: Path, how: Literal["copy", "link"]) -> None:
    """Copy the image file of a sample, or make a hard link to it.

    Raises:
        OptionError: a link is impossible. UnreadableError: the image is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(sample.image, Path):
        path.write_bytes(sample.image)
        return
    if not sample.image.is_file():
        raise UnreadableError(f"{sample.image}: the image cannot be read: no such file.")
    if how == "copy":
        shutil.copyfile(sample.image, path)
        return
    try:
        os.link(sample.image.resolve(), path)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        raise OptionError(
            f"--images link: {sample.image}: no hard link to it can be made in {path.parent} "
            f"({error.strerror}). Use --images copy."
        ) from None


def label_of(sample: Sample, labels: "LabelMap") -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Read the label of a sample as classes (H, W) uint8, 255 ignored.

    Raises:
        DataError: it is invalid, its size is not that of its image, or the image is shown by tools
            in another orientation than its label has.
    """
    from segacc.data.codecs import picture_size, turn_of
    from segacc.data.decode import raw_label
    from segacc.data.sample_pair import name_of_label, sizes_text

    where = name_of_label(sample)
    labels = sample.labels or labels
    raw = raw_label(sample.label, labels, where, sample.reading)
    stored = sample.reading.exif == "stored"
    picture = str(sample.image) if isinstance(sample.image, Path) else f"sample {sample.id}"
    size = picture_size(sample.image, stored=stored)
    if size is None:
        raise UnreadableError(f"{picture}: the image cannot be read: its header is damaged.")
    if size != raw.shape:
        raise DataError(sizes_text(sample, where, (raw.shape[0], raw.shape[1]), size, 3))
    if stored and (turn := turn_of(sample.image)) != 1:
        raise DataError(
            f"{picture}: its EXIF orientation is {turn}, by which annotation tools rotate it, but "
            "with exif=stored its label is for the image as it is stored. Remove the orientation "
            "from the file first, e.g. with `exiftool -Orientation= FILE`."
        )
    return labels.apply(raw, where)
