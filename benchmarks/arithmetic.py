"""Compare the hot kernels with plain torch: losses, argmax, and pixel counts.

    python benchmarks/arithmetic.py                     SegFormer's logits for images of 512x512
    python benchmarks/arithmetic.py --trained runs/ade/best street.jpg    and of a trained network
    python benchmarks/arithmetic.py --size 64 --rounds 1 --classes 19    what the suite runs

For 2, 19 and 150 classes: losses of 2 images with their gradient, from logits of a fourth of the
size (plain: `interpolate`, then the loss of all pixels); the argmax of one of them at full size,
for smooth logits (noise of an eighth of their size, enlarged) and for noise (plain: `interpolate`,
then `argmax`), also with the probability of that class (plain: `softmax`, then `max`); the same for
9 windows of half the size that overlap by a third (plain: `interpolate`, then the mean); the
confusion matrix of one prediction (plain: int64 indices of the valid pixels, then `bincount`).
`--trained` adds the argmax of a network's logits for images, squeezed to the size, and of windows
of half of it; without it and `--classes`, VOC is measured if it is here. The two ways take turns;
times are medians over rounds, and `ratio` is plain / segacc, the median of the rounds' own ratios.
`memory` is what a loss needs beside its logits, labels and gradient: the high-water mark of a
process of its own (as Linux tells it), whose ratio is segacc / plain. `load` is that of the machine
at the start: if others use its cores, set `--threads 1` or OMP_WAIT_POLICY=passive, or threads
mostly wait for each other.
benchmarks/results/arithmetic.json holds the figures.
"""

import argparse
import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from segacc import Segmenter
from segacc.evaluation.memory import peak_memory
from segacc.evaluation.protocol import Windows
from segacc.evaluation.window_tiles import decide_windows
from segacc.evaluation.windows import Grid
from segacc.kernels import bands
from segacc.kernels.pixel import cross_entropy_sum, hard_examples_sum
from segacc.kernels.region import tversky_sum
from segacc.kernels.resize import confusion, decide

RESULTS = Path(__file__).parent / "results" / "arithmetic.json"
CLASSES = (2, 19, 150)
"""Numbers of classes; `--classes` measures one of them."""
PACKAGES = ("segacc", "torch")
DATA = Path(__file__).parents[2] / "shared" / "data"
VOC = ["deeplabv3_mobilenet_v2_voc", "camvid/images/val/0016E5_07959.jpg"]
"""A trained network and an image of DATA, which are measured unless others are given."""

Ways = dict[str, Callable[[], Any]]


def main() -> None:
    """Measure, print and write."""
    typed = parse()
    torch.set_num_threads(typed.threads)
    result: dict[str, Any] = {
        "size": typed.size,
        "rounds": typed.rounds,
        "threads": typed.threads,
        "load": os.getloadavg()[0],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "kernels": {},
    }
    for name, ways in cases(typed):
        loss, classes = name.removesuffix(" classes").split(", ")
        found = compared(ways, typed.rounds)
        if loss in LOSSES:
            found |= memory(loss, int(classes), typed)
        result["kernels"][name] = found
        told = "  ".join(f"{key} {value:.4g}" for key, value in found.items())
        print(f"{name}:  {told}", flush=True)
    if typed.output:
        typed.output.write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument(
        "--trained",
        nargs="+",
        action="append",
        default=[],
        metavar=("FOLDER", "IMAGE"),
        help="a trained network, and images; may be repeated",
    )
    parser.add_argument("--classes", type=int, help="measure this number of classes only")
    typed = parser.parse_args()
    if DATA.is_dir() and not typed.classes:
        typed.trained = typed.trained or [[str(DATA / one) for one in VOC]]
    return typed


def cases(typed: argparse.Namespace) -> Iterator[tuple[str, Ways]]:
    """Yield the name of each kernel with the plain way and segacc's."""
    size = typed.size
    for num_classes in [typed.classes] if typed.classes else CLASSES:
        logits, labels = example(num_classes, size)
        for name, (plain, ours) in LOSSES.items():
            yield (
                f"{name}, {num_classes} classes",
                {
                    "plain": partial(gradient, plain, logits, labels),
                    "segacc": partial(gradient, ours, logits, labels),
                },
            )
        for kind, one in (("smooth", smooth(num_classes, size)), ("random", logits[:1])):
            yield f"argmax of {kind} logits, {num_classes} classes", argmax_ways(one, size)
        yield (
            f"confidence, {num_classes} classes",
            {
                "plain": partial(plain_confidence, logits[:1], size),
                "segacc": partial(confidence, logits[:1], size),
            },
        )
        windows = cut(smooth(num_classes, size), size)
        yield f"argmax of windows, {num_classes} classes", window_ways(windows, size)
        yield f"confidence of windows, {num_classes} classes", window_ways(windows, size, True)
        narrow = labels[:1].to(torch.uint8)
        said = torch.randint(num_classes, narrow.shape, dtype=torch.uint8)
        yield (
            f"confusion, {num_classes} classes",
            {
                "plain": partial(plain_confusion, said, narrow, num_classes),
                "segacc": partial(confusion, said, narrow, num_classes),
            },
        )
    for folder, *images in typed.trained:
        for image, logits in trained(folder, images, size):
            yield f"argmax of {image}, {logits.shape[1]} classes", argmax_ways(logits, size)
        for image, windows in trained_windows(folder, images, size):
            name = f"windows of {image}, {windows[0].shape[1]} classes"
            yield f"argmax of {name}", window_ways(windows, size)
            yield f"confidence of {name}", window_ways(windows, size, True)


