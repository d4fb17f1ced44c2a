"""List files of `folder`: the samples of a split, one a line."""

import re
from collections.abc import Sequence
from pathlib import Path

from segacc.data.samples import JPEG_SUFFIXES
from segacc.errors import DataError
from segacc.hookspecs import Sample
from segacc.plugins.datasets.files import expect_labels, read_lines
from segacc.plugins.datasets.folder_layout import WHERE

Row = tuple[str, ...]


def rows(path: Path, root: Path, images: Path) -> list[Row]:
    """Read a list: of each line the paths of image and label in `root`, or the image's name.

    Columns lie between tabs, commas, semicolons or spaces; the name of a file in `root` or in the
    folder `images` may have them in it.

    Raises:
        DataError: the list cannot be read, is empty, or a line has other columns than the first.
    """
    lines = read_lines(path)
    found = [_columns(line, (root, images)) for line in lines]
    for line, row in zip(lines, found, strict=True):
        if len(row) > 2 or len(row) != len(found[0]):
            raise DataError(
                f"{path}: the line {line!r} has {len(row)} columns; expected the same in every "
                f"line: `IMAGE LABEL`, two paths in {root}, or the name of an image. Put commas "
                "between paths with spaces."
            )
    return found


def _columns(line: str, folders: tuple[Path, ...]) -> Row:
    if not re.search(r"[\s,;]", line) or any((one / line).is_file() for one in folders):
        return (line,)
    comma = next((one for one in "\t,;" if one in line), None)
    return tuple(part.strip() for part in line.split(comma))


def samples_of_rows(path: Path, found: Sequence[Row], root: Path) -> list[Sample]:
    """Make samples of the paths of images and labels.

    Ids are the images' stems, or their paths where stems come twice.

    Raises:
        DataError: an image is not there, or is listed twice; a label is a JPEG; no label is there.
    """
    gone = [image for image, _ in found if not (root / image).is_file()]
    if gone:
        told = ", ".join(gone[:4]) + (" ..." if len(gone) > 4 else "")
        raise DataError(
            f"{path}: {len(gone)} of its {len(found)} images are not there: {told}. Paths start "
            f"from {root}."
        )
    jpegs = [label for _, label in found if label.lower().endswith(JPEG_SUFFIXES)]
    if jpegs:
        raise DataError(
            f"{path}: {jpegs[0]}: labels must be PNG or another lossless format: JPEG changes the "
            "ids. Export the labels again."
        )
    images = [image for image, _ in found]
    _refuse_twins(path, images)
    stems = [Path(image).stem for image in images]
    ids = stems if len(set(stems)) == len(stems) else [str(Path(i).with_suffix("")) for i in images]
    samples = [
        Sample(root / image, root / label, name)
        for (image, label), name in zip(found, ids, strict=True)
    ]
    expect_labels(WHERE, samples)
    return samples


def images_of_rows(path: Path, found: Sequence[Row], root: Path, *, ending: str) -> dict[str, Path]:
    """Name the images of a list of paths by their stems, without `ending`.

    Raises:
        DataError: two have one stem.
    """
    stems = [Path(image).stem.removesuffix(ending) for (image,) in found]
    _refuse_twins(path, stems)
    return {stem: root / image for stem, (image,) in zip(stems, found, strict=True)}


def _refuse_twins(path: Path, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{path}: {name} is listed twice; keep one line of each.")
        seen.add(name)
