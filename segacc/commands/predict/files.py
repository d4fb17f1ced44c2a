"""Files of `segacc predict`: the images that the user named, and the outputs of each image."""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import has_magic
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

from segacc.commands.terminal.console import Where
from segacc.data.atomic import replacing
from segacc.data.samples import (
    IMAGE_SUFFIXES,
    SYSTEM_NAMES,
    folders_inside,
    is_hidden,
    is_image,
    other_endings,
)
from segacc.errors import OptionError, count_of, expand, first_of
from segacc.settings.commands import PredictConfig

if TYPE_CHECKING:
    import numpy as np

    from segacc.labels import LabelMap

OVERLAY, PROBABILITIES = "_overlay.png", "_probabilities.npz"
"""Endings of the files next to the PNG of raw label ids."""
AREAS = "areas.csv"
AREAS_COLUMNS = ("image", "class", "pixels", "share")
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".mts", ".m2ts", ".3gp", ".ogv"),
)
"""Lower-case file endings of videos, which are not read."""


@dataclass(frozen=True)
class Job:
    """An image and the paths of its prediction."""

    picture: Path
    index: Path
    """Path of the PNG of raw label ids."""
    overlay: Path
    probabilities: Path


def find_pictures(
    inputs: Sequence[str | Path], output_dir: Path, *, recursive: bool = False
) -> tuple[list[Job], list[str]]:
    """List the images in files, folders and patterns, with the paths of their predictions.

    With `recursive`, images in subfolders are included, and their predictions are written to
    subfolders of the same names.

    Returns:
        The images, and notes on skipped files and folders.

    Raises:
        OptionError: see `list_pictures`; or two predictions would have the same path, or an input
            would be overwritten.
    """
    pictures, notes = list_pictures(inputs, output_dir, recursive=recursive)
    jobs = [_job(path, output_dir / below / path.stem) for path, below in pictures]
    _refuse_clashes(jobs, output_dir)
    return jobs, notes


