"""Checks of an architecture: building and the forward pass."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.testing.subject import Subject
from segacc.testing.tools import close, few, gap


def check(subject: Subject, *, num_channels: Sequence[int]) -> None:
    """Check building and the forward pass."""
    with subject.report.attempt("the network to be built and to segment images"):
        same_weights(subject)
        for num_classes in (3, 5):
            shapes(subject, subject.build(num_classes=num_classes), num_classes)
        for count in num_channels:
            channels(subject, count)
        sizes(subject)
        batches(subject)
        steps(subject)


def same_weights(subject: Subject) -> None:
    """Check that the same seed gives the same float32 weights."""
    first, again = subject.build().state_dict(), subject.build().state_dict()
    names = [n for n in first if n not in again or not torch.equal(first[n], again[n])]
    expected = "two networks built with the same torch seed to have equal weights"
    found = f"other weights in {few(names)}: use torch's generator to draw them"
    subject.report.require(not names and len(first) == len(again), expected, found)
    kinds = {f"{n}: {one.dtype}" for n, one in first.items() if one.is_floating_point()}
    others = sorted(kind for kind in kinds if not kind.endswith("torch.float32"))
    expected = "float32 weights; the run chooses the precision"
    subject.report.require(not others, expected, few(others))


def shapes(subject: Subject, network: SegmentationModel, num_classes: int) -> None:
    """Check that Logits have K channels, and auxiliary ones occur in training only."""
    report, (height, width) = subject.report, subject.size
    names = list(inspect.signature(network.forward).parameters)
    expected = "forward(images) to take images only; labels are passed to losses only"
    report.require(len(names) == 1, expected, f"forward({', '.join(names)})")
    for training in (False, True):
        network.train(training)
        images = subject.images(network)
        logits = network(images)
        mode = "training" if training else "evaluation"
        fine = isinstance(logits, Logits)
        report.require(fine, f"segacc.model.Logits in {mode}", type(logits).__name__)
        main = logits.main
        fine = main.ndim == 4 and main.shape[:2] == (2, num_classes)
        fine = fine and main.shape[2] <= height and main.shape[3] <= width
        expected = f"logits (2, {num_classes}, h, w) of at most {height}x{width} in {mode}"
        report.require(fine, expected, f"{tuple(main.shape)}")
        fine = main.dtype == torch.float32 and bool(torch.isfinite(main).all())
        expected = f"finite float32 logits in {mode}"
        report.require(fine, expected, f"{main.dtype} with non-finite values")
        count = len(logits.auxiliary)
        expected = "auxiliary logits in training only"
        report.require(training or not count, expected, f"{count} in evaluation")
        for one, weight in logits.auxiliary:
            fine = one.ndim == 4 and one.shape[:2] == (2, num_classes) and weight > 0
            expected = f"auxiliary logits (2, {num_classes}, h, w) with a weight above 0"
            report.require(fine, expected, f"{tuple(one.shape)} with {weight}")


def channels(subject: Subject, num_channels: int) -> None:
    """Check that `facts.num_channels` is used."""
    expected = f"images of facts.num_channels={num_channels} channels to be accepted"
    with subject.report.attempt(expected), torch.no_grad():
        network = subject.build(num_channels=num_channels)
        network(subject.images(network))


def sizes(subject: Subject) -> None:
    """Check that every accepted size works and that all pixels are used."""
    network = subject.build()
    for size in accepted(network.size_rule, subject.size):
        text = f"{size[0]}x{size[1]}"
        expected = f"images of {text}, which size_rule accepts, to be accepted"
        with subject.report.attempt(expected):
            images = subject.images(network, size).requires_grad_()
            main = network(images).main
        weights = torch.randn(main.shape, generator=torch.Generator().manual_seed(0))
        grad = None
        if main.requires_grad:
            (grad,) = torch.autograd.grad((main * weights).sum(), images, allow_unused=True)
        expected = "a gradient of the logits with respect to the image"
        subject.report.require(grad is not None, expected, "none: something is detached")
        assert grad is not None
        missing = [f"{unseen(grad, axis)} {name}" for axis, name in ((2, "rows"), (3, "columns"))]
        missing = [one for one in missing if not one.startswith("0 ")]
        subject.report.require(
            not missing,
            f"logits that depend on all of an image of {text}, which size_rule accepts",
            f"that its last {' and '.join(missing)} have no effect: declare "
            "SizeRule(multiple=...) so that segacc pads, or pad in forward",
        )


def accepted(rule: SizeRule, crop: tuple[int, int]) -> list[tuple[int, int]]:
    """Return some sizes that the rule accepts, odd and non-square ones if possible."""
    (height, width), step = crop, rule.multiple
    least = -(-max(rule.minimum, 16) // step) * step
    some = [
        (height, width),
        (height + 7, width + 13),
        (height + 1, width + 3),
        (height + 2 * step, width + step),
        (height + step, width + step),
        (least, least),
    ]
    return [size for size in dict.fromkeys(some) if not rule.complaint(size)]


def unseen(grad: Tensor, axis: int) -> int:
    """Count the last rows (axis 2) or columns (3) of (N, C, H, W) that are all 0."""
    others = [k for k in range(4) if k != axis]
    seen = grad.abs().amax(others).nonzero().flatten()
    return grad.shape[axis] - 1 - (int(seen[-1]) if len(seen) else -1)


@torch.no_grad()
def batches(subject: Subject) -> None:
    """Check that in evaluation an image's logits depend on the image only."""
    network = subject.build()
    images = subject.images(network)
    first, again = network(images).main, network(images).main
    expected = "the same logits for the same images in evaluation, twice"
    subject.report.require(torch.equal(first, again), expected, gap(first, again))
    with subject.report.attempt("a batch of one image to be accepted in evaluation"):
        alone = torch.cat([network(images[k : k + 1]).main for k in range(2)])
    expected = "the same logits for an image alone and in a batch of two, in evaluation"
    subject.report.require(close(alone, first, 1e-4), expected, gap(alone, first))


@torch.no_grad()
def steps(subject: Subject) -> None:
    """Check that on_step may be called before each step."""
    network = subject.build()
    with subject.report.attempt("on_step(0, 10) to on_step(9, 10), and forward after each"):
        images = subject.images(network)
        for step in range(10):
            network.train().on_step(step, 10)
            if step in (0, 9):
                network(images)
