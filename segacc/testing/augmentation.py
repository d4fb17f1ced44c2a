"""Does an augmentation move image and label together, and leave labels labels?"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from segacc.data import seeded
from segacc.hookspecs import Augmentation, Facts
from segacc.labels import IGNORE
from segacc.testing.tools import Report, facts_of, few, some_labels

COLORS = ((20, 30, 90, 9), (200, 60, 40, 99), (90, 210, 60, 200), (240, 230, 190, 30))
"""Of the classes and, last, of what is ignored; far from each other in brightness too."""
NUM_CLASSES = 3
CROP = (64, 80)
SEEDS = 24
Change = Callable[..., Any]


def check_augmentation(
    record: Augmentation, options: Any = None, *, num_channels: Sequence[int] = (1, 3)
) -> None:
    """Check that an augmentation keeps the promises of the hook.

    It returns the pair that it takes: tv_tensors of uint8, of one size; image and label move
    together; no label value is new and ignored pixels stay ignored; images of any size are
    taken; a seed decides everything. On the device, the size stays.

    Image and label are held against each other by colour: each class has one, so wherever both
    moved together, and whatever became of the colours, pixels of one class still have one colour.

    Args:
        record: what the hook returned.
        options: of the augmentation; default `record.options()`.
        num_channels: of the images that are tried; a run may ask for 1, 3 or 4.

    Raises:
        AssertionError: what was expected and what was found.
    """
    options = record.options() if options is None else options
    report, facts = Report(record, options), facts_of(NUM_CLASSES, crop_size=CROP)
    with seeded(0):
        shares = []
        with report.attempt("a callable of (image, label)"):
            changes: dict[int, Change] = {
                channels: record.build(options, replace(facts, num_channels=channels))
                for channels in num_channels
            }
        for size in ((120, 150), (61, 75), (37, 201), (17, 23)):
            for channels in num_channels:
                shares += both(report, record, changes[channels], facts, size, channels)
        together(report, shares)
        told = replace(facts, num_channels=num_channels[-1])
        seeds(report, record, changes[num_channels[-1]], options, told)


def both(
    report: Report,
    record: Augmentation,
    change: Change,
    facts: Facts,
    size: tuple[int, int],
    channels: int,
) -> list[float]:
    """Check pairs of one size; return the shares of pixels that agree with their label."""
    shares, side = [], 16 if min(size) > 40 else 8
    tall, wide = size
    with report.attempt(f"images ({channels}, {tall}, {wide}) to be taken"):
        for seed in range(SEEDS if size[0] > 100 else 4):
            image, label = pair(size, channels, side, seed)
            new_image, new_label = apply(report, record, change, image, label, seed)
            allowed = values(label) | {IGNORE}
            strange = sorted(values(new_label) - allowed)
            report.require(
                not strange,
                f"label values of the original ({few(sorted(allowed))}) only",
                f"{few(strange)}: resize labels with nearest neighbour, fill with "
                f"{facts.ignore_index}",
            )
            if size[0] > 100 and (share := agreement(new_image, new_label)) is not None:
                shares.append(share)
        empty = torch.full(size, IGNORE, dtype=torch.uint8)
        _, ignored = apply(report, record, change, image, empty, 0)
        expected = "a label that is all ignored (255) to stay so"
        report.require((ignored == IGNORE).all(), expected, few(sorted(values(ignored))))
    return shares


def pair(size: tuple[int, int], channels: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw label (H, W) uint8 of blocks, and image (C, H, W) uint8 in its classes' colours."""
    label = some_labels(size, NUM_CLASSES, count=1, side=side, seed=seed)[0]
    places = label.where(label != IGNORE, NUM_CLASSES)
    image = torch.tensor(COLORS, dtype=torch.uint8)[places].permute(2, 0, 1)  # (4, H, W)
    return image[:channels].contiguous(), label.to(torch.uint8)


def apply(
    report: Report, record: Augmentation, change: Change, image: Tensor, label: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Change a pair, and require a pair."""
    with seeded(seed):
        pair = change(tv_tensors.Image(image.clone()), tv_tensors.Mask(label.clone()))
    fine = isinstance(pair, tuple | list) and len(pair) == 2
    report.require(fine, "the pair (image, label) to be returned", type(pair).__name__)
    kinds = ("image", tv_tensors.Image), ("label", tv_tensors.Mask)
    for (name, kind), one in zip(kinds, pair, strict=True):
        fine = isinstance(one, kind)
        expected = f"the {name} to stay a tv_tensors.{kind.__name__}, as the next one needs it"
        report.require(fine, expected, type(one).__name__)
        report.require(one.dtype == torch.uint8, f"the {name} to stay uint8", f"{one.dtype}")
    new_image, new_label = (one.as_subclass(Tensor) for one in pair)
    wanted, found = (image.shape[0], *new_label.shape), tuple(new_image.shape)
    expected = f"an image {wanted}, of its label's size and {image.shape[0]} channels"
    report.require(found == wanted, expected, f"{found}")
    if record.on == "device":
        expected = "the size to stay, on the device, where images lie in a batch already"
        report.require(new_image.shape == image.shape, expected, f"{tuple(image.shape)} to {found}")
    return new_image, new_label


def values(label: Tensor) -> set[int]:
    """Return the values that occur in a label."""
    return {int(value) for value in torch.bincount(label.flatten().int()).nonzero()}


def agreement(image: Tensor, label: Tensor) -> float | None:
    """Return the share of labelled pixels whose colour is nearest to their own class's.

    A class's colour is the median over its pixels. Pixels within two of a border are left out, for
    colours mix there. None where too little is left, or colours cannot be told apart.
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
    """Require that image and label moved together each time."""
    expected = "labelled pixels to be left, in some pictures"
    report.require(shares, expected, "labels that are all, or nearly all, ignored")
    apart, mean = sum(share < 0.6 for share in shares), sum(shares) / len(shares)
    report.require(
        apart <= len(shares) // 16 and mean > 0.8,
        "image and label to move together",
        f"that only {100 * mean:.0f} % of the pixels still lie on the colour of their class, "
        f"{100 * min(shares):.0f} % in the worst of {len(shares)} pictures",
    )


def seeds(report: Report, record: Augmentation, change: Change, options: Any, facts: Facts) -> None:
    """Require that the seed of torch, numpy and random decides everything."""
    image, label = pair((120, 150), facts.num_channels, 16, 0)
    for seed in range(4):
        first = apply(report, record, change, image, label, seed)
        for one in (change, record.build(options, facts)):
            again = apply(report, record, one, image, label, seed)
            same = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            report.require(
                same,
                "the same result under the same seed of torch, numpy and random",
                "another one: draw from these only, not from a generator or state of its own",
            )
