"""Finds the classes of a folder: its class list or colour table, and the values in its labels."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

from segacc.contracts import IGNORE, Drawn
from segacc.data.samples import IMAGE_SUFFIXES, evenly_spaced
from segacc.errors import DataError, NoClassesError, count_of, first_of
from segacc.hookspecs import Sample
from segacc.labels import Color, NamesFile, read_colors, read_names
from segacc.labels.names import starts_at_one
from segacc.plugins.datasets.files import NAMES_FILES, plain_map

CLASS_LISTS = (
    *NAMES_FILES,
    *("class_dict.csv", "labelmap.txt", "label_colors.txt", "colormap.txt", "colors.txt"),
    *("_classes.csv", "classes.csv", "class_names.txt", "label_names.txt", "names.txt"),
    *("labels.txt", "categories.txt", "classes.names"),
)
"""Names of class lists and colour tables that are found in a folder given by its path."""

FEW = 8
"""Number of labels that are read to tell ids from colours."""
MANY = 200
"""Number of labels that are read to list all ids, if there is no class list."""
PIXELS = 250_000
"""Number of pixels of a label in colours that are counted, evenly spaced."""
MOST = 64
"""Number of values above which labels are no classes, but photographs or numbered objects."""

LABELME, COCO = "polygons in JSON, as labelme writes them", "polygons in COCO JSON"
LABEL_STUDIO = "annotations in JSON, as Label Studio writes them"
"""Kinds of annotations in JSON that are data sets of their own."""

CLASS_KEYS = ("names", "colors", "binary")
EDITS = ("ignore", "reduce_labels", "map")

Value = int | Color


@dataclass(frozen=True)
class Values:
    """The values in some labels, with their numbers of pixels."""

    counts: Mapping[Value, int]
    labels: int
    """Number of labels that were read."""
    owners: Mapping[Value, int]
    """Number of labels that contain a value."""

    @property
    def colored(self) -> bool:
        """Return whether labels contain colours."""
        return any(isinstance(value, tuple) for value in self.counts)

    @property
    def is_binary(self) -> bool:
        """Return whether there are 0, or black, and one other value, which is not negative."""
        zero = (0, 0, 0) if self.colored else 0
        return len(self.counts) == 2 and zero in self.counts and not self.negative

    @property
    def is_zero_or_more(self) -> bool:
        """Return whether there are 0 and one other value, which is no class id, such as 255."""
        return self.is_binary and not self.colored and 1 not in self.counts

    @property
    def negative(self) -> list[int]:
        """Return the ids below 0, which can only be ignored."""
        return sorted(one for one in self.counts if isinstance(one, int) and one < 0)

    def shares(self) -> str:
        """Return the values with their shares of the pixels."""
        total = sum(self.counts.values())
        told = [f"{value}: {100 * n / total:.1f} %" for value, n in sorted(self.counts.items())]
        return first_of(told, 40)


def class_files(tree: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the paths of the class lists and colour tables, those in the folder itself first."""
    folders = sorted(tree, key=lambda name: (len(PurePosixPath(name).parts), name))
    return [
        (PurePosixPath(folder) / name).as_posix()
        for folder in folders
        for name in CLASS_LISTS
        if name in tree[folder]
    ]


def find_classes(
    root: Path,
    tree: Mapping[str, Sequence[str]],
    splits: Mapping[str, Sequence[Sample]],
    typed: Mapping[str, Any],
    given: str,
    where: str,
) -> dict[str, str]:
    """Return the options of `folder` that give the class names.

    Args:
        root: the folder.
        tree: its files.
        splits: the samples, some of whose labels are read.
        typed: options that the user has given.
        given: the folder as the user wrote it.
        where: start of error messages.

    Raises:
        NoClassesError: there is no class list. DataError: the ids fit it in two ways.
    """
    if any(key in typed for key in CLASS_KEYS):
        return {}
    samples = [one for some in splits.values() for one in some]
    values, files = read_values(samples, FEW), class_files(tree)
    tables = [path for path in files if _is_table(root / path)]
    plain = [path for path in files if path not in tables or path.endswith(".json")]
    names = next((path for path in plain if not _lists_files(root / path)), None)
    if not values.colored and names:
        return _of_list(root, names, values, typed, given, where)
    if tables and not (values.is_zero_or_more and _is_colorful(root / tables[0])):
        return {"colors": tables[0]}
    if values.is_binary:
        return {"binary": "true"}
    raise _no_classes(root, read_values(samples, MANY), given, where)


