"""`segacc evaluate --verify`: score some images again with plain numpy code, and compare."""

import io
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from math import isnan
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from numpy.typing import NDArray
from PIL import Image

from segacc.commands.evaluate.per_image import PerImage
from segacc.commands.evaluate.score import Collector, Evaluation
from segacc.contracts import IGNORE
from segacc.data.batches import EvalData, Source
from segacc.data.items import Item
from segacc.data.samples import evenly_spaced
from segacc.errors import DataError
from segacc.evaluation.scoring import Scoring
from segacc.hookspecs import Sample
from segacc.labels import LabelMap
from segacc.loop import evaluate

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]

BAND = 2**22
"""Maximum number of full-size logits in memory: 32 MiB."""

LIMIT, LOW_LIMIT = 1e-3, 1e-2
"""Share of the pixels whose class may differ, as rounding decides between equal logits: in float32,
and in lower precision, where two runs of a network differ more."""


def plain_label(sample: Sample, labels: LabelMap) -> Pixels:
    """Read a label file and map raw ids to classes: (H, W) uint8, 255 ignored.

    Args:
        sample: the sample; its own label map, if any, overrides `labels`.
        labels: the label map of the data set.

    Raises:
        DataError: a pixel has a raw id or a colour that is not in the map.
    """
    labels = sample.labels or labels
    given = sample.label
    with Image.open(io.BytesIO(given) if isinstance(given, bytes) else given) as file:
        grey = file.mode in ("1", "L") and all(r == g == b for r, g, b in labels.colors)
        in_colors = file.mode in ("RGB", "P", "RGBA", "LA", "PA")  # other modes hold raw ids
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
        raise DataError(f"--verify: {sample.id}: {(found < 0).sum()} pixels have no class.")
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
    """Return the five scores of the metric `mean_iou` from the counts of K classes.

    The IoU of a class in neither labels nor predictions is nan, as is the accuracy of a class
    without labelled pixels; the means are over the other classes.
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
    """Resize logits (K, h, w) bilinearly (align_corners=False) and return the argmax.

    Pixel i of a side has the coordinate (i + 0.5) h / extent - 0.5 among the h logits, clamped to
    the first and last one, and interpolates linearly between the two nearest.

    Args:
        logits: (K, h, w) float.
        size: (H, W) in pixels.
        extent: height and width covered by the logits, in pixels, padding included.

    Returns:
        (H, W) uint8 classes; the first one of equal logits.
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
    position = np.clip((np.arange(side) + 0.5) * given / extent - 0.5, 0, given - 1)
    first = np.floor(position).astype(np.int64)
    return first, np.minimum(first + 1, given - 1), position - first


def different(found: Any, wanted: Any, *, tolerance: float = 1e-9) -> bool:
    """Return whether two scores, or mappings of scores, differ; nan equals nan."""
    if isinstance(wanted, dict):
        return set(found) != set(wanted) or any(
            different(found[key], wanted[key], tolerance=tolerance) for key in wanted
        )
    return not (isnan(found) and isnan(wanted)) and not abs(found - wanted) <= tolerance


@dataclass(frozen=True)
class Checked:
    """The results of the plain code for one image."""

    id: str
    confusion: Any
    """(K, K) int64."""
    changed: int | None
    """Number of pixels whose class differs from the plain prediction; None without one."""
    pixels: int


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The result of `--verify`, for evaluation.json."""

    num_images: int
    scores: tuple[str, ...]
    """Names of the checked scores."""
    unchecked: tuple[str, ...]
    """Names of the scores without plain code here."""
    changed_pixels: float | None
    """Share of the pixels whose class differs in the plain prediction; None if the protocol is not
    `whole`."""
    complaints: tuple[str, ...] = field(default=())

    @property
    def agrees(self) -> bool:
        """Whether there is no complaint."""
        return not self.complaints

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of evaluation.json."""
        return {"agrees": self.agrees, **asdict(self)}

    def text(self) -> str:
        """Return a line on what was checked, or a paragraph on what differs."""
        if self.complaints:
            return (
                f"segacc evaluate --verify: on {self.num_images} images the scores differ from "
                f"their plain definition: {'; '.join(self.complaints)}."
            )
        told = f"verified on {self.num_images} images: labels, counts"
        told += "".join(f", {name}" for name in self.scores) + " agree with the plain definition"
        if self.changed_pixels is None:
            told += "; predictions were not checked"
        else:
            told += f"; predicted again, {100 * self.changed_pixels:.4f} % of the pixels differ"
        unchecked = ", ".join(self.unchecked)
        return f"{told}; not checked: {unchecked}" if unchecked else told


def verify(scoring: Scoring, found: Evaluation, labels: LabelMap, count: int) -> Verified:
    """Score some evenly spaced images again, and compare with plain numpy code.

    The plain code reads labels from their files again, and computes counts and scores with loops
    and numpy. Under a protocol `whole` it also resizes the logits, and the predictions are compared
    pixel by pixel. All processes call it and return the same result.

    Args:
        scoring: the scoring of the whole split, after its evaluation.
        found: the result of that evaluation, whose scores must agree with its own counts.
        labels: the label map of the data set.
        count: number of images.
    """
    samples = evenly(scoring, count)
    by_id = {sample.id: sample for sample in samples}
    names, collector = labels.names, Collector(labels.names)
    checked: list[Checked] = []

    def see(item: Item, prediction: torch.Tensor) -> None:
        collector.see(item, prediction)
        changed = changed_pixels(scoring, item, prediction)  # equally often on all processes
        if not (item.padding or item.unreadable):
            label = plain_label(by_id[item.id], labels)
            matrix = plain_confusion(prediction.cpu().numpy(), label, len(names))
            checked.append(Checked(item.id, matrix, changed, label.size))

    again = replace(
        scoring,
        data=EvalData(Source(samples, labels, scoring.data.num_channels)),
        keep=frozenset(),
        seen=see,
        num_workers=0,
        eval_batch_size=1,  # so that all processes make equally many plain predictions
    )
    scores, _ = evaluate(again)
    every: list[Checked] = gather_object(checked)
    small = Evaluation(scores, collector.of_all(), [])
    exact = scoring.terms().precision == "no"
    return judge(small, found, every, limit=LIMIT if exact else LOW_LIMIT)


