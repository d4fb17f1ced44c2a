"""Checks that an augmentation does what its record declares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from segacc.contracts import IGNORE, Facts
from segacc.data.augment import Stage, check_range, returned
from segacc.data.order import seeded
from segacc.data.placement import Placement, placed
from segacc.errors import first_of
from segacc.hookspecs import Augmentation
from segacc.testing.tools import attempt, facts_of, naming, require, some_labels

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
    """An augmentation with options, where it runs, and the facts it is built with."""

    record: Augmentation
    options: Any
    place: str
    facts: Facts

    def build(self) -> Any:
        """Build it."""
        change = self.record.build(self.options, self.facts)
        fine = self.place != "batch" or hasattr(change, "draw")
        require(fine, "a BatchChange, which has `draw`", type(change).__name__)
        return change


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
    with seeded(0), naming(record, options):
        place = place_of(record, options)
        agreed: list[float] = []
        for channels in num_channels:
            shares = SHARES if record.wants_shares else None
            facts = facts_of(
                NUM_CLASSES, crop_size=CROP, class_shares=shares, num_channels=channels
            )
            subject = Subject(record, options, place, facts)
            with attempt("a callable of (image, label)"):
                change = subject.build()
            if place == "batch":
                independent(subject, change)
            for size in ((120, 150), (61, 75), (37, 201), (17, 23)):
                agreed += accepts(subject, change, size)
        together(agreed)
        seeds(subject, change)
        deferred(subject, change)


def place_of(record: Augmentation, options: Any) -> str:
    """Return where the augmentation runs."""
    places = ("worker", "device", "batch")
    with attempt("`on` to be a text, or a function of the options"):
        place = record.on(options) if callable(record.on) else record.on
        require(place in places, f"`on` to be one of {', '.join(places)}", repr(place))
        fine = not record.partners or place == "worker"
        require(fine, "one with partners to run in the worker", f"it runs on the {place}")
    return place


def accepts(subject: Subject, change: Any, size: tuple[int, int]) -> list[float]:
    """Check pairs of one size; return the fractions of pixels that match their label."""
    shares, side = [], 16 if min(size) > 40 else 8
    channels, (tall, wide) = subject.facts.num_channels, size
    with attempt(f"images ({channels}, {tall}, {wide}) to be accepted"):
        for seed in range(SEEDS if tall > 100 else 4):
            image, label = pair(size, channels, side, seed)
            new_image, new_label = apply(subject, change, image, label, seed)
            new = set(range(NUM_CLASSES)) if subject.record.partners else set()
            allowed = {*values(label), IGNORE} | new
            strange = sorted(values(new_label) - allowed)
            require(
                not strange,
                f"only label values of the original ({first_of(sorted(allowed), 4)})",
                f"{first_of(strange, 4)}: resize labels with nearest neighbour, fill with {IGNORE}",
            )
            if tall > 100 and (share := agreement(new_image, new_label)) is not None:
                shares.append(share)
        empty = torch.full(size, IGNORE, dtype=torch.uint8)
        _, ignored = apply(subject, change, image, empty, 0)
        expected = "a label that is all ignored (255) to stay all ignored"
        require((ignored == IGNORE).all(), expected, first_of(sorted(values(ignored)), 4))
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


def apply(subject: Subject, change: Any, image: Tensor, label: Tensor, seed: int) -> Pair:
    """Call the augmentation, and check that it returns a pair that a run accepts."""
    if subject.place == "batch":
        images, labels = on_batch(subject, change, [(image, label)], [seed])
        return images[0].round().to(torch.uint8), labels[0]
    given: list[Any] = [tv_tensors.Image(image.clone()), tv_tensors.Mask(label.clone())]
    if subject.record.partners:
        given.append(partner_of(image, ignored=bool((label == IGNORE).all())))
    with seeded(seed):
        found = change(*given)
    stage = Stage(change, subject.record.name)
    new = returned(stage, found, image, fixed=subject.place == "device")
    for one, kind in zip(found, (tv_tensors.Image, tv_tensors.Mask), strict=True):
        expected = f"a tv_tensors.{kind.__name__}, which the next augmentation needs"
        require(isinstance(one, kind), expected, type(one).__name__)
    return new


def values(label: Tensor) -> set[int]:
    """Return the values that occur in a label."""
    return set(label.flatten().tolist())


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
    found = (classes.bincount() >= 64).nonzero().flatten()
    if len(found) < 2:
        return None
    colors = torch.stack([pixels[classes == k].median(0).values for k in found])  # (k, C)
    kept = torch.isin(classes, found)
    nearest = found[torch.cdist(pixels[kept], colors).argmin(1)]
    return (nearest == classes[kept]).float().mean().item()


def together(shares: list[float]) -> None:
    """Check that image and label were transformed together each time."""
    expected = "some images to have labelled pixels left"
    require(shares, expected, "labels that are all or almost all ignored")
    apart, mean = sum(share < 0.6 for share in shares), sum(shares) / len(shares)
    require(
        apart <= len(shares) // 16 and mean > 0.8,
        "image and label to be transformed together",
        f"that only {100 * mean:.0f} % of the pixels still have the colour of their class, "
        f"{100 * min(shares):.0f} % in the worst of {len(shares)} images",
    )


def seeds(subject: Subject, change: Any) -> None:
    """Check that the result depends on the seed of torch, numpy and random only."""
    image, label = pair((120, 150), subject.facts.num_channels, 16, 0)
    rebuilt = subject.build()
    for seed in range(4):
        first = apply(subject, change, image, label, seed)
        for one in (change, rebuilt):
            require(
                equal(apply(subject, one, image, label, seed), first),
                "the same result with the same seed of torch, numpy and random",
                "another one: use only these generators, and no state of its own",
            )


def deferred(subject: Subject, change: Any) -> None:
    """Check that a deferred crop or flip gives the same result as a call with the same seed."""
    kind, size = subject.record.deferrable, (120, 150)
    for seed in range(8 if kind else 0):
        image, label = pair(size, subject.facts.num_channels, 16, seed)
        at_once = apply(subject, change, image, label, seed)
        with attempt(f"`deferred_{kind}` to be called"), seeded(seed):
            if kind == "crop":
                found = placed(*change.deferred_crop(image, label))
            else:
                found = placed(image, label, change.deferred_flip(Placement(size, size, size)))
        require(
            equal(found, at_once),
            f"`deferred_{kind}` and `segacc.data.placement.placed` to give the result of a call "
            "with the same seed",
            f"another sample under seed {seed}",
        )


def equal(mine: Pair, theirs: Pair) -> bool:
    """True if image and label are equal."""
    return torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])


def independent(subject: Subject, change: Any) -> None:
    """Check that the result for a sample does not depend on the batch, bit for bit."""
    samples = [pair((37, 53), subject.facts.num_channels, 8, seed) for seed in range(3)]
    if getattr(change, "draws_unseen", False):
        image, label = (torch.zeros_like(one)[..., 5:, :] for one in samples[0])
        same = torch.equal(draw(change, samples[0], 0), draw(change, (image, label), 0))
        expected = "`draw` to draw the same for any image, as `draws_unseen` declares"
        require(same, expected, "other parameters for a black image of another size")
    with attempt("a batch to be accepted"):
        images, labels = on_batch(subject, change, samples, range(len(samples)))
        for index, sample in enumerate(samples):
            alone = on_batch(subject, change, [sample], [index])
            require(
                equal((images[[index]], labels[[index]]), alone),
                "the same result for a sample in a batch as alone, bit for bit",
                f"another result for sample {index} of {len(samples)}: use element-wise "
                "arithmetic only",
            )


def on_batch(subject: Subject, change: Any, samples: Sequence[Pair], seeds: Sequence[int]) -> Pair:
    """Draw for each sample under its own seed, augment them all, and check the result.

    Returns:
        Images (N, C, H, W) float32 and labels (N, H, W) uint8.
    """
    drawn = [draw(change, sample, seed) for sample, seed in zip(samples, seeds, strict=True)]
    shapes = {str(tuple(one.shape)) for one in drawn}
    expected = "`draw` to return the same shape for all samples"
    require(len(shapes) == 1, expected, " and ".join(sorted(shapes)))
    given = torch.stack([image for image, _ in samples]).float()
    labels = torch.stack([label for _, label in samples])
    found = change(given.clone(), labels.clone(), torch.stack(drawn))
    stage = Stage(change, subject.record.name)
    images, labels = returned(stage, found, given, fixed=True)
    require(images.dtype == torch.float32, "images to stay float32", f"{images.dtype}")
    check_range(stage, images, float(given.max()))
    return images, labels


def draw(change: Any, sample: Pair, seed: int) -> Tensor:
    """Draw the parameters of a sample, and check that the sample is not modified."""
    image, label = (one.clone() for one in sample)
    with seeded(seed):
        drawn: Any = change.draw(tv_tensors.Image(image), tv_tensors.Mask(label))
    found = str(drawn.dtype) if isinstance(drawn, Tensor) else type(drawn).__name__
    require(found == "torch.float32", "`draw` to return a float32 tensor", found)
    require(
        equal((image, label), sample), "`draw` not to modify its image and label", "changed ones"
    )
    plain: Tensor = drawn.as_subclass(Tensor)
    return plain
