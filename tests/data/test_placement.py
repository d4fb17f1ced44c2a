"""Windows that the device scales become what the worker would have made of them, bit for bit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from augmentation_tools import RECORDS, apply, build, places
from data_tools import facts
from segacc.data.augment import Pipeline, Stage
from segacc.data.items import Batch, Item, collate
from segacc.data.order import seeded
from segacc.data.placement import (
    Placement,
    inside_of,
    packed,
    padding_color,
    placed,
    resized,
    scatter,
)
from segacc.hookspecs import Augmentation, Chosen
from segacc.plugins.augmentations.geometry import (
    Mirror,
    RandomScaleCrop,
    RandomScaleCropOptions,
)
from segacc.settings.options import decode

CROP = (48, 64)
SIZES = ((90, 130), (61, 75), (37, 201), (17, 23), (200, 40))


def pipeline_of(*names: str, **values: Any) -> Pipeline:
    """Build a pipeline; `values` are the first augmentation's options."""
    chosen = []
    for name in names:
        record: Augmentation = RECORDS[name]
        options = decode(record.options, values if name == names[0] else {}, "test")
        chosen.append(Chosen(record, options, name))
    return Pipeline.of(chosen, facts(crop_size=CROP, class_shares=(0.6, 0.3, 0.1)))


def nobody() -> Any:
    raise AssertionError("nothing here mixes samples")


