"""The conformance kit finds losses that break their promise, and says what is wrong."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refusals import NoOptions, assert_refuses
from segacc.contracts import Facts
from segacc.hookspecs import Loss, LossOptions
from segacc.testing import check_loss


class RightLoss:
    """Squared distance of probabilities from the classes."""

    def count(self, labels: Tensor) -> Tensor:
        return (labels != 255).sum().float()

    def sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.errors(logits, labels)[labels != 255].sum()

    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return (N, H, W) of float32."""
        size = labels.shape[-2:]
        guess = F.interpolate(logits.float(), size, mode="bilinear").softmax(1)
        classes = F.one_hot(labels.where(labels != 255, 0), logits.shape[1]).movedim(-1, 1)
        return (guess - classes).square().sum(1)


class MeanLoss(RightLoss):
    def sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().sum(logits, labels) / self.count(labels).clamp(min=1)


class CountsAll(RightLoss):
    def count(self, labels: Tensor) -> Tensor:
        return torch.tensor(float(labels.numel()))


class CountsOnce(RightLoss):
    def count(self, labels: Tensor) -> Tensor:
        return torch.tensor(1.0)


class Learns255(RightLoss):
    def sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.errors(logits, labels).sum()


class NanOfNothing(RightLoss):
    def sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = super().sum(logits, labels)
        return total if (labels != 255).any() or len(labels) == 1 else total / 0


class HighIsGood(RightLoss):
    def sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        return 2 * self.count(labels) - super().sum(logits, labels)


class Forgotten(RightLoss):
    def sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().sum(logits.detach(), labels)


class FullSize(RightLoss):
    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        classes = F.one_hot(labels.where(labels != 255, 0), logits.shape[1]).movedim(-1, 1)
        return (logits.float().softmax(1) - classes).square().sum(1)


class PerImage(RightLoss):
    def sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (self.errors(logits, labels) * (labels != 255)).sum((1, 2))


class Integers(RightLoss):
    def count(self, labels: Tensor) -> Tensor:
        return (labels != 255).sum()


class Exponent(RightLoss):
    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().errors(logits.float().exp() - logits.float().exp() + logits, labels)


class NotANumber(RightLoss):
    def sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().sum(logits, labels) * torch.nan


@dataclass(frozen=True)
class Twice(RightLoss):
    options: LossOptions
    facts: Facts

    def sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.options.weight * super().sum(logits, labels)


def loss(kind: type[RightLoss]) -> Loss:
    return Loss(name="loss", summary="loss", options=NoOptions, build=lambda options, facts: kind())


def test_a_right_loss() -> None:
    check_loss(loss(RightLoss))
    check_loss(Loss(name="loss", summary="loss", build=lambda options, facts: RightLoss()))


def test_a_weight_is_not_applied_twice() -> None:
    text = (
        "loss loss: expected a sum without the factor `weight`, which segacc applies to every "
        "loss; found a sum that depends on it."
    )
    assert_refuses(text, check_loss, Loss(name="loss", summary="loss", build=Twice))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            MeanLoss,
            "sum() of 3 images to equal the total of their sums, for logits of 24x20 and labels "
            "of 24x20; found # and #: return a sum over the batch, not a mean; the loop divides "
            "by count() of the whole effective batch.",
        ),
        (CountsAll, "sum() and count() of 0 if every pixel is ignored; found 0 and #."),
        (CountsOnce, "count() of a batch to be the sum of its images' counts; found 1 and 3."),
        (
            Learns255,
            "pixels labelled 255 to be ignored; found sum() #, and # after a change of "
            "the logits at such pixels.",
        ),
        (NanOfNothing, "sum() and count() of 0 if every pixel is ignored; found nan and 0."),
        (
            HighIsGood,
            "a lower loss for correct than for wrong logits; found # for correct, # for wrong "
            "logits.",
        ),
        (
            Forgotten,
            "a finite gradient that is not all 0, for logits of the labels' size; found a sum "
            "without any gradient.",
        ),
        (FullSize, "logits of 6x5 and labels of 24x20 to be accepted; found RuntimeError: ..."),
        (PerImage, "sum() to return a float scalar tensor; found torch.float32 (3,)."),
        (Integers, "count() to return a float scalar tensor; found torch.int64 ()."),
        (NotANumber, "a finite sum() of common logits and labels; found nan."),
        (Exponent, "a finite sum for logits of 1e4; found nan."),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_loss(kind: type[RightLoss], text: str) -> None:
    assert_refuses(f"loss loss: expected {text}", check_loss, loss(kind))
