"""What the labels of `folder` mean: class names, colours, or two values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segacc.contracts import IGNORE
from segacc.errors import DataError
from segacc.hookspecs import Sample
from segacc.labels import Color, LabelMap, NamesFile, read_colors, read_names
from segacc.plugins.datasets.folder_layout import WHERE

NAMES_FILES = ("classes.json", "id2label.json", "classes.txt")
BINARY_NAMES = ("background", "foreground")


def in_root(root: Path, path: Path | None) -> Path | None:
    """Return a file as it was typed, or that of this name in `root` where there is none."""
    if path is None:
        return None
    typed = path.expanduser()
    return root / typed if not typed.exists() and (root / typed).exists() else typed


def label_map(options: Any, root: Path, splits: Mapping[str, Sequence[Sample]]) -> LabelMap:
    """Read what raw ids, or colours, the labels have.

    Args:
        options: FolderOptions.
        root: of the data.
        splits: samples, of which binary labels are looked at.

    Raises:
        DataError: no class names, a file that is not what it should be, or labels that are not
            binary.
    """
    if options.colors is not None:
        told = read_colors(in_root(root, options.colors) or options.colors)
        return replace(_plain(told, options), colors=told.colors)
    path = in_root(root, options.names) or _names_in(root)
    if options.binary:
        told = read_names(path) if path else NamesFile(list(BINARY_NAMES))
        samples = [sample for some in splits.values() for sample in some]
        return _binary(told, path, samples, ignore=(*told.ignored, *options.ignore))
    if path is None:
        raise DataError(
            f"{WHERE}: no class names. Put classes.json or classes.txt into {root}, or add "
            "names=FILE (a text file with one class name a line), colors=FILE where labels hold "
            "colours, or binary=true where they hold 0 and one other value."
        )
    return _plain(read_names(path), options)


def _names_in(root: Path) -> Path | None:
    return next((root / name for name in NAMES_FILES if (root / name).is_file()), None)


def _plain(told: NamesFile, options: Any) -> LabelMap:
    reduce_labels = told.reduce_labels if options.reduce_labels is None else options.reduce_labels
    ignore = (*told.ignored, *options.ignore)
    return LabelMap.plain(
        told.names, ignore=ignore, reduce_labels=reduce_labels, palette=told.palette
    )


def _binary(
    told: NamesFile, path: Path | None, samples: Iterable[Sample], *, ignore: tuple[int, ...]
) -> LabelMap:
    if len(told.names) != 2:
        raise DataError(
            f"{WHERE}: binary=true needs two class names, the background's first; {path} has "
            f"{len(told.names)}."
        )
    found = next((one for sample in samples if (one := _foreground(sample, ignore))), None)
    if found is None:
        raise DataError(f"{WHERE}: binary=true, but no label has a value other than 0.")
    value = 255
    colors: dict[Color, int] = {}
    if isinstance(found, int):
        value = found
    else:
        colors = {(0, 0, 0): 0, found: value}
    ignored = dict.fromkeys((IGNORE, *ignore), IGNORE)
    classes = {**ignored, 0: 0, value: 1}
    return LabelMap(tuple(told.names), classes, tuple(told.palette), colors)


def _foreground(sample: Sample, ignore: tuple[int, ...]) -> int | Color | None:
    """Return the value or colour of a label that is not 0; None where all of it is.

    Raises:
        DataError: it has several.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(str(sample.label)) as picture:
            colored = len(picture.getbands()) > 1
            pixels = np.asarray(picture.convert("RGB") if colored else picture)
    except Exception:  # told when the sample is read
        return None
    if pixels.dtype.kind == "f":
        return None
    others: list[int | Color]
    if colored:
        found = np.unique(pixels.reshape(-1, 3), axis=0)
        others = [(int(r), int(g), int(b)) for r, g, b in found if (r, g, b) != (0, 0, 0)]
    else:
        others = [int(value) for value in np.unique(pixels) if value not in (0, *ignore)]
    if len(others) > 1:
        file = sample.label if isinstance(sample.label, Path) else sample.id
        told = ", ".join(map(str, others[:8])) + (" ..." if len(others) > 8 else "")
        raise DataError(
            f"{WHERE}: binary=true needs labels of 0 and one other value, but {file} has "
            f"{told} beside 0. If edges are smooth, export the labels again without "
            "anti-aliasing; if a value should count for nothing, add it as ignore=VALUE."
        )
    return others[0] if others else None