def _is_table(path: Path) -> bool:
    try:
        return bool(read_colors(path))
    except DataError:
        return False


def _lists_files(path: Path) -> bool:
    names = read_names(path).names
    return any(name.lower().endswith(IMAGE_SUFFIXES) for name in names)


def _is_colorful(path: Path) -> bool:
    return any(len(set(color)) > 1 for color in read_colors(path).colors)


def _of_list(
    root: Path, path: str, values: Values, typed: Mapping[str, Any], given: str, where: str
) -> dict[str, str]:
    """Use a list of names; two names fit labels with 0 and any other value."""
    told = read_names(root / path)
    found = {"names": path}
    if any(key in typed for key in EDITS):
        return found
    if len(told.names) == 2 and values.is_zero_or_more:
        return {**found, "binary": "true"}
    _refuse_one_more(told, root / path, values, given, where)
    return found


def _refuse_one_more(told: NamesFile, path: Path, values: Values, given: str, where: str) -> None:
    """Refuse ids 0..K for K names: K may mean `not labelled`, and 0 if it is not frequent.

    Raises:
        DataError: that is so.
    """
    options = SimpleNamespace(ignore=(), reduce_labels=None)
    known, count = plain_map(told, options).classes, len(told.names)
    if sorted(value for value in values.counts if value not in known) != [count]:
        return
    ignore, shift = (shlex.quote(f"{given}:{o}") for o in (f"ignore={count}", "reduce_labels=true"))
    share = values.counts.get(0, 0) / sum(values.counts.values())
    or_zero = f" If 0 does, and the classes start at 1, write `--dataset {shift}`."
    if not starts_at_one(share, values.owners.get(0, 0), values.owners[count]):
        or_zero = ""
    raise DataError(
        f"{where}: {path} has {count} names, for the ids 0 to {count - 1}, but the labels also "
        f"contain the id {count} (shares of the pixels: {values.shares()}). If {count} means `not "
        f"labelled`, write `--dataset {ignore}`.{or_zero} If {count} is a class, add its name to "
        f"{path.name}."
    )


def _no_classes(root: Path, values: Values, given: str, where: str) -> DataError:
    """Return the error for a folder without class names, with a class list that fits."""
    if not values.counts:
        return DataError(f"{where}: none of the labels checked in {given} can be read.")
    ids = [value for value in values.counts if value != IGNORE]
    seen = f"the values of {count_of(values.labels, 'label')} and their shares of the pixels are "
    seen += values.shares()
    if len(ids) > MOST:
        return DataError(
            f"{where}: {given} has no class list, and the labels have too many values for class "
            f"ids: {seen}. Labels with smooth edges or lossy compression must be exported again; "
            "labels that number objects do not give classes."
        )
    typed, ignore = shlex.quote(given), "/".join(map(str, values.negative))
    run = shlex.quote(f"{given}:ignore={ignore}") if ignore else typed
    name, text = ("class_dict.csv", _table_of(ids)) if values.colored else _list_of(ids)
    what = "colour table, and its labels contain colours" if values.colored else "class list"
    lines = "lines `name,r,g,b`" if values.colored else "a class name per line, that of id 0 first"
    return NoClassesError(
        f"{where}: {given} has no {what}; {seen}. Write {root / name} with {lines}, or let "
        f"`segacc check-data --dataset {typed} --write-classes` write it with the names class_0, "
        f"class_1, ..., which you may edit. Then `segacc --dataset {run}` trains.",
        root / name,
        text,
    )


def _table_of(colors: Sequence[Value]) -> str:
    known = sorted(one for one in colors if isinstance(one, tuple))
    rows = [f"class_{k},{','.join(map(str, color))}" for k, color in enumerate(known)]
    return "\n".join(["name,r,g,b", *rows, ""])


