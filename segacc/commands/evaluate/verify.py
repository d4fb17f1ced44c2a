"""`segacc evaluate --verify`: score some images again with plain numpy code, and compare."""

from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from numpy.typing import NDArray

from segacc.commands.evaluate.score import Evaluation
from segacc.contracts import IGNORE
from segacc.data.batches import EvalData, Source
from segacc.data.codecs import encoded, opened
from segacc.data.items import Item
from segacc.data.samples import evenly_spaced, samples_of
from segacc.errors import DataError, count_of
from segacc.evaluation.metrics import Counts
from segacc.evaluation.protocol_options import EVEN
from segacc.evaluation.scores import Scores, flat
from segacc.evaluation.scoring import Scoring
from segacc.hookspecs import Sample
from segacc.kernels.counts import class_counts
from segacc.labels import LabelMap
from segacc.loop import evaluate

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]

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
    with opened(encoded(sample.label)) as file:
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


def plain_counts(prediction: Pixels, label: Pixels, num_classes: int) -> Ints:
    """Count the hit, labelled and predicted pixels of each class, 255 left out: (K, 3)."""
    valid = label != IGNORE
    truth, said = label[valid], prediction[valid]
    parts = (truth[truth == said], truth, said)
    return np.stack([np.bincount(part, minlength=num_classes) for part in parts], axis=1)


def plain_scores(counts: Ints, names: tuple[str, ...]) -> Scores:
    """Return the scores of the metric `mean_iou` from the counts (K, 3) of `plain_counts`.

    The IoU of a class in neither labels nor predictions is nan, as is the accuracy of a class
    without labelled pixels; the means are over the other classes.
    """
    iou, accuracy = [], []
    for hit, labelled, predicted in counts.tolist():
        either = labelled + predicted - hit
        iou.append(hit / either if either else np.nan)
        accuracy.append(hit / labelled if labelled else np.nan)
    right, pixels, _ = counts.sum(axis=0).tolist()
    return {
        "mean_iou": _mean(iou),
        "mean_accuracy": _mean(accuracy),
        "overall_accuracy": right / pixels if pixels else np.nan,
        "per_category_iou": dict(zip(names, iou, strict=True)),
        "per_category_accuracy": dict(zip(names, accuracy, strict=True)),
    }


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
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
    left, right, along = _taps(logits.shape[2], size[1], extent[1])
    rows = []
    for above, below, down in zip(*_taps(logits.shape[1], size[0], extent[0]), strict=True):
        row = logits[:, above] * (1 - down) + logits[:, below] * down  # (K, w)
        rows.append((row[:, left] * (1 - along) + row[:, right] * along).argmax(axis=0))
    return np.stack(rows).astype(np.uint8)


def _taps(given: int, side: int, extent: float) -> tuple[Ints, Ints, NDArray[np.float64]]:
    position = np.clip((np.arange(side) + 0.5) * given / extent - 0.5, 0, given - 1)
    first = np.floor(position).astype(np.int64)
    return first, np.minimum(first + 1, given - 1), position - first


@torch.no_grad()
def plain_prediction(scoring: Scoring, image: torch.Tensor) -> Pixels:
    """Predict an image (C, H, W) uint8 under a protocol `whole`: (H, W) uint8."""
    network, protocol = scoring.network, scoring.protocol
    resized = protocol.resize(image.to(scoring.accelerator.device))
    seen = (resized.shape[-2], resized.shape[-1])
    height, width = protocol.padded(seen, network.size_rule)
    padding = (0, width - seen[1], 0, height - seen[0])
    images = F.pad(network.normalize(resized[None]), padding)  # (1, C, height, width)
    logits = scoring.model(images).main[0].float().cpu().numpy()
    if protocol.threshold != EVEN:  # the second class then wins where p > threshold, not 1/2
        odds = protocol.threshold / (1 - protocol.threshold)
        scores = network.probabilities
        logits[1] = logits[1] / odds if scores else logits[1] - np.log(odds)
    size = (image.shape[-2], image.shape[-1])
    extent = (size[0] * height / seen[0], size[1] * width / seen[1])
    return plain_argmax(logits, size, extent)


@dataclass(frozen=True)
class Checked:
    """The results of the plain code for one image."""

    id: str
    counts: Ints
    """(K, 3), see `plain_counts`."""
    agrees: bool
    """Whether segacc's counts of the same prediction are equal."""
    changed: int | None
    """Number of pixels whose class differs in the plain prediction; None without one."""
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
    complaints: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether there is no complaint."""
        return not self.complaints

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of evaluation.json."""
        return {"agrees": self.agrees, **asdict(self)}

    def text(self) -> str:
        """Return a line on what was checked, or a paragraph on what differs."""
        images = count_of(self.num_images, "image")
        if self.complaints:
            return (
                f"segacc evaluate --verify: on {images} the scores differ from the "
                f"reference implementation: {'; '.join(self.complaints)}."
            )
        told = f"verified on {images}: {', '.join(('labels', 'counts', *self.scores))}"
        told += " agree with the reference implementation; "
        if self.changed_pixels is None:
            told += "predictions were not checked"
        else:
            told += (
                f"a second prediction differs in {100 * self.changed_pixels:.4f} % of the pixels"
            )
        return told + (f"; not checked: {', '.join(self.unchecked)}" if self.unchecked else "")


