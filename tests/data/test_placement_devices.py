"""The way that windows are scaled on devices other than the CPU, as far as the CPU can take it."""

import math
from fractions import Fraction

import pytest
import torch
from test_placement import SIZES, batch_of, pipeline_of, pixels
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from data_tools import facts
from run_tools import FIXED
from segacc.data.placement import (
    Placement,
    nearest_by_index,
    nearest_classes,
    packed,
    resized,
    resized_as_floats,
    scatter,
)
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.plan import make_plan
from segacc.training.setup import build_pipeline

TARGETS = ((20, 30), (48, 64), (1, 7), (7, 1), (131, 97), (61, 75))


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_floats_come_to_what_bytes_do(size: tuple[int, int], target: tuple[int, int]) -> None:
    """A grey level apart at most: bytes are rounded after each of the two directions."""
    image, label = pixels(size, 3)
    found = resized_as_floats(image, target)
    apart = (found.int() - resized(image, label, target)[0].int()).abs()
    assert found.dtype == torch.uint8 and found.shape == (3, *target)
    assert apart.max() <= 1 and apart.float().mean() < 0.25


@pytest.mark.parametrize("old", [1, 2, 3, 17, 48, 61, 200])
def test_labels_are_resized_alike_by_both_ways(old: int) -> None:
    """To the pixel that a middle falls into, counted in fractions; torchvision rounds some ties."""
    label = torch.arange(old, dtype=torch.uint8)[:, None] + torch.arange(5, dtype=torch.uint8)
    for new in [*range(1, 70), 256, 511]:
        size, middles = (new, 7), [Fraction(2 * place + 1, 2) / new * old for place in range(new)]
        found = nearest_classes(label, size)
        assert torch.equal(nearest_by_index(label, size), found)
        assert found[:, 0].tolist() == [math.floor(middle) for middle in middles]
        theirs = F.resize(label[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT)[0]
        sure = torch.tensor([middle.denominator > 1 for middle in middles])
        assert torch.equal(found[sure], theirs[sure])


def test_each_operation_takes_what_it_is_given() -> None:
    """On torch's meta device, which runs nothing."""
    samples = [pixels(size, 3, seed=k) for k, size in enumerate(SIZES)]
    places = [Placement(one, (20, 30), (40, 50), 255, frozenset({-1})) for one in SIZES]
    row = packed(*zip(*samples, strict=True))
    images, labels = scatter(*(one.to("meta") for one in row), places)
    assert (images.shape, images.dtype) == ((5, 3, 40, 50), torch.uint8)
    assert (labels.shape, labels.dtype) == ((5, 40, 50), torch.uint8)
    assert images.device.type == labels.device.type == "meta"


def test_windows_move_with_the_batch() -> None:
    batch = batch_of(pipeline_of("random_scale_crop"), [pixels((90, 130), 3)])
    moved = batch.to(torch.device("meta"))
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert moved.placements == batch.placements


@pytest.mark.parametrize(("device", "count"), [("cuda", 2), ("cpu", 2), ("mps", 0), ("xpu", 0)])
def test_only_devices_that_scale_antialiased_are_left_to_it(device: str, count: int) -> None:
    values = {**FIXED, "aug": ["random_scale_crop", "flip"], "dataset": "nuclei"}
    plan = make_plan([Layer(values, "command line")], load_registry())
    assert len(build_pipeline(plan, facts(crop_size=(64, 64)), device).deferred) == count
