"""Checks that an augmentation does what its record declares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from segacc.contracts import IGNORE, Facts
from segacc.data.order import seeded
from segacc.data.placement import Placement, placed
from segacc.hookspecs import Augmentation
from segacc.testing.tools import Report, facts_of, few, some_labels

COLORS = (
    (20, 30, 90, 9, 40, 140),
    (200, 60, 40, 99, 10, 70),
    (90, 210, 60, 200, 90, 10),
    (240, 230, 190, 30, 160, 220),
)
"""Colours of the classes and, last, of ignored pixels; they also differ clearly in brightness."""
NUM_CLASSES = 3
SHARES = (0.6, 0.3, 0.1)
"""Fractions of the classes, for augmentations that use them."""
CROP = (64, 80)
SEEDS = 24

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Subject:
    """A built augmentation, and how it is called."""

    report: Report
    record: Augmentation
    place: str
    change: Any
    facts: Facts


def check_augmentation(
    record: Augmentation, options: Any = None, *, num_channels: Sequence[int] = (1, 3)
) -> None:
    """Check that an augmentation implements the interface of the hook correctly.

    It returns a pair like its input: uint8 tv_tensors of equal size; image and label are
    transformed together; no new label values occur and ignored pixels stay ignored; images of any
    size are accepted; the result depends on the seed only. On the device, the size is unchanged.
    One that mixes samples gets partners of its own size and of others. A batch augmentation draws
    float32 parameters, stays within 0..255, and its result for a sample does not depend on the
    batch. A deferred crop or flip gives the same result as calling it.

    Image and label are compared by colour: each class has one, so if both were transformed
    together, pixels of one class still have the same colour, whatever happened to the colours.

    Args:
        record: the record that the hook returns.
        options: options of the augmentation; default `record.options()`.
        num_channels: numbers of image channels to test; a run may use 1, 3 or 4.

    Raises:
        AssertionError: a check failed; the message says what was expected and found.
    """
    options = record.options() if options is None else options
    report, shares = Report(record, options), SHARES if record.wants_shares else None
    facts = facts_of(NUM_CLASSES, crop_size=CROP, class_shares=shares)
    with seeded(0):
        subjects = built(report, record, options, facts, num_channels)
        agreed: list[float] = []
        for size in ((120, 150), (61, 75), (37, 201), (17, 23)):
            for subject in subjects:
                agreed += both(subject, size)
        together(report, agreed)
        seeds(subjects[-1], options)
        left_to_the_device(subjects[-1])
        if subjects[-1].place == "batch":
            for subject in subjects:
                samples = [pair((37, 53), subject.facts.num_channels, 8, s) for s in range(3)]
                check_batch_change(report, subject.change, samples)


def built(
    report: Report, record: Augmentation, options: Any, facts: Facts, num_channels: Sequence[int]
) -> list[Subject]:
    """Build the augmentation for each number of channels."""
    places = ("worker", "device", "batch")
    with report.attempt("`on` to be a text, or a function of the options"):
        place = record.on(options) if callable(record.on) else record.on
        report.require(place in places, f"`on` to be one of {', '.join(places)}", repr(place))
        mixes = record.partners and place != "worker"
        report.require(
            not mixes, "one with partners to run in the worker", f"it runs on the {place}"
        )
    subjects = []
    with report.attempt("a callable of (image, label)"):
        for channels in num_channels:
            told = replace(facts, num_channels=channels)
            change = record.build(options, told)
            subjects.append(Subject(report, record, place, change, told))
            if place == "batch":
                fine = hasattr(change, "draw")
                report.require(fine, "a BatchChange, which has `draw`", type(change).__name__)
    return subjects


def both(subject: Subject, size: tuple[int, int]) -> list[float]:
    """Check pairs of one size; return the fractions of pixels that match their label."""
    shares, side = [], 16 if min(size) > 40 else 8
    report, channels, (tall, wide) = subject.report, subject.facts.num_channels, size
    with report.attempt(f"images ({channels}, {tall}, {wide}) to be accepted"):
        for seed in range(SEEDS if size[0] > 100 else 4):
            image, label = pair(size, channels, side, seed)
            new_image, new_label = apply(subject, image, label, seed)
            allowed = values(label) | {IGNORE}
            if subject.record.partners:
                allowed |= set(range(NUM_CLASSES))
            strange = sorted(values(new_label) - allowed)
            report.require(
                not strange,
                f"only label values of the original ({few(sorted(allowed))})",
                f"{few(strange)}: resize labels with nearest neighbour, fill with "
                f"{subject.facts.ignore_index}",
            )
            if size[0] > 100 and (share := agreement(new_image, new_label)) is not None:
                shares.append(share)
        empty = torch.full(size, IGNORE, dtype=torch.uint8)
        _, ignored = apply(subject, image, empty, 0, ignored=True)
        expected = "a label that is all ignored (255) to stay all ignored"
        report.require((ignored == IGNORE).all(), expected, few(sorted(values(ignored))))
    return shares


def pair(size: tuple[int, int], channels: int, side: int, seed: int) -> Pair:
    """Generate label (H, W) uint8 of blocks, and image (C, H, W) uint8 in the classes' colours."""
    label = some_labels(size, NUM_CLASSES, count=1, side=side, seed=seed)[0]
    indices = label.where(label != IGNORE, NUM_CLASSES)
    image = torch.tensor(COLORS, dtype=torch.uint8)[indices].permute(2, 0, 1)  # (6, H, W)
    return image[:channels].contiguous(), label.to(torch.uint8)