def _list_of(ids: Sequence[Value]) -> tuple[str, str]:
    highest = max((one for one in ids if isinstance(one, int)), default=0)
    names = [f"class_{k}" for k in range(max(highest, 1) + 1)]
    return "classes.txt", "\n".join([*names, ""])


def read_values(samples: Sequence[Sample], most: int) -> Values:
    """Count the values in up to `most` labels, evenly spaced; unreadable ones are skipped."""
    counts, owners, read = Counter[Value](), Counter[Value](), 0
    for index in evenly_spaced(len(samples), most):
        found = dict(_values(samples[index].label))
        counts.update(found)
        owners.update(found.keys())
        read += bool(found)
    return Values(counts, read, owners)


def _values(label: Path | bytes | Drawn) -> Iterator[tuple[Value, int]]:
    import numpy as np

    from segacc.data.codecs import encoded, opened

    try:
        with opened(encoded(label)) as picture:
            colored = len(picture.getbands()) > 1
            pixels = np.asarray(picture.convert("RGB") if colored else picture)
    except Exception:  # reported when the sample is read
        return
    if pixels.dtype.kind == "f":
        return
    if colored:
        flat = pixels.reshape(-1, 3)
        flat = flat[:: max(1, len(flat) // PIXELS)].astype(np.int64)
        packed = (flat[:, 0] << 16) + (flat[:, 1] << 8) + flat[:, 2]
        for value, count in zip(*np.unique(packed, return_counts=True), strict=True):
            yield (int(value) >> 16, int(value) >> 8 & 255, int(value) & 255), int(count)
    elif pixels.dtype == np.uint8:
        counts = np.bincount(pixels.reshape(-1))
        yield from ((int(value), int(counts[value])) for value in np.flatnonzero(counts))
    else:
        for value, count in zip(*np.unique(pixels, return_counts=True), strict=True):
            yield int(value), int(count)


# ------------------------------------------------------------------- labels that are no images
def other_labels(root: Path, tree: Mapping[str, Sequence[str]]) -> str:
    """Name labels that are no label images, with a file; empty if there are none."""
    files = [PurePosixPath(folder) / name for folder, names in tree.items() for name in names]
    stems = {file.stem for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
    for file in files:
        if file.suffix.lower() == ".json" and (kind := kind_of_json(root / file)):
            return f"{kind} ({file})"
    for file in files:
        if (
            file.suffix.lower() == ".txt"
            and file.stem in stems
            and (kind := kind_of_text(root / file))
        ):
            return f"{kind} ({file})"
    kinds = {".npz": "NumPy archives", ".mat": "MATLAB files", ".xml": "XML files"}
    for suffix, kind in kinds.items():
        if one := next((file for file in files if file.suffix.lower() == suffix), None):
            return f"{kind} ({one})"
    return ""


def kind_of_json(path: Path) -> str:
    """Name the annotations in a JSON file by its beginning; empty if they are unknown."""
    head = head_of(path)
    if head.lstrip().startswith("["):
        return LABEL_STUDIO if '"annotations"' in head and '"result"' in head else ""
    if '"shapes"' in head or '"imageData"' in head:
        return LABELME
    if '"regions"' in head and '"shape_attributes"' in head:
        return "polygons in JSON, as VIA writes them"
    coco = {key for key in ("images", "annotations", "categories") if f'"{key}"' in head}
    coco |= {key for key in ("file_name", "height") if f'"{key}"' in head}
    named = re.search(r"instances|coco|panoptic", path.name.lower())
    return COCO if len(coco) > 1 or (coco and named) else ""


def head_of(path: Path) -> str:
    """Return the beginning of a text file; nothing of one that cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""


def kind_of_text(path: Path) -> str:
    """Name the labels in YOLO's text files by the first line; empty for any other file."""
    cells = head_of(path).partition("\n")[0].split()
    if len(cells) < 5 or not all(re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell) for cell in cells):
        return ""
    return "boxes in YOLO text files" if len(cells) == 5 else "polygons in YOLO text files"
