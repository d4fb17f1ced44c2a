"""The label map of `folder`: its class names, and the values of binary labels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segacc.contracts import IGNORE
from segacc.data.samples import JPEG_SUFFIXES, in_root, is_image
from segacc.errors import DataError, first_of
from segacc.hookspecs import Sample
from segacc.labels import Color, LabelMap, NamesFile, read_colors, read_names
from segacc.labels.label_map import naming
from segacc.plugins.datasets.files import names_beside, plain_map
from segacc.plugins.datasets.folder_layout import WHERE

BINARY_NAMES = ("background", "foreground")


def label_map(options: Any, root: Path, splits: Mapping[str, Sequence[Sample]]) -> LabelMap:
    """Build the label map: raw ids or colours and class names.

    Args:
        options: FolderOptions.
        root: folder of the data.
        splits: the samples, which are searched for binary label values.

    Raises:
        DataError: no class names, an invalid file, or labels that are not binary.
    """
    if options.colors is not None:
        told = read_colors(in_root(root, options.colors))
        return replace(plain_map(told, options), colors=told.colors)
    path = in_root(root, options.names) if options.names else names_beside(root)
    if options.binary:
        told = read_names(path) if path else NamesFile(list(BINARY_NAMES))
        samples = [sample for some in splits.values() for sample in some]
        return _binary(told, path, samples, ignore=(*told.ignored, *options.ignore))
    if path is None:
        raise DataError(
            f"{WHERE}: no class names. Put classes.json or classes.txt into {root}, or add "
            "names=FILE (a text file with one class name per line), colors=FILE if labels contain "
            "colours, or binary=true if they contain 0 and one other value."
        )
    return plain_map(read_names(path), options)


def _binary(
    told: NamesFile, path: Path | None, samples: Sequence[Sample], *, ignore: tuple[int, ...]
) -> LabelMap:
    if len(told.names) != 2:
        raise DataError(
            f"{WHERE}: binary=true needs two class names, the background's first; {path} has "
            f"{len(told.names)}."
        )
    files = [sample.label for sample in samples if isinstance(sample.label, Path)]
    lossy = [file for file in files if is_image(file, JPEG_SUFFIXES)]
    if lossy:
        if other := next((one for one in files if one not in lossy and one.is_file()), None):
            raise DataError(
                f"{WHERE}: binary=true: {lossy[0]} is a JPEG, {other} is not; expected one format."
            )
        with naming(told.source):
            return LabelMap(tuple(told.names), {k: int(k > 127) for k in range(256)})
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
    with naming(told.source):
        return LabelMap(tuple(told.names), classes, tuple(told.palette), colors)


def _foreground(sample: Sample, ignore: tuple[int, ...]) -> int | Color | None:
    """Return the value or colour of a label that is not 0; None if there is none.

    Raises:
        DataError: there are several.
    """
    import numpy as np

    from segacc.data.codecs import encoded, opened

    try:
        with opened(encoded(sample.label)) as picture:
            colored = len(picture.getbands()) > 1
            pixels = np.asarray(picture.convert("RGB") if colored else picture)
    except Exception:  # reported when the sample is read
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
        raise DataError(
            f"{WHERE}: binary=true needs labels with 0 and one other value, but {file} has "
            f"{first_of(others, 8)} besides 0. If edges are smooth, export the labels again "
            "without anti-aliasing; to ignore a value, add ignore=VALUE."
        )
    return others[0] if others else None
