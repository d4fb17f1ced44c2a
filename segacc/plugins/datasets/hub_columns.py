"""Detects the columns of image, label and ids, and the class names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from segacc.errors import DataError, OptionError, did_you_mean
from segacc.plugins.datasets.hub_files import WHERE

IMAGE_NAMES = ("image", "img", "pixel_values", "picture", "photo", "jpg", "jpeg")
LABEL_NAMES = (
    *("label", "labels", "label_map", "label_image", "annotation", "annotations"),
    *("mask", "masks", "segmentation_mask", "semantic_mask", "semantic_segmentation"),
    *("segmentation", "segmentation_map", "semseg", "ground_truth", "gt"),
)
ID_NAMES = ("id", "image_id", "file_name", "filename")


@dataclass(frozen=True)
class Columns:
    """The columns of image and label."""

    image: str
    label: str
    names: tuple[str, ...] | None
    """Class names, if a feature has them."""
    passed_over: tuple[str, ...] = ()
    """Columns with class names that do not refer to pixels."""


def find_columns(features: Mapping[str, Any], image: str | None, label: str | None) -> Columns:
    """Detect the columns by their type and usual names.

    Args:
        features: the data set's features.
        image: the column given by the user, or None.
        label: likewise for the label.

    Raises:
        OptionError: a given column does not exist or has another type. DataError: no or several
            columns match.
    """
    image = _typed(features, "image", image, ("picture", "path"))
    label = _typed(features, "label", label, ("picture", "path", "ids"))
    image = image or _found(features, "image", IMAGE_NAMES, LABEL_NAMES, label)
    label = label or _found(features, "label", LABEL_NAMES, IMAGE_NAMES, image)
    if image == label:
        raise OptionError(f"{WHERE}: image={image},label={label}: the two must differ.")
    names, passed_over = _names(features, label)
    return Columns(image, label, names, passed_over)


def _typed(
    features: Mapping[str, Any], option: str, given: str | None, kinds: tuple[str, ...]
) -> str | None:
    if given is not None and given not in features:
        raise OptionError(
            f"{WHERE}: {option}={given}: there is no such column. {did_you_mean(given, features)}"
            f"The columns are {tell(features)}."
        )
    if given is not None and kind(features[given]) not in kinds:
        ids = ", nor integers in two dimensions" if "ids" in kinds else ""
        raise OptionError(
            f"{WHERE}: {option}={given}: the column contains {type_name(features[given])}, which "
            f"is not an image{ids}. The columns are {tell(features)}."
        )
    return given


def _found(
    features: Mapping[str, Any],
    option: str,
    usual: tuple[str, ...],
    others: tuple[str, ...],
    taken: str | None,
) -> str:
    """Detect a column: the one with a usual name, or else the only remaining one.

    Args:
        features: features by column.
        option: `image` or `label`.
        usual: usual names of such columns.
        others: usual names of the other column.
        taken: the other column, if known.
    """
    wanted = ("picture", "ids") if option == "label" else ("picture",)
    fit = [name for name, one in features.items() if kind(one) in wanted and name != taken]
    known = [name for name in fit if name.lower() in usual]
    known = known or [name for name in fit if name.lower() not in others]
    if len(known) == 1:
        return known[0]
    ways = " or ".join(f"{option}={name}" for name in known)
    why = f"several columns may be the {option}" if known else f"no column looks like the {option}"
    say = f"add {ways}" if known else f"add {option}=COLUMN if one of them is"
    raise DataError(f"{WHERE}: {why}; {say}. The columns are {tell(features)}.")


def kind(feature: Any) -> str:
    """Return how a feature can be read.

    Returns:
        `picture`: an encoded image; `ids`: integers in two dimensions; `path`: a text that may be
        the path of an image; or an empty text.
    """
    import datasets

    if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature):
        return "picture"
    leaf, depth = _leaf(feature)
    if isinstance(leaf, datasets.ClassLabel):
        return "ids" if depth == 2 else ""
    dtype = str(getattr(leaf, "dtype", "")) if isinstance(leaf, datasets.Value) else ""
    if depth == 2 and (dtype.startswith(("int", "uint")) or dtype == "bool"):
        return "ids"
    if depth:
        return ""
    return {"binary": "picture", "string": "path"}.get(dtype.removeprefix("large_"), "")


def _leaf(feature: Any) -> tuple[Any, int]:
    """Return the innermost feature of nested lists, and their depth."""
    import datasets

    depth = 0
    while isinstance(feature, datasets.List | datasets.LargeList):
        feature, depth = feature.feature, depth + 1
    if isinstance(feature, datasets.Array2D):
        return datasets.Value(feature.dtype), depth + 2
    return feature, depth


def type_name(feature: Any) -> str:
    """Describe a feature in a word or two."""
    import datasets

    leaf, depth = _leaf(feature)
    if isinstance(leaf, dict):
        name = f"struct of {', '.join(leaf)}"
    elif isinstance(leaf, datasets.Value):
        name = leaf.dtype
    else:
        name = type(leaf).__name__
    return "list of " * depth + name


def tell(features: Mapping[str, Any]) -> str:
    """List columns with their types."""
    return ", ".join(f"{name} ({type_name(feature)})" for name, feature in features.items())


def _names(
    features: Mapping[str, Any], label: str
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Find class names: those of the label, or of a list of the classes in the image.

    A single class per row, such as a scene or species, describes the whole image, so its names are
    not those of pixels. Names are not used either if several lists have different ones.
    """
    import datasets

    leaf, _ = _leaf(features[label])
    if isinstance(leaf, datasets.ClassLabel):
        return tuple(leaf.names), ()
    inner = {name: _leaf(feature) for name, feature in features.items()}
    classes = {name: one for name, one in inner.items() if isinstance(one[0], datasets.ClassLabel)}
    lists = {tuple(leaf.names) for leaf, depth in classes.values() if depth}
    return (lists.pop(), ()) if len(lists) == 1 else (None, tuple(classes))


def sample_ids(data: Any, image: str, start: int) -> tuple[str, ...]:
    """Return the ids of a split's samples: from an id column, from image file names, or numbers.

    Args:
        data: a datasets.Dataset.
        image: the image column.
        start: number of the first row, if rows are numbered.

    Returns:
        One id per row; all are different.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = data.with_format("arrow")[:]  # a view: images are not read
    for name in ID_NAMES:
        if kind(data.features.get(name)) == "path" or _is_integer(data.features.get(name)):
            values = rows.column(name).to_pylist()
            if _differ(values):
                return tuple(map(str, values))
    paths, feature = rows.column(image), data.features[image]
    if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "path" in feature):
        paths = pc.struct_field(paths, "path")
    is_text = pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)
    stems = [path and PurePath(path).stem for path in paths.to_pylist()] if is_text else []
    if stems and _differ(stems):
        return tuple(stems)
    return tuple(map(str, range(start, start + len(data))))


def _is_integer(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint"))


def _differ(values: list[Any]) -> bool:
    """True if no value is missing and all are different."""
    return None not in values and "" not in values and len(set(values)) == len(values)
