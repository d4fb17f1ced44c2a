"""Draws label maps with absent classes and ignored pixels, and counts them as segacc does."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console

from segacc.commands.evaluate.per_image import ImageCounts, PerImage
from segacc.commands.terminal.tables import print_scores
from segacc.kernels.resize import confusion

Pair = tuple[Any, Any]
"""A prediction and a label, (H, W) uint8."""


def pairs(count: int, num_classes: int, *, seed: int = 0, right: float = 0.6) -> dict[str, Pair]:
    """Draw predictions and labels by id; each image has a few of the classes, the last has none."""
    random, drawn = np.random.default_rng((seed, 1)), {}
    labels = np.random.default_rng((count, num_classes))  # the same for every seed
    for number in range(count):
        size = tuple(labels.integers(4, 12, 2))
        present = labels.permutation(num_classes - 1)[: 1 + number % 4]
        label = labels.choice(present, size).astype(np.uint8)
        label[labels.random(size) < 0.2] = 255
        guess = random.integers(0, num_classes - 1, size)
        said = np.where((random.random(size) < right) & (label != 255), label, guess)
        drawn[f"image {number:03}"] = (said.astype(np.uint8), label)
    return drawn


def count_image(name: str, prediction: Any, label: Any, num_classes: int) -> ImageCounts:
    """Count a prediction (H, W) uint8 against a label (H, W) uint8."""
    said, true = torch.as_tensor(prediction), torch.as_tensor(label)
    return ImageCounts.of(name, confusion(said, true, num_classes))


def plain_scores(scores: Any, names: Sequence[str], **given: Any) -> str:
    """Return what is printed of scores where there is no terminal, without the title."""
    console, palette = Console(file=io.StringIO()), [(0, 0, 0)] * len(names)
    print_scores(console, scores, names=names, palette=palette, title="", **given)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text.removesuffix("\n")


def counted(images: dict[str, Pair], num_classes: int) -> PerImage:
    """Count them, in any order."""
    names = tuple(f"c{k}" for k in range(num_classes))
    found = [
        count_image(name, said, label, num_classes)
        for name, (said, label) in reversed(images.items())
    ]
    return PerImage.of(names, found)


def scores_of(images: list[Pair], num_classes: int) -> tuple[float, list[float]]:
    """Return mean_iou and the IoU of each class by definition, from the pixels; nan for none."""
    iou = []
    for k in range(num_classes):
        both = either = 0
        for said, label in images:
            a, b = (said == k) & (label != 255), label == k
            both, either = both + int((a & b).sum()), either + int((a | b).sum())
        iou.append(both / either if either else np.nan)
    known = [value for value in iou if value == value]
    return sum(known) / len(known), iou