def pixels(size: tuple[int, int], channels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw image (C, H, W), the channels side by side as decoders leave them, and label."""
    random = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (*size, channels), generator=random).to(torch.uint8)
    label = torch.randint(3, size, generator=random).to(torch.uint8)
    label[torch.rand(size, generator=random) < 0.2] = 255
    return image.permute(2, 0, 1), label


def batch_of(pipeline: Pipeline, samples: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    """Put samples through the worker, each under its place's seed."""
    items = []
    for seed, (image, label) in enumerate(samples):
        with seeded(seed):
            items.append(pipeline.in_worker(Item(image, label, seed=seed), nobody))
    batch = collate(items)
    assert isinstance(batch, Batch)
    return batch


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("name", ["random_scale_crop", "rare_class_crop"])
def test_the_device_makes_what_the_worker_would_have_made(name: str, channels: int) -> None:
    late = pipeline_of(name, "flip", "vertical_flip", "color_jitter", scale_min=0.3)
    assert len(late.deferred) == 3
    at_once = [stage.change for stage in late.worker]
    samples = [pixels(SIZES[k % len(SIZES)], channels, seed=k) for k in range(30)]
    planes = [(image.contiguous(), label) for image, label in samples[20:]]  # as TIFFs may be
    samples = samples[:20] + planes
    batch = batch_of(late, samples)
    assert len(batch.placements) == 30 and batch.images.ndim == 2
    laid = batch.laid_out()
    assert laid.images.shape == (30, channels, *CROP) and laid.images.is_contiguous()
    assert laid.placements == () and laid.laid_out() is laid
    for seed, (image, label) in enumerate(samples):
        pair: Any = tv_tensors.Image(image), tv_tensors.Mask(label)
        with seeded(seed):
            for change in at_once:
                pair = change(*pair)
            drawn = late.device[0].change.draw(*pair)  # type: ignore[attr-defined]
        assert torch.equal(laid.images[seed], pair[0].as_subclass(Tensor))
        assert torch.equal(laid.labels[seed], pair[1].as_subclass(Tensor))
        assert torch.equal(laid.drawn[0][seed], drawn)


@pytest.mark.parametrize("defers", [True, False])
def test_colours_are_told_the_padding_late_and_at_once(defers: bool) -> None:
    made = pipeline_of("random_scale_crop", "flip", "vertical_flip", "color_jitter")
    pipeline = replace(made, defers=defers)
    samples = [pixels(SIZES[k % len(SIZES)], 3, seed=k) for k in range(10)]
    batch = batch_of(pipeline, samples)
    assert bool(batch.placements) == defers
    laid, done = batch.laid_out(), pipeline.on_device(batch)
    assert None in batch.inside and any(batch.inside)
    for index, (image, label) in enumerate(zip(laid.images, laid.labels, strict=True)):
        assert batch.inside[index] == inside_of(image.contiguous(), label)
        box = (slice(None), *(batch.inside[index] or (slice(None), slice(None))))
        padding = torch.ones_like(image, dtype=torch.bool)
        padding[box] = False
        assert torch.equal(done.images[index][padding], image[padding].float())
        alone = made.device[0].change(
            image[box][None], label[None], laid.drawn[0][index : index + 1]
        )
        assert torch.equal(done.images[index][box], alone[0][0])


class Look:
    """A change of batches that looks at what it draws for."""

    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        return image.float().mean()

    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        return images, labels


DEFERRED = {
    ("random_scale_crop",): 1,
    ("flip", "random_scale_crop"): 1,
    ("random_scale_crop", "flip", "grayscale"): 2,
    ("random_scale_crop", "color_jitter", "vertical_flip", "tf_color", "flip"): 3,
    ("random_scale_crop", "gaussian_blur"): 0,
    ("random_scale_crop", "class_mix", "flip"): 0,
    ("flip",): 0,
    ("photometric_distortion",): 0,
    (): 0,
}


@pytest.mark.parametrize(("names", "count"), DEFERRED.items(), ids=str)
def test_a_crop_is_left_to_the_device_where_only_flips_follow(
    names: tuple[str, ...], count: int
) -> None:
    pipeline = pipeline_of(*names)
    assert len(pipeline.deferred) == count
    looking = Pipeline(pipeline.worker, (*pipeline.device, Stage(Look())))
    assert looking.deferred == ()  # it would see another picture
    alone = Pipeline(
        pipeline.worker, (*pipeline.device, Stage(lambda image, label: (image, label)))
    )
    assert len(alone.deferred) == count  # what comes picture by picture comes after that


class Darker(RandomScaleCrop):
    """A stranger's crop that does more when it is called."""

    def __call__(self, image: Any, label: Any) -> Any:
        image, label = super().__call__(image, label)
        return tv_tensors.Image(image // 2), label


def test_only_what_its_record_says_is_deferred() -> None:
    """A stranger's subclass with a call of its own is called."""
    darker = Stage(Darker(RandomScaleCropOptions(), facts(crop_size=CROP)))
    crop, flip = pipeline_of("random_scale_crop", "flip").worker
    rarely, mixing = replace(flip, deferrable=None), replace(crop, partners=True)
    cases = [([crop], 1), ([crop, flip], 2), ([darker], 0), ([crop, rarely], 0), ([mixing], 0)]
    for worker, count in [*cases, ([darker, flip], 0), ([crop, flip, crop], 1)]:
        assert len(Pipeline(tuple(worker)).deferred) == count
    image, label = pixels((90, 130), 3)
    found = Pipeline((darker,)).in_worker(Item(image, label), nobody)
    assert found.image.max() < 128 and found.placement is None


def test_a_stranger_is_given_plain_tensors_wherever_it_stands() -> None:
    seen: list[type] = []

    class Noting(RandomScaleCrop):
        def deferred_crop(self, image: Any, label: Any) -> Any:
            seen.extend((type(image), type(label)))
            return super().deferred_crop(image, label)

    class Drawing(Look):
        draws_unseen = True

        def draw(self, image: Tensor, label: Tensor) -> Tensor:
            seen.extend((type(image), type(label)))
            return torch.zeros(1)

    crop = Stage(Noting(RandomScaleCropOptions(), facts(crop_size=CROP)), deferrable="crop")
    nothing = Stage(Mirror(0.0, -1))
    for worker in ([crop], [nothing, crop], [nothing], []):
        pipeline = Pipeline(tuple(worker), (Stage(Drawing()),))
        pipeline.in_worker(Item(*pixels((90, 130), 3)), nobody)
    assert len(seen) == 12 and set(seen) == {Tensor}


@pytest.mark.parametrize("size", [(400, 500), (3000, 60), (40, 3000)], ids=str)
@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_worker_does_not_hold_large_pictures_for_their_windows(
    side_by_side: bool, size: tuple[int, int]
) -> None:
    """Nor where a window is as wide or as high as its picture."""
    pipeline = pipeline_of("random_scale_crop", "flip")
    for seed in range(20):
        image, label = pixels(size, 3)
        with seeded(seed):
            given = Item(image if side_by_side else image.contiguous(), label)
            found = pipeline.in_worker(given, nobody)
        held = found.image.untyped_storage().nbytes() + found.label.untyped_storage().nbytes()
        assert held <= 4 * (found.image.numel() + found.label.numel())
        assert (found.image.stride(0) == 1) == side_by_side


@pytest.mark.parametrize("size", [(1, 1), (7, 1), (1, 7), (2, 2)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 5, 8])
def test_tiny_sizes_do_not_depend_on_how_pixels_lie(channels: int, size: tuple[int, int]) -> None:
    image, label = pixels((9, 11), channels)
    mine, planes = resized(image, label, size), resized(image.contiguous(), label, size)
    assert torch.equal(mine[0], planes[0])
    wanted = F.resize(image.contiguous().float(), list(size), antialias=True)
    assert (mine[0] - wanted).abs().max() <= 1


@pytest.mark.parametrize("mirrored", [(), (-1,), (-2,), (-1, -2)], ids=str)
@pytest.mark.parametrize("scaled", [(48, 64), (48, 30), (20, 64), (13, 7)], ids=str)
def test_a_window_is_scaled_filled_up_and_mirrored(
    scaled: tuple[int, int], mirrored: tuple[int, ...]
) -> None:
    """As torchvision does the three."""
    image, label = pixels((33, 41), 3)
    found = placed(image, label, Placement((33, 41), scaled, CROP, mirrored=frozenset(mirrored)))
    sides = [0, 0, CROP[1] - scaled[1], CROP[0] - scaled[0]]
    wanted = F.pad(F.resize(image, list(scaled), antialias=True), sides, fill=padding_color(3))
    classes = F.resize(label[None], list(scaled), interpolation=InterpolationMode.NEAREST_EXACT)
    classes = F.pad(classes, sides, fill=255)
    for axis in mirrored:
        flip = F.horizontal_flip if axis == -1 else F.vertical_flip
        wanted, classes = flip(wanted), flip(classes)
    assert torch.equal(found[0], wanted) and torch.equal(found[1], classes[0])


def test_mirrored_twice_is_as_it_was() -> None:
    place = Placement((3, 4), (3, 4), (5, 6))
    assert place.mirror(-1).mirror(-1) == place
    assert place.mirror(-1).mirror(-2) == place.mirror(-2).mirror(-1) != place


def test_no_window_is_more_than_twice_the_crop_each_way() -> None:
    """What leaves a worker stays bounded: a picture that is shrunk further is shrunk there."""
    change = build("random_scale_crop", CROP, scale_min=0.1, scale_max=3)
    image, label = places(700, 900)
    seen = []
    for seed in range(60):
        with seeded(seed):
            window, classes, placement = change.deferred_crop(image, label)
        assert window.shape[1:] == classes.shape == placement.window
        assert placement.window[0] <= 2 * CROP[0] + 2 and placement.window[1] <= 2 * CROP[1] + 2
        seen.append(placement.window == placement.scaled)
        out = apply(change, image, label, seed)
        late = placed(window, classes, placement)
        assert all(torch.equal(a, b) for a, b in zip(out, late, strict=True))
    assert 5 < sum(seen) < 30


def test_a_sample_of_a_batch_does_not_depend_on_the_others() -> None:
    samples = [pixels(size, 3, seed=k) for k, size in enumerate(SIZES)]
    places = [Placement(size, (20 + k, 30), (40, 50)) for k, size in enumerate(SIZES)]
    whole = scatter(*packed(*zip(*samples, strict=True)), places)
    for k, (image, label) in enumerate(samples):
        alone = scatter(*packed([image], [label]), places[k : k + 1])
        assert torch.equal(alone[0][0], whole[0][k]) and torch.equal(alone[1][0], whole[1][k])


def test_an_unreadable_sample_is_ignored_beside_windows() -> None:
    pipeline = pipeline_of("random_scale_crop", "flip")
    good = pipeline.in_worker(Item(*pixels((90, 130), 3)), nobody)
    bad = Item(torch.zeros(3, 9, 9), torch.zeros(9, 9), unreadable="why")
    bad = replace(bad, placement=Placement((9, 9), (9, 9), (9, 9)))
    batch = collate([bad, good, bad])
    assert isinstance(batch, Batch)
    laid = batch.laid_out()
    assert laid.images.shape == (3, 3, *CROP)
    assert (laid.labels[0] == 255).all() and (laid.labels[2] == 255).all()
    assert torch.equal(laid.labels[1], placed(good.image, good.label, good.placement)[1])  # type: ignore[arg-type]
