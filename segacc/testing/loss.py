"""Does a loss give sums and counts that add up, whatever a batch holds?"""

from typing import Any

import torch
from torch import Tensor

from segacc.contracts import IGNORE, Facts, LossTerm
from segacc.data.order import seeded
from segacc.hookspecs import Loss
from segacc.testing.tools import Report, close, facts_of, some_labels

SIZE = (24, 20)


def check_loss(record: Loss, options: Any = None, *, num_classes: int = 4) -> None:
    """Check that a loss keeps the promises of `LossTerm`.

    Sum and count add up over images; ignored pixels change nothing; a batch that is ignored weighs
    nothing; bfloat16 logits and logits of another resolution are taken; right logits cost less
    than wrong ones.

    Args:
        record: what the hook returned.
        options: of the loss; default `record.options()`.
        num_classes: K of the labels that it is tried on, 2 to 5.

    Raises:
        AssertionError: what was expected and what was found.
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
    """Require float scalars."""
    for name, value in (("sum", loss.sum(logits, labels)), ("count", loss.count(labels))):
        fine = isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()
        shape = tuple(value.shape) if isinstance(value, Tensor) else value
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        report.require(fine, f"{name}() to return a float scalar tensor", f"{kind} {shape}")


def sums(report: Report, loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Require that sum and count of a batch are those of its images, added up."""
    alone = [(logits[k : k + 1], labels[k : k + 1]) for k in range(len(labels))]
    whole, parts = loss.count(labels), torch.stack([loss.count(label) for _, label in alone]).sum()
    expected = "count() of a batch to be the sum of its images' counts"
    report.require(close(whole, parts, 1e-6), expected, f"{whole:.6g} and {parts:.6g}")
    for size in (SIZE, (SIZE[0] // 4, SIZE[1] // 4)):
        small = [torch.nn.functional.adaptive_avg_pool2d(one, size) for one, _ in alone]
        what = f"logits of {size[0]}x{size[1]} and labels of {SIZE[0]}x{SIZE[1]}"
        with report.attempt(f"{what} to be taken"):
            together = loss.sum(torch.cat(small), labels)
            apart = [loss.sum(one, label) for one, (_, label) in zip(small, alone, strict=True)]
        total = torch.stack(apart).sum()
        report.require(
            close(together, total, 1e-4),
            f"sum() of {len(alone)} images to be what their sums add up to, for {what}",
            f"{together:.6g} and {total:.6g}: return a sum over the batch, not a mean; the loop "
            "divides by count() of the whole effective batch",
        )


def ignored(report: Report, loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Require that logits under ignored pixels change nothing."""
    away = (labels == IGNORE).unsqueeze(1)
    other = torch.where(away, logits.flip(1) * 5 + 3, logits)
    first, second = loss.sum(logits, labels), loss.sum(other, labels)
    expected = "pixels labelled 255 to count for nothing"
    found = f"sum() {first:.6g}, and {second:.6g} after a change of the logits under such pixels"
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
    """Require that a batch without any label weighs nothing, and teaches nothing."""
    leaf, empty = logits.clone().requires_grad_(), torch.full_like(labels, IGNORE)
    total, count = loss.sum(leaf, empty), loss.count(empty)
    expected = "sum() and count() of 0 where every pixel is ignored"
    report.require(total == 0 and count == 0, expected, f"{total:.6g} and {count:.6g}")
    if total.requires_grad:
        (grad,) = torch.autograd.grad(total, leaf, allow_unused=True)
        worst = 0.0 if grad is None else grad.abs().max().item()
        expected = "a gradient of 0 where every pixel is ignored"
        report.require(worst == 0, expected, f"numbers up to {worst:.3g}")


def precision(report: Report, loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Require finite numbers from bfloat16 logits, near those of float32."""
    full, half = loss.sum(logits, labels), loss.sum(logits.bfloat16(), labels)
    expected = f"about {full:.6g} from bfloat16 logits, as mixed precision gives them"
    report.require(torch.isfinite(half) and close(half, full, 0.05), expected, f"{half:.6g}")
    large = loss.sum(logits * 1e4, labels)
    report.require(torch.isfinite(large), "a finite sum from logits of 1e4", f"{large}")


def gradients(report: Report, loss: LossTerm, logits: Tensor, labels: Tensor) -> None:
    """Require finite gradients, and some that are not 0."""
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
            "no gradient for an image whose pixels are all ignored, beside others",
            f"values up to {grad[2].abs().max():.3g}",
        )


def order(report: Report, loss: LossTerm, facts: Facts) -> None:
    """Require that right logits cost less than wrong ones."""
    labels = some_labels(SIZE, facts.num_classes)
    valid = labels.where(labels != IGNORE, 0)
    right = torch.nn.functional.one_hot(valid, facts.num_classes).movedim(-1, 1) * 10.0
    good, bad = loss.sum(right, labels), loss.sum(right.roll(1, dims=1), labels)
    expected = "right logits to cost less than wrong ones"
    report.require(good < bad, expected, f"{good:.6g} for right, {bad:.6g} for wrong logits")
