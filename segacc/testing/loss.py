"""Checks that a loss returns additive sums and counts."""

from typing import Any

import torch
from torch import Tensor

from segacc.contracts import IGNORE, Facts, LossTerm
from segacc.data.order import seeded
from segacc.hookspecs import Loss
from segacc.testing.tools import Report, close, facts_of, some_labels

SIZE = (24, 20)


def check_loss(record: Loss, options: Any = None, *, num_classes: int = 4) -> None:
    """Check that a loss implements `LossTerm` correctly.

    Sum and count are additive over images; ignored pixels have no effect; a batch that is all
    ignored has count 0; bfloat16 logits and logits of another resolution are accepted; correct
    logits have a lower loss than wrong ones.

    Args:
        record: the record that the hook returns.
        options: options of the loss; default `record.options()`.
        num_classes: K of the test labels, 2 to 5.

    Raises:
        AssertionError: a check failed; the message says what was expected and found.
    """
    options = record.options() if options is None else options
    report, facts = Report(record, options), facts_of(num_classes)
    with seeded(0), report.attempt("a loss on logits (N, K, h, w) and labels (N, H, W)"):
        loss = record.build(options, facts)
        labels = some_labels(SIZE, num_classes, count=3)
        labels[2] = IGNORE  # an image without any label
        logits = torch.randn(3, num_classes, *SIZE)
        scalars(report, loss, logits, labels)
        sums(report, loss, logits, labels)
        ignored(report, loss, logits, labels)
        nothing(report, loss, logits, labels)
        precision(report, loss, logits, labels)
        gradients(report, loss, logits, labels)
        order(report, loss, facts)


def scalars(report: Report, loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that sum and count are float scalars."""
    for name, value in (("sum", loss.sum(logits, labels)), ("count", loss.count(labels))):
        fine = isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()
        shape = tuple(value.shape) if isinstance(value, Tensor) else value
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        report.require(fine, f"{name}() to return a float scalar tensor", f"{kind} {shape}")


def sums(report: Report, loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that sum and count of a batch equal the totals over its images."""
    alone = [(logits[k : k + 1], labels[k : k + 1]) for k in range(len(labels))]
    whole, parts = loss.count(labels), torch.stack([loss.count(label) for _, label in alone]).sum()
    expected = "count() of a batch to be the sum of its images' counts"
    report.require(close(whole, parts, 1e-6), expected, f"{whole:.6g} and {parts:.6g}")
    for size in (SIZE, (SIZE[0] // 4, SIZE[1] // 4)):
        small = [torch.nn.functional.adaptive_avg_pool2d(one, size) for one, _ in alone]
        what = f"logits of {size[0]}x{size[1]} and labels of {SIZE[0]}x{SIZE[1]}"
        with report.attempt(f"{what} to be accepted"):
            together = loss.sum(torch.cat(small), labels)
            apart = [loss.sum(one, label) for one, (_, label) in zip(small, alone, strict=True)]
        total = torch.stack(apart).sum()
        report.require(
            close(together, total, 1e-4),
            f"sum() of {len(alone)} images to equal the total of their sums, for {what}",
            f"{together:.6g} and {total:.6g}: return a sum over the batch, not a mean; the loop "
            "divides by count() of the whole effective batch",
        )


def ignored(report: Report, loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that logits at ignored pixels have no effect."""
    away = (labels == IGNORE).unsqueeze(1)
    other = torch.where(away, logits.flip(1) * 5 + 3, logits)
    first, second = loss.sum(logits, labels), loss.sum(other, labels)
    expected = "pixels labelled 255 to be ignored"
    found = f"sum() {first:.6g}, and {second:.6g} after a change of the logits at such pixels"
    report.require(close(second, first, 1e-5), expected, found)
    more = labels.clone()
    more[0, : SIZE[0] // 2] = IGNORE
    fewer = loss.count(more) <= loss.count(labels)
    report.require(
        fewer and loss.count(labels) > 0,
        "count() above 0, and not larger when more pixels are ignored",
        f"{loss.count(labels):.6g}, then {loss.count(more):.6g}",
    )


def nothing(report: Report, loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that a batch whose labels are all ignored has sum, count and gradient 0."""
    leaf, empty = logits.clone().requires_grad_(), torch.full_like(labels, IGNORE)
    total, count = loss.sum(leaf, empty), loss.count(empty)
    expected = "sum() and count() of 0 if every pixel is ignored"
    report.require(total == 0 and count == 0, expected, f"{total:.6g} and {count:.6g}")
    if total.requires_grad:
        (grad,) = torch.autograd.grad(total, leaf, allow_unused=True)
        worst = 0.0 if grad is None else grad.abs().max().item()
        expected = "a gradient of 0 if every pixel is ignored"
        report.require(worst == 0, expected, f"values up to {worst:.3g}")


def precision(report: Report, loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that bfloat16 logits give finite values near those of float32."""
    full, half = loss.sum(logits, labels), loss.sum(logits.bfloat16(), labels)
    expected = f"about {full:.6g} for bfloat16 logits, as used in mixed precision"
    report.require(torch.isfinite(half) and close(half, full, 0.05), expected, f"{half:.6g}")
    large = loss.sum(logits * 1e4, labels)
    report.require(torch.isfinite(large), "a finite sum for logits of 1e4", f"{large}")


def gradients(report: Report, loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Check that gradients are finite and not all 0."""
    for name, size in (("the labels' size", SIZE), ("half that size", (SIZE[0] // 2, 10))):
        leaf = torch.nn.functional.adaptive_avg_pool2d(logits, size).requires_grad_()
        total = loss.sum(leaf, labels)
        expected = f"a finite gradient that is not all 0, for logits of {name}"
        report.require(total.requires_grad, expected, "a sum without any gradient")
        (grad,) = torch.autograd.grad(total, leaf)
        fine = torch.isfinite(grad).all() and grad[:2].abs().max() > 0
        report.require(fine, expected, f"values up to {grad.abs().max():.3g}")
        report.require(
            grad[2].abs().max() == 0,
            "no gradient for an image whose pixels are all ignored, in a batch with others",
            f"values up to {grad[2].abs().max():.3g}",
        )


def order(report: Report, loss: LossTerm, facts: Facts) -> None:
    """Check that correct logits have a lower loss than wrong ones."""
    labels = some_labels(SIZE, facts.num_classes)
    valid = labels.where(labels != IGNORE, 0)
    right = torch.nn.functional.one_hot(valid, facts.num_classes).movedim(-1, 1) * 10.0
    good, bad = loss.sum(right, labels), loss.sum(right.roll(1, dims=1), labels)
    expected = "a lower loss for correct than for wrong logits"
    report.require(good < bad, expected, f"{good:.6g} for correct, {bad:.6g} for wrong logits")
