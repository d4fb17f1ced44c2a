"""Bootstrap intervals: how scores would vary on other images of the same kind.

The images are resampled with replacement many times and scored each time; the interval lies between
two percentiles of these scores (Efron and Tibshirani 1993, chapter 13). For a single network the
interval does not include the variation over training seeds.

Of several runs that differ in their seed, each resample draws images and, independently, runs with
replacement, as all runs are scored on the same images (the pigeonhole bootstrap for two crossed
factors: Owen 2007, Annals of Applied Statistics 1(2)); its score is the mean over the drawn runs.
With M runs, their part of the variance is underestimated by a factor of (M - 1) / M on average.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segacc.commands.evaluate.per_image import PerImage
from segacc.kernels.counts import Floats, divided, iou, mean_of_known

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
"""The level is the share of the resamples inside an interval."""
CHUNK = 2**22
"""Maximum number of elements of a large array in memory: 32 MiB."""

FEW = 5
"""Number of runs below which it is said that their variation is underestimated."""

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
    num_runs: tuple[int, ...] = (1,)
    """Number of resampled runs; of A and of B for differences."""

    def text(self) -> str:
        """Return a line on how the intervals were computed."""
        told = f"{self.percent} intervals: bootstrap of {self.num_images} images"
        if max(self.num_runs) > 1:
            sides = ("",) if len(self.num_runs) == 1 else (" of A", " of B")
            counts = zip(self.num_runs, sides, strict=True)
            told += f" and of the runs ({', '.join(f'{count}{side}' for count, side in counts)})"
        told += f", {self.resamples} resamples, seed {self.seed}"
        if max(self.num_runs) == 1:
            return f"{told}; training randomness is not included"
        if min(self.num_runs) == 1:
            return f"{told}; a side with one run has no variation over seeds"
        few = min(self.num_runs) < FEW
        return told + f"; rather too narrow for fewer than {FEW} runs" * few

    @property
    def percent(self) -> str:
        """The level as text, as in `95 %`."""
        return f"{100 * self.level:g} %"

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON, including `text` as `what`."""
        return {**asdict(self), "what": self.text()}


def intervals(images: PerImage, *, resamples: int = RESAMPLES, seed: int = SEED) -> Intervals:
    """Compute the percentile intervals of mean_iou and of each class's IoU.

    Args:
        images: counts of the scored images.
        resamples: number of resamples.
        seed: random seed of the resamples.
    """
    return intervals_of_runs([images], resamples=resamples, seed=seed)


def intervals_of_runs(
    runs: Sequence[PerImage], *, resamples: int = RESAMPLES, seed: int = SEED
) -> Intervals:
    """Compute the intervals of the means over runs; they have the same images in the same order."""
    ((scores, means),) = _resampled([runs], resamples, seed)
    return _between(runs[0], scores, means, (len(runs),), resamples, seed)


def differences(
    a: Sequence[PerImage],
    b: Sequence[PerImage],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Intervals:
    """Compute the intervals of B - A by a paired bootstrap: both scored on the same resamples.

    The runs of `a` and `b` have the same images in the same order, and are drawn independently of
    each other. A class has a difference in the resamples in which both have a score for it.
    """
    first = a[0]
    assert all(one.ids == first.ids and one.names == first.names for one in (*a, *b))
    (scores, means), (others, other) = _resampled([a, b], resamples, seed)
    runs = len(a), len(b)
    return _between(first, others - scores, other - means, runs, resamples, seed)


def _resampled(
    sides: Sequence[Sequence[PerImage]], resamples: int, seed: int
) -> list[tuple[Floats, Floats]]:
    """Score resamples: for each side the IoU (R, K) and mean_iou (R,), as means over its runs."""
    first = sides[0][0]
    scores: list[list[list[Floats]]] = [[[] for _ in side] for side in sides]
    for drawn in weights(len(first), resamples, seed):
        for side, found in zip(sides, scores, strict=True):
            for run, blocks in zip(side, found, strict=True):
                blocks.append(iou(sums(run, drawn)))
    results = []
    for number, found in enumerate(scores):
        each = np.stack([np.concatenate(blocks) for blocks in found])  # (M, R, K)
        times = np.concatenate(list(weights(len(found), resamples, (seed, number)))).T  # (M, R)
        results.append(
            (mean_over_runs(each, times[:, :, None]), mean_over_runs(mean_of_known(each), times))
        )
    return results


def mean_over_runs(scores: Floats, times: Floats | float = 1.0) -> Floats:
    """Average scores (M, ...) over M runs, each counted so many times; nan is left out.

    The means of several are rounded to 12 decimals, so that runs with equal scores do not differ.
    """
    known = ~np.isnan(scores) * times
    means = divided((np.where(np.isnan(scores), 0, scores) * known).sum(0), known.sum(0))
    return means if len(scores) == 1 else means.round(12)


def _between(
    images: PerImage,
    scores: Floats,
    means: Floats,
    num_runs: tuple[int, ...],
    resamples: int,
    seed: int,
) -> Intervals:
    """Take the percentiles of scores (R, K), and of their means (R,)."""
    enough = len(images) > 1  # a single image has no variation
    found = [_interval(scores[:, k]) if enough else None for k in range(scores.shape[1])]
    return Intervals(
        level=LEVEL,
        resamples=resamples,
        seed=seed,
        num_images=len(images),
        mean_iou=_interval(means) if enough else None,
        per_category_iou=dict(zip(images.names, found, strict=True)),
        num_runs=num_runs,
    )


def _interval(scores: Floats) -> Interval | None:
    known = scores[~np.isnan(scores)]
    if not known.size:
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def weights(num_images: int, resamples: int, seed: int | tuple[int, int]) -> Iterator[Floats]:
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
