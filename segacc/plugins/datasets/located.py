"""Where the image files of annotations are: found by the names in the files, and checked."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from segacc.data.samples import IMAGE_SUFFIXES, is_image, is_inside
from segacc.errors import DataError, count_of
from segacc.plugins.datasets.files import listing

if TYPE_CHECKING:
    from segacc.labels.annotations.shapes import Annotations


def located(
    where: str, file: Path, names: Sequence[str], folder: Path, option: str = "images"
) -> list[Path]:
    """Return the path of each image that an annotation file names.

    A name is a path in the folder. Tools also write paths of their own disk: as many folders are
    left out at the beginning of all names as it takes for one to be there, at last all of them.
    Videos have names without an ending, which is that of the file.

    Args:
        where: start of error messages.
        file: the annotation file.
        names: of its images.
        folder: of the images.
        option: that names the folder, for errors.

    Raises:
        DataError: no image is there, or a name leads out of the folder.
    """
    if not folder.is_dir():
        raise DataError(f"{where}: {option}={folder} is not a folder.")
    inside, exact = _Inside(folder), list[Path | None]()
    for told in shortened(names):
        exact = [inside.find(name) for name in told]
        if any(path and "/" in name for path, name in zip(exact, told, strict=True)):
            break
    else:
        told = [name.replace("\\", "/") for name in names]
    found = [path or _elsewhere(file, name, inside) for path, name in zip(exact, told, strict=True)]
    if found and not any(path.is_file() for path in found):
        raise DataError(
            f"{where}: none of the {count_of(len(names), 'image')} of {file} is in {folder}, such "
            f"as {names[0]}; it contains {listing(folder)}. Name the folder of the images as "
            f"{option}=DIR."
        )
    return found


def shortened(names: Sequence[str]) -> Iterator[list[str]]:
    r"""Yield the names of images without 0, 1, 2, ... of their first folders, at last without any.

    The folders are separated by `/`, also if they are by `\` in the names.
    """
    parts = [name.replace("\\", "/").split("/") for name in names]
    for count in range(max(map(len, parts), default=0)):
        yield ["/".join(some[min(count, len(some) - 1) :]) for some in parts]


@dataclass(frozen=True)
class _Inside:
    """The files below a folder, each of whose subfolders is listed once."""

    folder: Path
    known: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """The names of the files of a subfolder, by what annotations may call them."""

    def find(self, name: str) -> Path | None:
        """Return the path of a file; None if there is none."""
        above, _, last = name.rpartition("/")
        if above not in self.known:
            place = self.folder / above
            is_there = is_inside(self.folder, place) and place.is_dir()
            self.known[above] = _names_in(place) if is_there else {}
        file = self.known[above].get(last)
        return self.folder / above / file if file else None


def _names_in(folder: Path) -> dict[str, str]:
    """Return the names of a folder's files, also by the stem if it is that of a single image."""
    with os.scandir(folder) as inside:
        names = sorted(one.name for one in inside if one.is_file())
    stems = dict[str, list[str]]()
    for path in filter(is_image, map(Path, names)):
        stems.setdefault(path.stem, []).append(path.name)
    bare = {stem: some[0] for stem, some in stems.items() if len(some) == 1}
    bare = {one: name for one, name in bare.items() if not one.lower().endswith(IMAGE_SUFFIXES)}
    return {**bare, **{name: name for name in names}}


def _elsewhere(file: Path, name: str, inside: _Inside) -> Path:
    """Return the path of an image that is not where its name says, which may be missing.

    Raises:
        DataError: the name leads out of the folder, and no file has its last part.
    """
    folder, last = inside.folder, name.rpartition("/")[2]
    far = not is_inside(folder, folder / name)
    path = inside.find(last) if far else None
    if path is None and far:
        raise DataError(
            f"{file}: the image {name} is outside {folder}, and no file of that folder is named "
            f"{last}."
        )
    return path or folder / name


def is_prediction(path: Path) -> bool:
    """Return whether a file is a picture that segacc wrote, such as `segacc predict` does."""
    from segacc.data.pictures import is_own

    with suppress(OSError):  # missing, or reported when it is read
        return path.suffix.lower() == ".png" and is_own(path)
    return False


def refuse_wrong(
    where: str, annotations: "Annotations", images: Sequence[Path], files: Sequence[Path]
) -> None:
    """Refuse image files that are of two annotations, or pictures that segacc wrote.

    Args:
        where: start of error messages.
        annotations: a split of them.
        images: the image file of each.
        files: the annotation file of each.

    Raises:
        DataError: there is one.
    """
    first = dict[str, int]()
    for index, path in enumerate(images):
        other = first.setdefault(os.path.normpath(path), index)
        if other != index and files[other] != files[index]:
            raise DataError(
                f"{where}: {files[other]} and {files[index]} are both annotations of {path}. "
                "Correct the name of the image in one of them, or keep one, with the shapes of "
                "both."
            )
        if other != index:
            names = [annotations.images[k].name for k in (other, index)]
            raise DataError(
                f"{files[index]}: the images {names[0]} and {names[1]} would both be read from "
                f"{path}. Give each a file of its own, or keep one of the entries."
            )
    if own := next(filter(is_prediction, images), None):
        raise DataError(
            f"{where}: {own} is a picture that segacc wrote, such as a prediction, and not the "
            f"image of {files[images.index(own)]}. Put the image in its place, or name the folder "
            "of the images as images=DIR."
        )