def partner_of(image: Tensor, ignored: bool) -> Callable[[], Pair]:
    """Return a function that gives pairs of the image's size and of another one."""
    channels, tall, wide = image.shape

    def another() -> Pair:
        size = (tall, wide) if torch.rand(()) < 0.5 else (tall + 7, max(1, wide // 2))
        other, label = pair(size, channels, 16, int(torch.randint(2**31, ())))
        label = torch.full_like(label, IGNORE) if ignored else label
        return tv_tensors.Image(other), tv_tensors.Mask(label)

    return another


def apply(
    subject: Subject, image: Tensor, label: Tensor, seed: int, *, ignored: bool = False
) -> Pair:
    """Call the augmentation, and check that it returns a valid pair."""
    report, place = subject.report, subject.place
    if place == "batch":
        images, labels = on_batch(report, subject.change, [(image, label)], [seed])
        return images[0].round().to(torch.uint8), labels[0]
    given = [tv_tensors.Image(image.clone()), tv_tensors.Mask(label.clone())]
    if subject.record.partners:
        given.append(partner_of(image, ignored))
    with seeded(seed):
        pair = subject.change(*given)
    fine = isinstance(pair, tuple | list) and len(pair) == 2
    report.require(fine, "the pair (image, label) to be returned", type(pair).__name__)
    kinds = ("image", tv_tensors.Image), ("label", tv_tensors.Mask)
    for (name, kind), one in zip(kinds, pair, strict=True):
        fine = isinstance(one, kind)
        expected = (
            f"the {name} to stay a tv_tensors.{kind.__name__}, which the next augmentation needs"
        )
        report.require(fine, expected, type(one).__name__)
        report.require(one.dtype == torch.uint8, f"the {name} to stay uint8", f"{one.dtype}")
    new_image, new_label = (one.as_subclass(Tensor) for one in pair)
    wanted, found = (image.shape[0], *new_label.shape), tuple(new_image.shape)
    expected = f"an image {wanted}, with its label's size and {image.shape[0]} channels"
    report.require(found == wanted, expected, f"{found}")
    if place == "device":
        expected = "an unchanged size on the device, where images are already in a batch"
        report.require(new_image.shape == image.shape, expected, f"{tuple(image.shape)} to {found}")
    return new_image, new_label


def values(label: Tensor) -> set[int]:
    """Return the values that occur in a label."""
    return {int(value) for value in torch.bincount(label.flatten().int()).nonzero()}


def agreement(image: Tensor, label: Tensor) -> float | None:
    """Return the fraction of labelled pixels whose colour is nearest to their own class's.

    A class's colour is the median over its pixels. Pixels within two of a border are excluded,
    because colours mix there. None if too few pixels remain, or colours are not distinguishable.
    """
    inner = label != IGNORE
    for shift in ((0, 2), (0, -2), (2, 0), (-2, 0)):
        inner &= label == label.roll(shift, (0, 1))
    inner[:2], inner[-2:], inner[:, :2], inner[:, -2:] = False, False, False, False
    classes, pixels = label[inner], image[:, inner].float().T  # (P,), (P, C)
    found = [k for k in sorted(values(classes)) if (classes == k).sum() >= 64]
    if len(found) < 2:
        return None
    colors = torch.stack([pixels[classes == k].median(0).values for k in found])  # (k, C)
    kept = torch.isin(classes, torch.tensor(found, dtype=classes.dtype))
    nearest = torch.tensor(found)[torch.cdist(pixels[kept], colors).argmin(1)]
    return (nearest == classes[kept]).float().mean().item()


def together(report: Report, shares: list[float]) -> None:
    """Check that image and label were transformed together each time."""
    expected = "some images to have labelled pixels left"
    report.require(shares, expected, "labels that are all or almost all ignored")
    apart, mean = sum(share < 0.6 for share in shares), sum(shares) / len(shares)
    report.require(
        apart <= len(shares) // 16 and mean > 0.8,
        "image and label to be transformed together",
        f"that only {100 * mean:.0f} % of the pixels still have the colour of their class, "
        f"{100 * min(shares):.0f} % in the worst of {len(shares)} images",
    )


def seeds(subject: Subject, options: Any) -> None:
    """Check that the result depends on the seed of torch, numpy and random only."""
    image, label = pair((120, 150), subject.facts.num_channels, 16, 0)
    another = replace(subject, change=subject.record.build(options, subject.facts))
    for seed in range(4):
        first = apply(subject, image, label, seed)
        for one in (subject, another):
            again = apply(one, image, label, seed)
            same = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            subject.report.require(
                same,
                "the same result with the same seed of torch, numpy and random",
                "another one: use only these generators, and no state of its own",
            )


def left_to_the_device(subject: Subject) -> None:
    """Check that a deferred crop or flip gives the same result as a call with the same seed."""
    change, kind, size = subject.change, subject.record.deferrable, (120, 150)
    for seed in range(8 if kind else 0):
        image, label = pair(size, subject.facts.num_channels, 16, seed)
        at_once = apply(subject, image, label, seed)
        with subject.report.attempt(f"`deferred_{kind}` to be called"), seeded(seed):
            if kind == "crop":
                found = placed(*change.deferred_crop(image, label))
            else:
                found = placed(image, label, change.deferred_flip(Placement(size, size, size)))
        same = all(torch.equal(a, b) for a, b in zip(found, at_once, strict=True))
        expected = (
            f"`deferred_{kind}` and `segacc.data.placement.placed` to give the result of a call "
            "with the same seed"
        )
        subject.report.require(same, expected, f"another sample under seed {seed}")


def check_batch_change(report: Report, change: Any, samples: Sequence[Pair]) -> None:
    """Check that the result for a sample does not depend on the batch, bit for bit.

    Args:
        report: the component under test.
        change: the BatchChange.
        samples: images (C, H, W) uint8 and labels (H, W) uint8, of one size.
    """
    if getattr(change, "draws_unseen", False):
        image, label = (torch.zeros_like(one)[..., 5:, :] for one in samples[0])
        pairs = samples[0], (image, label)
        same = torch.equal(*(draw(report, change, one, 0) for one in pairs))
        expected = "`draw` to draw the same for any image, as `draws_unseen` declares"
        report.require(same, expected, "other parameters for a black image of another size")
    with report.attempt("a batch to be accepted"):
        whole = on_batch(report, change, samples, range(len(samples)))
        for index, sample in enumerate(samples):
            alone = on_batch(report, change, [sample], [index])
            same = all(torch.equal(a[index], b[0]) for a, b in zip(whole, alone, strict=True))
            report.require(
                same,
                "the same result for a sample in a batch as alone, bit for bit",
                f"another result for sample {index} of {len(samples)}: use element-wise "
                "arithmetic only",
            )


def on_batch(
    report: Report, change: Any, samples: Sequence[Pair], seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Draw for each sample under its own seed, augment them all, and check the result.

    Returns:
        Images (N, C, H, W) float32 and labels (N, H, W) uint8.
    """
    drawn = [
        draw(report, change, sample, seed) for sample, seed in zip(samples, seeds, strict=True)
    ]
    shapes = [tuple(one.shape) for one in drawn]
    found = " and ".join(map(str, sorted(set(shapes))))
    report.require(len(set(shapes)) == 1, "`draw` to return the same shape for all samples", found)
    images = torch.stack([image for image, _ in samples]).float()
    labels = torch.stack([label for _, label in samples])
    result = change(images.clone(), labels.clone(), torch.stack(drawn))
    fine = isinstance(result, tuple | list) and len(result) == 2
    report.require(fine, "the pair (images, labels) to be returned", type(result).__name__)
    for name, new, old in zip(("images", "labels"), result, (images, labels), strict=True):
        report.require(isinstance(new, Tensor), f"{name} as a tensor", type(new).__name__)
        expected = f"{name} {tuple(old.shape)} {old.dtype} to keep shape and dtype"
        same = (new.shape, new.dtype) == (old.shape, old.dtype)
        report.require(same, expected, f"{tuple(new.shape)} {new.dtype}")
    low, high = result[0].min().item(), result[0].max().item()
    within = 0 <= low <= high <= 255  # also false for nan
    report.require(within, "images to stay within 0..255", f"{low:.6g} to {high:.6g}")
    return result[0], result[1]


def draw(report: Report, change: Any, sample: Pair, seed: int) -> Tensor:
    """Draw the parameters of a sample, and check that the sample is not modified."""
    image, label = (one.clone() for one in sample)
    with seeded(seed):
        drawn = change.draw(tv_tensors.Image(image), tv_tensors.Mask(label))
    expected = "`draw` to return a float32 tensor"
    report.require(isinstance(drawn, Tensor), expected, type(drawn).__name__)
    report.require(drawn.dtype == torch.float32, expected, f"{drawn.dtype}")
    same = torch.equal(image, sample[0]) and torch.equal(label, sample[1])
    report.require(same, "`draw` not to modify its image and label", "modified ones")
    plain: Tensor = drawn.as_subclass(Tensor)
    return plain