def argmax_ways(logits: Tensor, size: int) -> Ways:
    """Return both ways of an argmax."""
    return {
        "plain": partial(plain_argmax, logits, size),
        "segacc": lambda: decide(logits, (size, size)).classes,
    }


def plain_confidence(logits: Tensor, size: int) -> Any:
    """Return the class of each pixel and its probability."""
    full = F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
    return classes_first(full.softmax(1).max(1))


def classes_first(found: Any) -> tuple[Tensor, Tensor]:
    """Return the classes as uint8, and the probabilities, of torch's (values, indices)."""
    return found.indices.to(torch.uint8), found.values


def confidence(logits: Tensor, size: int) -> Any:
    """Return them by segacc."""
    return decide(logits, (size, size), shares="softmax")


def grid_of(size: int) -> Grid:
    """Return the layout of windows of half the size that overlap by a third."""
    crop = (size // 2, size // 2)
    return Grid(*Windows.of(crop).starts((size, size)), crop, (size, size))


def cut(logits: Tensor, size: int) -> list[Tensor]:
    """Cut windows out of logits (1, K, h, w), and disturb each by noise of its own."""
    grid, step = grid_of(size), size // logits.shape[2]
    side = grid.crop[0] // step
    parts = [
        logits[..., top // step :, left // step :][..., :side, :side]
        for top in grid.tops
        for left in grid.lefts
    ]
    return [one + 0.1 * torch.randn_like(one) for one in parts]


def window_ways(windows: list[Tensor], size: int, probable: bool = False) -> Ways:
    """Return both ways of the argmax of windows, or also of the probability of that class."""
    grid = grid_of(size)

    def plain() -> Any:
        shape = *windows[0].shape[:2], size, size
        total, count = torch.zeros(shape), torch.zeros(size, size)
        places = product(grid.tops, grid.lefts)
        for (top, left), logits in zip(places, windows, strict=True):
            here = slice(top, top + grid.crop[0]), slice(left, left + grid.crop[1])
            total[..., here[0], here[1]] += F.interpolate(logits, size=grid.crop, mode="bilinear")
            count[here] += 1
        mean = total / count
        if not probable:
            return mean.argmax(1).to(torch.uint8)
        return classes_first(mean.softmax(1).max(1))

    def ours() -> Any:
        found = decide_windows(windows, grid, grid.size, "softmax" if probable else None)
        return found if probable else found.classes

    return {"plain": plain, "segacc": ours}


def trained_windows(
    folder: str, images: list[str], size: int
) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the name of images and the logits (1, K, h, w) of their windows."""
    network, grid = Segmenter.from_pretrained(folder, "cpu").network, grid_of(size)
    for path in images:
        pixels = np.array(Image.open(path).convert("RGB").resize((size, size)))
        whole = torch.from_numpy(pixels).movedim(2, 0)[None]
        windows = []
        for top, left in product(grid.tops, grid.lefts):
            part = whole[..., top : top + grid.crop[0], left : left + grid.crop[1]]
            with torch.no_grad():
                windows.append(network(network.normalize(part)).main)
        yield Path(path).name, windows


def trained(folder: str, images: list[str], size: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the logits (1, K, h, w) of images, squeezed to `size`."""
    network = Segmenter.from_pretrained(folder, "cpu").network
    for path in images:
        pixels = np.array(Image.open(path).convert("RGB").resize((size, size)))
        with torch.no_grad():
            found = network(network.normalize(torch.from_numpy(pixels).movedim(2, 0)[None]))
        yield Path(path).name, found.main


def example(num_classes: int, size: int) -> tuple[Tensor, Tensor]:
    """Draw logits of a fourth of the size, and labels of which a tenth is ignored."""
    torch.manual_seed(0)
    labels = torch.randint(num_classes, (2, size, size))
    labels[:, : size // 10] = 255
    return torch.randn(2, num_classes, size // 4, size // 4), labels


def smooth(num_classes: int, size: int) -> Tensor:
    """Draw logits of a fourth of the size that change little from pixel to pixel."""
    coarse = 6 * torch.randn(1, num_classes, max(2, size // 32), max(2, size // 32))
    return F.interpolate(coarse, size=(size // 4, size // 4), mode="bicubic")


def plain_argmax(logits: Tensor, size: int) -> Tensor:
    """Return the argmax of logits that are resized at once."""
    full = F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
    return full.argmax(1).to(torch.uint8)


def full_size(logits: Tensor, labels: Tensor) -> Tensor:
    """Resize logits to the size of the labels at once."""
    return F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)


def plain_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy."""
    return F.cross_entropy(full_size(logits, labels), labels, ignore_index=255, reduction="sum")


def plain_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum 1 - Dice over images and the classes in their labels."""
    chances, valid = full_size(logits, labels).softmax(1), (labels != 255)[:, None]
    index = labels[:, None].where(valid, 0)
    truth = torch.zeros_like(chances).scatter_(1, index, 1) * valid
    area = truth.sum((2, 3))
    shared, both = (truth * chances).sum((2, 3)), (chances * valid).sum((2, 3)) + area
    return ((1 - 2 * shared / both) * (area > 0)).sum()


def plain_hard_examples(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over images the mean cross-entropy of the worst fifth of the pixels."""
    costs = F.cross_entropy(full_size(logits, labels), labels, ignore_index=255, reduction="none")
    each = (cost[label != 255] for cost, label in zip(costs, labels, strict=True))
    return torch.stack([cost.topk(math.ceil(len(cost) / 5)).values.mean() for cost in each]).sum()


LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "loss": (plain_loss, cross_entropy_sum),
    "dice": (plain_dice, partial(tversky_sum, alpha=0.5, beta=0.5)),
    "ohem": (plain_hard_examples, partial(hard_examples_sum, thresh=0.0, min_kept=0.2)),
}
"""The plain way of each loss, and segacc's; `loss` is the cross-entropy."""


def plain_confusion(said: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the confusion matrix by int64 indices."""
    valid = labels != 255
    pairs = labels[valid].long() * num_classes + said[valid].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def gradient(loss: Callable[..., Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of a loss."""
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(loss(leaf, labels), leaf)[0]


def compared(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each way, and their ratio."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    plain, ours = (way() for way in ways.values())
    for given, found in zip(*(tensors(one) for one in (plain, ours)), strict=True):
        if given.dtype == torch.uint8:  # classes whose logits differ by rounding may change places
            assert int((given != found).sum()) <= given.numel() / 1e5
        else:
            torch.testing.assert_close(found, given, rtol=1e-4, atol=1e-5 * float(given.max()))
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(taken["plain"], taken["segacc"], strict=True)]
    return {**{name: median(times) for name, times in taken.items()}, "ratio": median(ratios)}


def tensors(found: Any) -> list[Tensor]:
    """List the tensors of a result."""
    return [one for one in found if one is not None] if isinstance(found, tuple) else [found]


def memory(loss: str, num_classes: int, typed: argparse.Namespace) -> dict[str, float]:
    """Return the megabytes that each way takes beside its operands, and their ratio."""
    ways = ("none", "plain", "segacc")
    fresh = get_context("forkserver")  # forks of a process that has only imported the libraries
    fresh.set_forkserver_preload([name for name in sys.modules if name.startswith("segacc.")])
    with ProcessPoolExecutor(1, fresh, max_tasks_per_child=1) as pool:
        given = partial(peak, loss, num_classes, typed.size, typed.threads)
        peaks = dict(zip(ways, pool.map(given, ways), strict=True))
    plain, ours = (max(peaks[name] - peaks["none"], 0.1) for name in ("plain", "segacc"))
    return {"plain_mb": plain, "segacc_mb": ours, "memory": ours / plain}


def peak(loss: str, num_classes: int, size: int, threads: int, way: str) -> float:
    """Return the high-water mark of this process in megabytes, after one loss or none."""
    torch.set_num_threads(threads)
    plain, ours = LOSSES[loss]
    small, cached = example(num_classes, 32), bands.CACHED
    for bands.CACHED in (0, cached):  # what libraries load at their first use
        for one in (plain, ours):
            gradient(one, *small)
    logits, labels = example(num_classes, size)
    if way == "none":
        torch.zeros_like(logits)
    else:
        gradient(plain if way == "plain" else ours, logits, labels)
    return peak_memory(torch.device("cpu")) / 1e6


if __name__ == "__main__":
    main()
