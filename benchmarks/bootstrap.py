"""Time the intervals of `segacc evaluate` and the paired ones of `segacc compare`.

    python benchmarks/bootstrap.py     1,000 resamples of 2,000 images and 150 classes

The counts are drawn: each image has 1 to 20 of the classes, as ADE20K's validation images do, and
pixels of both. Beside it stands the definition, which scores each resample from its list of images,
one after the other; it is timed on a few resamples, and must give the same means.

benchmarks/results/bootstrap.json holds the figures. Exit code 1 when the intervals take 2 seconds.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from segacc.commands.evaluate.bootstrap import differences, intervals, sums, weights
from segacc.commands.evaluate.per_image import ImageCounts, PerImage
from segacc.kernels.counts import iou, mean_of_known

RESULTS = Path(__file__).parent / "results" / "bootstrap.json"
LIMIT = 2.0
"""Seconds for the intervals."""
SLOW = 5
"""Resamples that the definition is timed on."""


def main() -> int:
    """Measure, print, write, and tell whether the target is met."""
    typed = parse()
    one, other = (drawn(typed.images, typed.classes, seed) for seed in (0, 1))
    times = {
        "intervals": timed(lambda: intervals(one, resamples=typed.resamples), typed.rounds),
        "paired": timed(
            lambda: differences([one], [other], resamples=typed.resamples), typed.rounds
        ),
    }
    slow = timed(lambda: by_definition(one), 1)
    drawn_few = next(weights(len(one), SLOW, 0))
    error = np.abs(by_definition(one) - mean_of_known(iou(sums(one, drawn_few)))).max()
    result = {
        "images": typed.images,
        "classes": typed.classes,
        "resamples": typed.resamples,
        "rounds": typed.rounds,
        "seconds": {name: round(median(found), 3) for name, found in times.items()},
        "definition_seconds": round(slow[0] * typed.resamples / SLOW, 1),
        "largest_error_of_mean_iou": float(error),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"numpy": importlib.metadata.version("numpy")},
    }
    typed.output.parent.mkdir(exist_ok=True)
    typed.output.write_text(json.dumps(result, indent=1) + "\n")
    told = result["seconds"]
    print(
        f"intervals  {told['intervals']:.3f} s (less than {LIMIT:g}), paired {told['paired']:.3f} s"
    )
    print(f"one resample after the other: {result['definition_seconds']} s, error {error:.1e}")
    return int(median(times["intervals"]) >= LIMIT or error > 1e-12)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def drawn(count: int, num_classes: int, seed: int) -> PerImage:
    """Draw the counts of images: (n, 3) of n classes each."""
    random, images = np.random.default_rng(seed), []
    for number in range(count):
        present = min(num_classes, int(random.integers(1, 21)))
        classes = np.sort(random.permutation(num_classes)[:present]).astype(np.int64)
        sizes = random.integers(1, 50_000, (present, 3))
        hit = sizes.min(axis=1)
        counts = np.stack([hit, sizes[:, 1], sizes[:, 2]], axis=1)
        images.append(ImageCounts(f"{number:06}", classes, counts))
    return PerImage.of(tuple(f"class {k}" for k in range(num_classes)), images)


def by_definition(images: PerImage) -> Any:
    """Return mean_iou of the first resamples, each from its images, one after the other."""
    found, rows = [], list(images)
    for weight in next(weights(len(images), SLOW, 0)):
        total = np.zeros((len(images.names), 3))
        for image, times in zip(rows, weight, strict=True):
            for _ in range(int(times)):
                total[image.classes] += image.counts
        found.append(mean_of_known(iou(total)))
    return np.array(found)


def timed(work: Callable[[], Any], rounds: int) -> list[float]:
    """Return the seconds of each round, after one that is not counted where there are several."""
    found = []
    for _ in range(rounds + (rounds > 1)):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found[rounds > 1 :]


if __name__ == "__main__":
    sys.exit(main())