def evenly(scoring: Scoring, count: int) -> list[Sample]:
    """Return evenly spaced samples of the split; for a stream, the first ones."""
    data = scoring.data
    if not isinstance(data, EvalData):
        return list(islice(data.samples(), count))
    return [data.source.samples[index] for index in evenly_spaced(len(data.source), count)]


def judge(
    small: Evaluation, whole: Evaluation, checked: list[Checked], *, limit: float
) -> Verified:
    """Compare segacc's results with those of the plain code.

    Args:
        small: segacc's scores and counts of the checked images.
        whole: segacc's scores and counts of all images.
        checked: the plain code's results for the checked images.
        limit: share of the pixels whose class may differ.
    """
    names, complaints = small.images.names, []
    total = sum((one.confusion for one in checked), np.zeros((len(names), len(names)), np.int64))
    plain = plain_scores(*_marginals(total), names)
    complaints += _other_counts(small.images, checked)
    complaints += _other_scores(small.scores, plain, f"of these {len(checked)} images")
    hit, labelled, predicted = whole.images.total().T
    by_counts = plain_scores(hit, labelled, predicted, names)
    complaints += _other_scores(whole.scores, by_counts, f"of all {len(whole.images)} images")
    pixels = sum(one.pixels for one in checked)
    if not checked:
        complaints.append("none of the chosen images can be read")
    complaints += _other_than_before(small.images, whole.images, 3 * limit * pixels)
    changed = [one.changed for one in checked if one.changed is not None]
    share = sum(changed) / pixels if changed else None
    if share is not None and share > limit:
        complaints.append(
            f"{100 * share:.2f} % of the pixels have another class if the logits are resized by "
            f"plain code; at most {100 * limit:g} % may"
        )
    return Verified(
        num_images=len(checked),
        scores=tuple(name for name in small.scores if name in plain),
        unchecked=tuple(name for name in small.scores if name not in plain),
        changed_pixels=share,
        complaints=tuple(complaints),
    )


def _marginals(confusion: Any) -> tuple[Any, Any, Any]:
    return confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)


def _other_counts(images: PerImage, checked: list[Checked]) -> list[str]:
    wanted = {one.id: np.stack(_marginals(one.confusion), axis=1) for one in checked}
    wrong = []
    for index, name in enumerate(images.ids):
        if not np.array_equal(images.dense(index, index + 1)[0], wanted[name]):
            wrong.append(name)
    if not wrong:
        return []
    return [f"the counts of {len(wrong)} images differ, such as {wrong[0]}"]


def _other_than_before(again: PerImage, before: PerImage, most: float) -> list[str]:
    """Compare the counts of images scored one by one with those of the evaluation in batches.

    The labelled counts must be equal; a pixel with another prediction changes at most three counts.
    """
    first = before.among(frozenset(again.ids))
    if first.ids != again.ids:
        return ["the checked images are not among the scored ones"]
    if not again.ids:
        return []
    moved = abs(first.dense(0, len(first)) - again.dense(0, len(again)))
    if not moved[..., 1].any() and moved.sum() <= most:
        return []
    return ["scored again one by one, the images have other counts than in the evaluation"]


def _other_scores(found: Any, plain: Any, which: str) -> list[str]:
    return [
        f"{name} {which} is {_told(found[name], wanted)}"
        for name, wanted in plain.items()
        if name in found and different(found[name], wanted)
    ]


def _told(found: Any, wanted: Any) -> str:
    """Format two scores, or the first difference of two mappings."""
    if not isinstance(wanted, dict):
        return f"{found:.6f}, by definition {wanted:.6f}"
    if set(found) != set(wanted):
        return f"over {len(found)} classes, by definition over {len(wanted)}"
    key = next(key for key in wanted if different(found[key], wanted[key]))
    return f"{found[key]:.6f} for {key}, by definition {wanted[key]:.6f}"


def changed_pixels(scoring: Scoring, item: Item, prediction: torch.Tensor) -> int | None:
    """Count the pixels whose class differs between `prediction` and the plain prediction.

    None under other protocols than `whole`.
    """
    if scoring.protocol.windows or scoring.protocol.views != [(1.0, False)]:
        return None
    plain = plain_prediction(scoring, item.image)
    return int((plain != prediction.cpu().numpy()).sum())


@torch.no_grad()
def plain_prediction(scoring: Scoring, image: torch.Tensor) -> Pixels:
    """Predict an image (C, H, W) uint8 under a protocol `whole`: (H, W) uint8.

    The logits of the padded image are resized by `plain_argmax`.
    """
    network, protocol = scoring.network, scoring.protocol
    resized = protocol.resize(image.to(scoring.accelerator.device))
    seen = (resized.shape[-2], resized.shape[-1])
    height, width = protocol.padded(seen, network.size_rule)
    padding = (0, width - seen[1], 0, height - seen[0])
    images = F.pad(network.normalize(resized[None]), padding)  # (1, C, height, width)
    logits = scoring.model(images).main[0].float().cpu().numpy()
    size = (image.shape[-2], image.shape[-1])
    extent = (size[0] * height / seen[0], size[1] * width / seen[1])
    return plain_argmax(logits, size, extent)
