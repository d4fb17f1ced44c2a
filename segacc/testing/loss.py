"""Checks that a loss returns additive sums and counts."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segacc.contracts import IGNORE, Facts, LossTerm
from segacc.data.order import seeded
from segacc.hookspecs import Loss, LossOptions
from segacc.testing.tools import attempt, close, facts_of, naming, require, some_labels

SIZE = (24, 20)


def check_loss(record: Loss, options: Any = None, *, num_classes: int = 4) -> None:
    """Check that a loss implements `LossTerm` correctly.

    Sum and count are additive over images; ignored pixels have no effect; a batch that is all
    ignored has count 0; bfloat16 logits and logits of another resolution are accepted; correct
    logits have a lower loss than wrong ones; with options that inherit from LossOptions, it does
    not apply `weight` itself.

    Args:
        record: the record that the hook returns.
        options: options of the loss; default `record.options()`.
        num_classes: K of the test labels, 2 to 5.

    Raises:
        AssertionError: a check failed; the message says what was expected and found.
    """
    options = record.options() if options is None else options
    facts = facts_of(num_classes)
    expected = "a loss on logits (N, K, h, w) and labels (N, H, W)"
    with seeded(0), naming(record, options), attempt(expected):
        loss = record.build(options, facts)
        labels = some_labels(SIZE, num_classes, count=3)
        labels[2] = IGNORE  # an image without any label
        logits = torch.randn(3, num_classes, *SIZE)
        scalars(loss, logits, labels)
        sums(loss, logits, labels)
        ignored(loss, logits, labels)
        nothing(loss, logits, labels)
        precision(loss, logits, labels)
        gradients(loss, logits, labels)
        order(loss, facts)
        if isinstance(options, LossOptions):
            more = record.build(replace(options, weight=2 * options.weight), facts)
            whole, twice = loss.sum(logits, labels), more.sum(logits, labels)
            expected = "a sum without the factor `weight`, which segacc applies to every loss"
            require(close(twice, whole, 1e-6), expected, "a sum that depends on it")


def scalars(loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that sum and count are float scalars."""
    for name, value in (("sum", loss.sum(logits, labels)), ("count", loss.count(labels))):
        tensor = isinstance(value, Tensor)
        found = f"{value.dtype} {tuple(value.shape)}" if tensor else type(value).__name__
        fine = tensor and value.ndim == 0 and value.is_floating_point()
        require(fine, f"{name}() to return a float scalar tensor", found)
        require(value.isfinite(), f"a finite {name}() of common logits and labels", f"{value}")


def sums(loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that sum and count of a batch equal the totals over its images."""
    images = labels.chunk(len(labels))
    whole, total = loss.count(labels), torch.stack([loss.count(one) for one in images]).sum()
    expected = "count() of a batch to be the sum of its images' counts"
    require(close(whole, total, 1e-6), expected, f"{whole:.6g} and {total:.6g}")
    for size in (SIZE, (SIZE[0] // 4, SIZE[1] // 4)):
        small = resized(logits, size)
        what = f"logits of {size[0]}x{size[1]} and labels of {SIZE[0]}x{SIZE[1]}"
        with attempt(f"{what} to be accepted"):
            whole = loss.sum(small, labels)
            apart = [loss.sum(*pair) for pair in zip(small.chunk(3), images, strict=True)]
        total = torch.stack(apart).sum()
        require(
            close(whole, total, 1e-4),
            f"sum() of {len(images)} images to equal the total of their sums, for {what}",
            f"{whole:.6g} and {total:.6g}: return a sum over the batch, not a mean; the loop "
            "divides by count() of the whole effective batch",
        )


def ignored(loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that logits at ignored pixels have no effect."""
    other = torch.where((labels == IGNORE).unsqueeze(1), logits.flip(1) * 5 + 3, logits)
    first, second = loss.sum(logits, labels), loss.sum(other, labels)
    found = f"sum() {first:.6g}, and {second:.6g} after a change of the logits at such pixels"
    require(close(second, first, 1e-5), "pixels labelled 255 to be ignored", found)
    fewer = labels.clone()
    fewer[0, : SIZE[0] // 2] = IGNORE
    count, less = loss.count(labels), loss.count(fewer)
    expected = "count() above 0, and not larger when more pixels are ignored"
    require(less <= count and count > 0, expected, f"{count:.6g}, then {less:.6g}")


def nothing(loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that a batch whose labels are all ignored has sum, count and gradient 0."""
    leaf, empty = logits.clone().requires_grad_(), torch.full_like(labels, IGNORE)
    total, count = loss.sum(leaf, empty), loss.count(empty)
    expected = "sum() and count() of 0 if every pixel is ignored"
    require(total == 0 and count == 0, expected, f"{total:.6g} and {count:.6g}")
    if total.requires_grad:
        (grad,) = torch.autograd.grad(total, leaf, materialize_grads=True)
        expected = "a gradient of 0 if every pixel is ignored"
        require(not grad.any(), expected, f"values up to {grad.abs().max():.3g}")


def precision(loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that bfloat16 logits give finite values near those of float32."""
    full, half = loss.sum(logits, labels), loss.sum(logits.bfloat16(), labels)
    expected = f"about {full:.6g} for bfloat16 logits, as used in mixed precision"
    require(half.isfinite() and close(half, full, 0.05), expected, f"{half:.6g}")
    large = loss.sum(logits * 1e4, labels)
    require(large.isfinite(), "a finite sum for logits of 1e4", f"{large}")


def gradients(loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that gradients are finite and not all 0."""
    for name, size in (("the labels' size", SIZE), ("half that size", (SIZE[0] // 2, 10))):
        leaf = resized(logits, size).requires_grad_()
        total = loss.sum(leaf, labels)
        expected = f"a finite gradient that is not all 0, for logits of {name}"
        require(total.requires_grad, expected, "a sum without any gradient")
        (grad,) = torch.autograd.grad(total, leaf)
        found = f"values up to {grad.abs().max():.3g}"
        require(grad.isfinite().all() and grad[:2].any(), expected, found)
        expected = "no gradient for an image whose pixels are all ignored, in a batch with others"
        require(not grad[2].any(), expected, f"values up to {grad[2].abs().max():.3g}")


def order(loss: LossTerm, facts: Facts) -> None:
    """Check that correct logits have a lower loss than wrong ones."""
    labels = some_labels(SIZE, facts.num_classes)
    valid = labels.where(labels != IGNORE, 0)
    right = functional.one_hot(valid, facts.num_classes).movedim(-1, 1) * 10.0
    good, bad = loss.sum(right, labels), loss.sum(right.roll(1, dims=1), labels)
    expected = "a lower loss for correct than for wrong logits"
    require(good < bad, expected, f"{good:.6g} for correct, {bad:.6g} for wrong logits")


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Average logits to a smaller size."""
    return functional.adaptive_avg_pool2d(logits, size)
