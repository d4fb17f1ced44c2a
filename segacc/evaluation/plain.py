"""The definitions of label, prediction and scores, written as plainly as they can be, in numpy.

Nothing here calls the code that it is held against: neither `decode.read_label`, nor the kernels of
`functional`, nor a metric. It is slow, and meant for a few images.
"""

import io
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segacc.contracts import IGNORE
from segacc.errors import DataError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]

BAND = 2**22
"""Numbers of full-size logits that exist at a time: 32 MiB."""


def plain_label(sample: Sample, labels: LabelMap) -> Pixels:
    """Read a label file and send each raw id to its class: (H, W) uint8, 255 ignored.

    Args:
        sample: its own label map, where it has one, goes before `labels`.
        labels: of the data set.

    Raises:
        DataError: a pixel has a raw id, or a colour, that the map lacks.
    """
    labels = sample.labels or labels
    given = sample.label
    with Image.open(io.BytesIO(given) if isinstance(given, bytes) else given) as file:
        grey = file.mode in ("1", "L") and all(r == g == b for r, g, b in labels.colors)
        in_colors = file.mode in ("RGB", "P", "RGBA", "LA", "PA")  # others, as 16 bits, hold ids
        by_color = labels.colors and (in_colors or grey)
        pixels = np.asarray(file.convert("RGBA").convert("RGB") if by_color else file)
    found = np.full(pixels.shape[:2], -1, np.int64)
    if by_color:
        for color, raw in labels.colors.items():
            found[(pixels == color).all(axis=2)] = labels.classes[raw]
    else:
        for raw, k in labels.classes.items():
            found[pixels == raw] = k
    if (found < 0).any():
        raise DataError(f"--verify: {sample.id}: {(found < 0).sum()} pixels are of no class.")
    return found.astype(np.uint8)


def plain_confusion(prediction: Pixels, label: Pixels, num_classes: int) -> Ints:
    """Count pixels by label (rows) and prediction (columns), 255 left out: (K, K) int64."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    valid = label != IGNORE
    np.add.at(matrix, (label[valid], prediction[valid]), 1)
    return matrix


def plain_scores(
    hit: Ints, labelled: Ints, predicted: Ints, names: tuple[str, ...]
) -> dict[str, float | dict[str, float]]:
    """Return the five scores of `mean_iou` from K counts each, class by class.

    A class in neither labels nor predictions has no IoU (nan), one without a labelled pixel no
    accuracy; the means are over the others.
    """
    iou, accuracy, right, pixels = [], [], 0, 0
    for h, truth, said in zip(hit.tolist(), labelled.tolist(), predicted.tolist(), strict=True):
        either = truth + said - h
        iou.append(h / either if either else np.nan)
        accuracy.append(h / truth if truth else np.nan)
        right, pixels = right + h, pixels + truth
    return {
        "mean_iou": _mean(iou),
        "mean_accuracy": _mean(accuracy),
        "overall_accuracy": right / pixels if pixels else np.nan,
        "per_category_iou": dict(zip(names, iou, strict=True)),
        "per_category_accuracy": dict(zip(names, accuracy, strict=True)),
    }


def _mean(values: list[float]) -> float:
    known = [value for value in values if not isnan(value)]
    return sum(known) / len(known) if known else np.nan


def plain_argmax(
    logits: NDArray[Any], size: tuple[int, int], extent: tuple[float, float]
) -> Pixels:
    """Resize logits (K, h, w) bilinearly, corners not aligned, and return the highest class.

    Pixel i of a side lies at (i + 0.5) h / extent - 0.5 among the h logits, and takes from the two
    next to it in proportion; beyond the first and the last one it takes these.

    Args:
        logits: (K, h, w) float.
        size: (H, W) in pixels.
        extent: height and width that the logits reach over, in pixels, padding included.

    Returns:
        (H, W) uint8; of equal classes the first.
    """
    logits = logits.astype(np.float64)
    above, below, down = _taps(logits.shape[1], size[0], extent[0])
    left, right, along = _taps(logits.shape[2], size[1], extent[1])
    result, step = np.empty(size, np.uint8), max(1, BAND // (len(logits) * size[1]))
    for first in range(0, size[0], step):
        ys = slice(first, first + step)
        part = down[ys, None]
        band = logits[:, above[ys]] * (1 - part) + logits[:, below[ys]] * part  # (K, ys, w)
        full = band[:, :, left] * (1 - along) + band[:, :, right] * along  # (K, ys, W)
        result[ys] = full.argmax(axis=0)
    return result


def _taps(given: int, side: int, extent: float) -> tuple[Ints, Ints, NDArray[np.float64]]:
    place = np.clip((np.arange(side) + 0.5) * given / extent - 0.5, 0, given - 1)
    first = np.floor(place).astype(np.int64)
    return first, np.minimum(first + 1, given - 1), place - first


def different(found: Any, wanted: Any, *, tolerance: float = 1e-9) -> bool:
    """Tell whether two scores, or mappings of scores, differ; nan is equal to nan."""
    if isinstance(wanted, dict):
        return set(found) != set(wanted) or any(
            different(found[key], wanted[key], tolerance=tolerance) for key in wanted
        )
    return not (isnan(found) and isnan(wanted)) and not abs(found - wanted) <= tolerance
