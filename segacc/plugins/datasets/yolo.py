"""`yolo`: polygons in YOLO's text files, with the classes and splits of a data.yaml."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from segacc.data.samples import evenly_spaced, in_root, is_image, is_inside
from segacc.data.splits import read_each
from segacc.errors import DataError, EmptySplitError, count_of, first_of, read_text
from segacc.hookspecs import Dataset, DataSplits, hookimpl
from segacc.labels import read_names
from segacc.plugins.datasets.annotated import DrawOptions, Part, build_parts
from segacc.plugins.datasets.files import SPLITS, first_folder, listing, names_beside, read_lines

WHERE = "--dataset yolo"
CONFIGS = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
"""Usual names of the file with classes and splits."""
FEW = 4
"""Number of text files of each split that are read at once."""
FORM = "Expected are lines such as `names: [road, sky]` and `train: images/train`."


@dataclass(frozen=True, kw_only=True)
class YoloOptions(DrawOptions):
    """Options of yolo."""

    root: Path
    """The folder with data.yaml, or a YAML file of this kind. Without one, the folder contains
    images/SPLIT/ and labels/SPLIT/, or SPLIT/images/ and SPLIT/labels/."""
    names: Path | None = None
    """Class names, a text file with one per line; default: those in the YAML file, or classes.txt
    in `root`."""


def build_yolo(options: YoloOptions) -> DataSplits:
    """Read the images of each split; their polygons are read with them.

    Raises:
        DataError: a folder or the class names are missing, or the YAML file is faulty.
    """
    given = options.root
    if not given.exists():
        raise DataError(f"{WHERE}: root={given} does not exist (looked in {given.resolve()}).")
    root = given if given.is_dir() else given.parent
    config = given if given.is_file() else config_of(root)
    content = _content(config) if config else {}
    names = _names(options, root, config, content)
    places = folders_of(root, config, anywhere=given.is_file())
    if not places:
        raise DataError(
            f"{WHERE}: {config or root} has no images: expected `train: images/train` in a "
            f"data.yaml, or images/train/ beside labels/train/. {root} contains {listing(root)}."
        )
    inside = None if given.is_file() else root
    reads = {split: partial(_part, some, names, inside) for split, some in places.items()}
    parts, unusable = read_each(reads)
    data = build_parts(WHERE, parts, options)
    return replace(data, unusable=unusable, notes=(*data.notes, *_strays(parts.values())))


def config_of(root: Path) -> Path | None:
    """Return the YAML file of a folder that lists classes and splits; None if there is none."""
    usual = [root / name for name in CONFIGS]
    others = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    found = (path for path in (*usual, *others) if path.is_file())
    return next((path for path in found if "names" in _content(path)), None)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a description of a YOLO data set. {FORM}")
    return content


def _names(
    options: YoloOptions, root: Path, config: Path | None, content: dict[str, Any]
) -> list[str]:
    """Return the class names.

    Raises:
        DataError: there are none, or not as many as the YAML file says.
    """
    from segacc.labels.annotations.reading import refuse_twice

    path = in_root(root, options.names) if options.names else config or names_beside(root)
    if path is None or (path == config and "names" not in content):
        raise DataError(
            f"{WHERE}: {root} has no class names: neither data.yaml nor classes.txt. {FORM}"
        )
    names = read_names(path).names
    count = content.get("nc") if path == config else None
    if count is not None and str(count) != str(len(names)):
        raise DataError(f"{path}: nc is {count}, but there are {len(names)} names.")
    refuse_twice(path, "the classes name", names, "Give each class a name of its own.")
    return names


def folders_of(root: Path, config: Path | None, *, anywhere: bool = False) -> dict[str, list[Path]]:
    """Return the folders and lists of images of each split.

    Args:
        root: the folder.
        config: the YAML file that gives them; None looks for folders of the usual names.
        anywhere: whether they may be outside `root`.
    """
    if config is None:
        return _folders(root)
    content = _content(config)
    base = _path(content.get("path") or ".")
    found = dict[str, list[Path]]()
    for split, names in SPLITS.items():
        told: Any = next((content[name] for name in names if content.get(name)), [])
        paths = told if isinstance(told, list) else [told]
        found[split] = [_place(root, base, _path(path), anywhere=anywhere) for path in paths]
    return {split: some for split, some in found.items() if some}


def _path(told: Any) -> Path:
    """Return a path of the YAML file, which may be written with Windows' backslashes."""
    return Path(str(told).replace("\\", "/"))