def list_pictures(
    inputs: Sequence[str | Path], output_dir: Path, *, recursive: bool = False
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """List the images in files, folders and patterns, sorted within each folder.

    The content of `output_dir` is excluded from subfolders.

    Returns:
        The images, each with its subfolder of what was given, and notes on skipped files and
        folders.

    Raises:
        OptionError: a path does not exist or is no image, or a folder has no image.
    """
    pictures: list[tuple[Path, Path]] = []
    notes: list[str] = []
    for given in [path for one in inputs for path in expanded(str(one))]:
        if given.is_dir():
            found, more = _in_folder(given, output_dir, recursive=recursive)
            pictures += [(path, path.parent.relative_to(given)) for path in found]
            notes += more
        else:
            pictures.append((given, Path()))
    if not pictures:
        raise OptionError(f"{first_of(inputs, 4)}: no image.")
    once = {row[0].resolve(): row for row in reversed(pictures)}
    return [*once.values()][::-1], notes


def _job(picture: Path, start: Path) -> Job:
    paths = (start.with_name(start.name + end) for end in (".png", OVERLAY, PROBABILITIES))
    return Job(picture, *paths)


def expanded(given: str) -> list[Path]:
    """Return an existing path, or the paths that match a pattern such as `photos/*.jpg`.

    Files such as Thumbs.db, which a shell's pattern may contain, are skipped.

    Raises:
        OptionError: there is no such path, or it is not that of an image.
    """
    path = expand(given)
    if path.name.lower() in SYSTEM_NAMES:
        return []
    if path.is_dir():
        return [path]
    if given == "-":
        raise OptionError("-: images are not read from standard input; give files or folders.")
    if "://" in given:
        raise OptionError(
            f"{given}: a URL; images are read from files only. Download it first, e.g. with "
            f"`curl -O {given}`, and give the file."
        )
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise OptionError(
            f"{given}: a video; only images are read. Write its frames to a folder first, e.g. "
            f"with `mkdir frames && ffmpeg -i {given} frames/%06d.png`, and give the folder."
        )
    if path.exists():
        return [path]
    fixed = list(takewhile(lambda part: not has_magic(part), path.parts))
    if len(fixed) == len(path.parts):
        raise OptionError(f"{given}: no such file or folder.")
    pattern = Path(*path.parts[len(fixed) :])
    root = Path(*fixed)
    matches = sorted(root.glob(str(pattern)))
    if found := [one for one in matches if not any(map(is_hidden, one.relative_to(root).parts))]:
        return found
    raise OptionError(f"{given}: no file or folder matches this pattern.")


def _in_folder(folder: Path, output_dir: Path, *, recursive: bool) -> tuple[list[Path], list[str]]:
    """List the images in a folder, with notes on skipped files and folders.

    Raises:
        OptionError: it has no image.
    """
    below = folders_inside(folder, but=[output_dir])
    found = sorted(filter(is_image, folder.iterdir()))
    notes = other_endings([folder, *(inside for inside, _ in below if recursive)])
    if recursive:
        found += [path for _, files in below for path in files]
    elif below:
        count = sum(len(files) for _, files in below)
        notes.append(
            f"{folder}: skipped {count_of(len(below), 'subfolder')} with "
            f"{count_of(count, 'image')}, such as {below[0][0]}; add --recursive to include them."
        )
    if not found:
        told = "".join(f" {line}" for line in notes)
        raise OptionError(
            f"{folder}: no image in this folder; looked for {', '.join(IMAGE_SUFFIXES)}.{told}"
        )
    return found, notes


def _refuse_clashes(jobs: Sequence[Job], output_dir: Path) -> None:
    inputs = {job.picture.resolve(): job.picture for job in jobs}
    written: dict[Path, Path] = {}
    for job in jobs:
        for target in (job.index, job.overlay):
            if picture := inputs.get(target.resolve()):
                raise OptionError(
                    f"--output-dir {output_dir}: {picture} would be overwritten; choose another "
                    "folder."
                )
            if (first := written.setdefault(target, job.picture)) != job.picture:
                raise OptionError(
                    f"{first} and {job.picture} would both be written as "
                    f"{target.relative_to(output_dir)}; use a different --output-dir for each."
                )


def refuse_foreign(config: PredictConfig, jobs: Sequence[Job], where: Where) -> None:
    """Refuse to replace files that `segacc predict` did not write.

    Raises:
        OptionError: one exists where a file would be written.
    """
    targets = [config.output_dir / AREAS] if config.areas else []
    for job in jobs:
        targets.append(job.index)
        targets += [job.overlay] if config.overlay else []
        targets += [job.probabilities] if config.save_probabilities else []
    for target in targets:
        foreign = False
        with suppress(OSError):  # a name that is too long
            foreign = target.is_file() and not _is_own(target)
        if foreign:
            raise OptionError(
                f"{where('output_dir')} {config.output_dir}: {target} would be overwritten, and it "
                "was not written by `segacc predict`. Choose another folder, or remove the file."
            )


def _is_own(path: Path) -> bool:
    """Return whether a file has the form of those that `segacc predict` writes."""
    from segacc.data.pictures import is_own

    if path.suffix == ".csv":
        with path.open("rb") as file:
            return file.readline().rstrip() == ",".join(AREAS_COLUMNS).encode()
    if path.suffix == ".npz":
        try:
            with ZipFile(path) as file:
                return set(file.namelist()) == {"probabilities.npy", "classes.npy"}
        except BadZipFile:
            return False
    return is_own(path)


def write_ids(raw: "np.ndarray[Any, Any]", labels: "LabelMap", path: Path) -> None:
    """Write raw ids (H, W) as a PNG; ids of 8 bits with the classes' colours as its palette.

    The pixel values are the raw ids in both forms.
    """
    import numpy as np
    from PIL import Image

    from segacc.data.pictures import write_picture

    picture = Image.fromarray(raw)
    if raw.dtype == np.uint8:
        palette = np.zeros((256, 3), np.uint8)
        palette[labels.restore(np.arange(len(labels.names)))] = labels.palette
        picture.putpalette(palette.tobytes())  # changes the mode to P, and no pixel
    write_picture(picture, path)


def write_probabilities(
    probabilities: "np.ndarray[Any, Any]", names: Sequence[str], path: Path
) -> None:
    """Write a compressed npz file with `probabilities` (K, H, W) and the K class names `classes`.

    The file is replaced atomically.
    """
    import numpy as np

    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, probabilities=probabilities, classes=np.array(names))


@contextmanager
def areas_file(
    path: Path, names: Sequence[str]
) -> Iterator[Callable[[Job, "np.ndarray[Any, Any]"], None]]:
    """Write a CSV file with a row for each class that is predicted in an image.

    The file is replaced atomically, at the end.

    Args:
        path: the file.
        names: the K class names.

    Yields:
        A function to call with each image and its prediction (H, W).
    """
    import numpy as np

    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(AREAS_COLUMNS)

        def add(job: Job, prediction: np.ndarray[Any, Any]) -> None:
            for k, count in enumerate(np.bincount(prediction.ravel()).tolist()):
                if count:
                    rows.writerow((job.picture, names[k], count, f"{count / prediction.size:.6f}"))

        yield add