def verify(scoring: Scoring, found: Evaluation, labels: LabelMap, count: int) -> Verified:
    """Compare an evaluation with plain numpy code; all processes get the same result.

    The scores are computed again from the counts of all images. For some evenly spaced images the
    labels are read from their files again and the pixels of another prediction are counted; under a
    protocol `whole` the logits are resized again as well.

    Args:
        scoring: the scoring of the whole split, after its evaluation.
        found: the result of that evaluation.
        labels: the label map of the data set.
        count: number of images.
    """
    data, protocol = scoring.data, scoring.protocol
    if isinstance(data, EvalData):
        samples = [data.source.samples[index] for index in evenly_spaced(len(data.source), count)]
    else:
        samples = list(islice(samples_of(data.stream), count))
    by_id = {sample.id: sample for sample in samples}
    whole = not protocol.windows and protocol.views == [(1.0, False)]
    checked: list[Checked] = []

    def see(item: Item, prediction: torch.Tensor, counted: Counts | None) -> None:
        said = prediction.cpu().numpy()
        plain = plain_prediction(scoring, item.image) if whole else None  # on all processes
        if counted is not None:
            label = plain_label(by_id[item.id], labels)
            counts = plain_counts(said, label, len(labels.names))
            agrees = np.array_equal(counts, class_counts(counted()))
            changed = None if plain is None else int((plain != said).sum())
            checked.append(Checked(item.id, counts, agrees, changed, label.size))

    again = replace(
        scoring,
        data=EvalData(Source(samples, labels, data.num_channels)),
        chosen=(),
        keep=frozenset(),
        seen=see,
        num_workers=0,
        eval_batch_size=1,  # so that all processes make equally many plain predictions
    )
    evaluate(again)
    limit = LIMIT if scoring.terms().precision == "no" else LOW_LIMIT
    return judge(found, gather_object(checked), limit=limit)


def judge(found: Evaluation, checked: list[Checked], *, limit: float) -> Verified:
    """Compare the results of an evaluation with those of the plain code.

    Args:
        found: the scores and counts of all images.
        checked: the plain code's results for the checked images.
        limit: share of the pixels whose class may differ.
    """
    plain = plain_scores(found.images.total(), found.images.names)
    complaints = other_scores(found.scores, plain, f"of all {len(found.images)} images")
    complaints += other_counts(found, checked, limit)
    changed = [one.changed for one in checked if one.changed is not None]
    pixels = sum(one.pixels for one in checked)
    share = sum(changed) / pixels if changed else None
    if share is not None and share > limit:
        complaints.append(
            f"{100 * share:.2f} % of the pixels have another class if the logits are resized by "
            f"plain code; at most {100 * limit:g} % may"
        )
    return Verified(
        num_images=len(checked),
        scores=tuple(name for name in found.scores if name in plain),
        unchecked=tuple(name for name in found.scores if name not in plain),
        changed_pixels=share,
        complaints=tuple(complaints),
    )


def other_scores(found: Scores, plain: Scores, which: str) -> list[str]:
    """Return a text for each score that is not the plain one, with the first class that differs."""
    told = []
    for name in [name for name in plain if name in found]:
        mine, wanted = flat({name: found[name]}), flat({name: plain[name]})
        for key in wanted | mine:  # a missing class has inf
            pair = mine.get(key, np.inf), wanted.get(key, np.inf)
            if not np.isclose(*pair, rtol=0, atol=1e-9, equal_nan=True):
                told.append(f"{key} {which} is {pair[0]:.6f}, by definition {pair[1]:.6f}")
                break
    return told


def other_counts(found: Evaluation, checked: list[Checked], limit: float) -> list[str]:
    """Return what is wrong with the counts of the checked images.

    In batches, rounding may change some predictions; such a pixel changes at most three counts, and
    none of the labelled pixels.
    """
    if not checked:
        return ["none of the chosen images can be read"]
    told = []
    if wrong := [one.id for one in checked if not one.agrees]:
        few = count_of(len(wrong), "image")
        told.append(f"the counts of {few} differ from plain ones, such as {wrong[0]}")
    by_id = {one.id: one for one in checked}
    stored = found.images.among(frozenset(by_id))
    if set(stored.ids) != set(by_id):
        return [*told, "the checked images are not among the scored ones"]
    wanted = np.stack([by_id[name].counts for name in stored.ids])
    moved = abs(stored.dense(0, len(stored)) - wanted)
    if moved[..., 1].any() or moved.sum() > 3 * limit * sum(one.pixels for one in checked):
        told.append("scored again one by one, the images have other counts than in the evaluation")
    return told