def _place(root: Path, base: Path, path: Path, *, anywhere: bool) -> Path:
    """Return where a path of the YAML file is: below its folder, or as it is written.

    The file may be written on another disk, or for another working folder, as Roboflow's
    `../train/images`.
    """
    inner = Path(*(part for part in path.parts if part not in ("..", path.anchor)))
    found = [root / base / path, root / path, root / base / inner, root / inner]
    found = [one for one in found if anywhere or is_inside(root, one)]
    return next((one for one in found if one.exists()), found[-1])


def _folders(root: Path) -> dict[str, list[Path]]:
    """Return the image folders of a folder without a YAML file."""
    images = root / "images"
    found = dict[str, list[Path]]()
    for split, names in SPLITS.items():
        own = first_folder(images, names) if images.is_dir() else None
        above = first_folder(root, names)
        if own or (above and (above / "images").is_dir()):
            found[split] = [own or Path(str(above)) / "images"]
    return found or ({"train": [images]} if images.is_dir() else {})


def _part(places: Sequence[Path], names: Sequence[str], root: Path | None) -> Part:
    """Read a split; `root` is the folder that contains all its images, if it must.

    Raises:
        DataError: there is no image, or one outside; or a text file is faulty.
    """
    from segacc.data.codecs import picture_size
    from segacc.labels.annotations.reading import refuse_twice
    from segacc.labels.annotations.yolo import read_yolo, text_of

    images = list(dict.fromkeys(path for place in places for path in _images(place)))
    if not images:
        raise EmptySplitError(f"{places[0]}: the split is empty: it has no image.")
    if root and (far := next((path for path in images if not is_inside(root, path)), None)):
        raise DataError(
            f"{places[0]}: this list, which was found in {root}, names {far}, a file outside it. "
            "If you wrote the list, give the YAML file, as yolo:root=DIR/data.yaml."
        )
    texts = [text_of(path) for path in images]
    cure = "Rename one of the images."
    refuse_twice(places[0], "two images have the text file", map(str, texts), cure)
    annotations = read_yolo(images, names, picture_size)
    for index in evenly_spaced(len(images), FEW):
        annotations.images[index]  # raises, such as for boxes, before a run starts
    return Part(annotations, images, texts)


def _images(place: Path) -> Iterator[Path]:
    """Yield the images of a folder and its subfolders, or those that a text file lists.

    Raises:
        DataError: there is no such folder or file, or nothing that the file lists.
    """
    if place.is_dir():
        yield from (path for path in sorted(place.rglob("*")) if is_image(path))
    elif place.is_file():
        yield from _listed(place)
    else:
        raise DataError(
            f"{WHERE}: {place}, named in the YAML file, is neither a folder nor a list."
        )


def _listed(file: Path) -> list[Path]:
    """Return the images that a text file lists, beside it or from the working directory.

    Raises:
        DataError: none of them is there.
    """
    lines = read_lines(file)
    both = [(file.parent / line, Path(line)) for line in lines]
    found = [far if far.exists() and not near.exists() else near for near, far in both]
    if not any(path.exists() for path in found):
        raise DataError(
            f"{file}: none of its {count_of(len(lines), 'image')} is there, such as {lines[0]}. "
            f"Paths are relative to {file.parent}, or to the working directory."
        )
    return found


def _strays(parts: Any) -> tuple[str, ...]:
    """Return a line about text files of polygons without an image."""
    known = {path for part in parts for path in part.files}
    folders = sorted({path.parent for path in known})
    beside = [path for one in folders if one.is_dir() for path in sorted(one.glob("*.txt"))]
    others = [path for path in beside if path not in known and path.name != "classes.txt"]
    told = f"{count_of(len(others), 'text file')} without an image: {first_of(others, 2)}"
    return (told,) if others else ()


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register yolo."""
    return [
        Dataset(
            name="yolo",
            summary="polygons in YOLO text files with data.yaml, as for Ultralytics' segmentation",
            options=YoloOptions,
            build=build_yolo,
        )
    ]
