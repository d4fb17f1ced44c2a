"""Bootstrap intervals: how scores would vary on other images of the same kind.

The images are resampled with replacement many times and scored each time; the interval lies between
two percentiles of these scores (Efron and Tibshirani 1993, chapter 13). The network is fixed, so
the interval does not include the variation over training seeds.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segacc.commands.evaluate.per_image import PerImage
from segacc.kernels.counts import Floats, iou, mean_of_known

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
CHUNK = 2**22
"""Maximum number of elements of a large array in memory: 32 MiB."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """The intervals of mean_iou and of each class's IoU, or of their differences."""

    level: float
    resamples: int
    seed: int
    num_images: int
    mean_iou: Interval | None
    """Lower and upper end; None if there is no score, or only one image."""
    per_category_iou: dict[str, Interval | None]
    """Intervals by class name; resamples without the class are left out."""

    def text(self) -> str:
        """Return a line on how the intervals were computed."""
        return (
            f"{self.percent} intervals: bootstrap of {self.num_images} images, {self.resamples} "
            f"resamples, seed {self.seed}; training randomness is not included"
        )

    @property
    def percent(self) -> str:
        """The level as text, as in `95 %`."""
        return f"{100 * self.level:g} %"

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON, including `text` as `what`."""
        return {**asdict(self), "what": self.text()}


def intervals(
    images: PerImage, *, resamples: int = RESAMPLES, seed: int = SEED, level: float = LEVEL
) -> Intervals:
    """Compute the percentile intervals of mean_iou and of each class's IoU.

    Args:
        images: counts of the scored images.
        resamples: number of resamples.
        seed: random seed of the resamples.
        level: share of the resamples inside the interval, 0..1.
    """
    draws = weights(len(images), resamples, seed)
    scores = [iou(sums(images, drawn)) for drawn in draws]
    return _between(images, np.concatenate(scores), resamples, seed, level)


def differences(
    a: PerImage,
    b: PerImage,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    level: float = LEVEL,
) -> Intervals:
    """Compute the intervals of B - A by a paired bootstrap: both scored on the same resamples.

    `a` and `b` have the same images in the same order. A class has a difference in the resamples in
    which both have a score for it.
    """
    assert a.ids == b.ids and a.names == b.names
    scores_a, scores_b = [], []
    for drawn in weights(len(a), resamples, seed):
        scores_a.append(iou(sums(a, drawn)))
        scores_b.append(iou(sums(b, drawn)))
    one, other = np.concatenate(scores_a), np.concatenate(scores_b)
    means = mean_of_known(other) - mean_of_known(one)
    return _between(a, other - one, resamples, seed, level, means=means)


def _between(
    images: PerImage,
    scores: Floats,
    resamples: int,
    seed: int,
    level: float,
    *,
    means: Floats | None = None,
) -> Intervals:
    """Take the percentiles of scores (R, K), and of their means over the classes unless given."""
    means = mean_of_known(scores) if means is None else means
    enough = len(images) > 1  # a single image has no variation
    found = [_interval(scores[:, k], level) if enough else None for k in range(scores.shape[1])]
    return Intervals(
        level=level,
        resamples=resamples,
        seed=seed,
        num_images=len(images),
        mean_iou=_interval(means, level) if enough else None,
        per_category_iou=dict(zip(images.names, found, strict=True)),
    )


def _interval(scores: Floats, level: float) -> Interval | None:
    known = scores[~np.isnan(scores)]
    if not known.size:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def weights(num_images: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield how often each image is in each resample, r resamples at a time: (r, N) float64."""
    random = np.random.default_rng(seed)
    step = max(1, CHUNK // max(1, num_images))
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        drawn = random.integers(max(1, num_images), size=(count, num_images))
        drawn += np.arange(count)[:, None] * num_images  # resample r counts from index r N on
        counts = np.bincount(drawn.ravel(), minlength=count * num_images)
        yield counts.reshape(count, num_images).astype(np.float64)


def sums(images: PerImage, drawn: NDArray[np.float64]) -> Floats:
    """Sum the counts over the images of resamples (r, N): (r, K, 3).

    All numbers are integers below 2^53, so the sums are exact in any order of addition.
    """
    num_classes = len(images.names)
    total = np.zeros((len(drawn), num_classes * 3))
    step = max(1, CHUNK // (num_classes * 3))
    for first in range(0, len(images), step):
        last = min(first + step, len(images))
        total += drawn[:, first:last] @ images.dense(first, last).reshape(last - first, -1)
    return total.reshape(-1, num_classes, 3)
