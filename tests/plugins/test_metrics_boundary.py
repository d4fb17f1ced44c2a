"""boundary_iou against erosion of each class's mask, as its authors define it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from metric_tools import assert_close, drawn, fed, mean, metric_of
from segacc.plugins.metrics.boundary import band_width, inner_band


def eroded_band(mask: Any, distance: int) -> Any:
    """Take a mask (H, W) less its erosion by a 3x3 square `distance` times, zeros around it."""
    square = np.ones((3, 3), bool)
    framed = np.pad(mask, 1)
    return mask & ~ndimage.binary_erosion(framed, square, iterations=distance)[1:-1, 1:-1]


def by_definition(
    pixels: "list[tuple[torch.Tensor, ...]]", num_classes: int, dilation: float
) -> list[float]:
    """Follow Cheng et al. class by class and image by image, pooled over images."""
    inter, union = np.zeros(num_classes), np.zeros(num_classes)
    for predictions, labels, _ in pixels:
        for prediction, label in zip(predictions.numpy(), labels.numpy(), strict=True):
            distance = max(
                1, round(dilation * math.sqrt(label.shape[0] ** 2 + label.shape[1] ** 2))
            )
            for k in range(num_classes):
                true = eroded_band(label == k, distance)
                said = eroded_band((prediction == k) & (label != 255), distance)
                inter[k] += (true & said).sum()
                union[k] += (true | said).sum()
    return [i / u if u else math.nan for i, u in zip(inter, union, strict=True)]


def blocks(num_classes: int, size: tuple[int, int], side: int, seed: int) -> Any:
    """Draw labels of blocks, so that there are insides; predictions are shifted by a pixel."""
    _, small, _ = drawn(num_classes, size=(size[0] // side + 1, size[1] // side + 1), seed=seed)
    labels = small.repeat_interleave(side, 1).repeat_interleave(side, 2)
    labels = labels[:, : size[0], : size[1]]
    predictions = labels.roll((1, 2), (1, 2))
    return predictions.where(predictions != 255, 0), labels, None


@pytest.mark.parametrize(
    ("size", "side", "dilation"),
    [((60, 80), 17, 0.02), ((41, 33), 9, 0.1), ((30, 100), 29, 0.05), ((5, 7), 3, 0.5)],
)
def test_it_is_the_erosion_of_each_class(size: tuple[int, int], side: int, dilation: float) -> None:
    pixels = [blocks(5, size, side, seed) for seed in range(2)]
    scores = fed("boundary_iou", pixels, 5, dilation=dilation).compute()
    wanted = by_definition(pixels, 5, dilation)
    assert list(scores) == ["mean_boundary_iou", "per_category_boundary_iou"]
    assert_close(scores["per_category_boundary_iou"], wanted)
    assert_close(scores["mean_boundary_iou"], mean(wanted))


def test_real_street_labels_against_those_of_the_next_frames(shared: Any) -> None:
    files = sorted((shared / "camvid/annotations/val").glob("*.png"))[::40]
    labels = [np.array(Image.open(file)).astype(np.int64) for file in files]
    labels = [torch.from_numpy(np.where(label == 11, 255, label))[None] for label in labels]
    later = [*labels[1:], labels[0]]
    pixels = [(p.where(p != 255, 3), one, None) for p, one in zip(later, labels, strict=True)]
    scores = fed("boundary_iou", pixels, 11).compute()
    assert_close(scores["per_category_boundary_iou"], by_definition(pixels, 11, 0.02))
    whole = fed("mean_iou", pixels, 11).compute()
    assert 0 < scores["mean_boundary_iou"] < whole["mean_iou"]


@pytest.mark.parametrize("distance", [1, 2, 3, 7, 20])
def test_the_band_of_a_map_without_edges_lies_along_the_border(distance: int) -> None:
    band = inner_band(torch.zeros(1, 30, 40, dtype=torch.uint8), distance)[0]
    inside = max(0, 30 - 2 * distance) * max(0, 40 - 2 * distance)
    assert int((~band).sum()) == inside
    assert not inside or not band[distance, distance]
    assert band[distance - 1].all()


def test_the_width_of_the_band() -> None:
    assert band_width((1024, 2048), 0.02) == 46  # of Cityscapes: 2 % of 2289.7
    assert band_width((10, 10), 0.02) == 1


def test_perfect_and_absent() -> None:
    labels = torch.zeros(1, 40, 40, dtype=torch.int64)
    labels[:, 10:20, 10:20], labels[:, 30:] = 1, 255
    metric = metric_of("boundary_iou", 3)
    metric.update(labels.where(labels != 255, 2), labels)
    scores = metric.compute()
    assert scores["mean_boundary_iou"] == 1
    assert_close(scores["per_category_boundary_iou"], [1, 1, math.nan])
