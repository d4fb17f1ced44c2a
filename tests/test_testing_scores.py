"""The conformance kit finds losses and metrics that break their promise, and says what is wrong."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refusals import NoOptions, assert_refuses
from segacc.hookspecs import Loss, Metric
from segacc.testing import (
    check_loss,
    check_metric,
)

# ---------------------------------------------------------------------------------------- losses


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


def loss(kind: type[RightLoss]) -> Loss:
    return Loss(name="loss", summary="loss", options=NoOptions, build=lambda options, facts: kind())


def test_a_right_loss() -> None:
    check_loss(loss(RightLoss))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            MeanLoss,
            "sum() of 3 images to be what their sums add up to, for logits of 24x20 and labels "
            "of 24x20; found # and #: return a sum over the batch, not a mean; the loop divides "
            "by count() of the whole effective batch.",
        ),
        (CountsAll, "sum() and count() of 0 where every pixel is ignored; found 0 and #."),
        (CountsOnce, "count() of a batch to be the sum of its images' counts; found 1 and 3."),
        (
            Learns255,
            "pixels labelled 255 to count for nothing; found sum() #, and # after a change of "
            "the logits under such pixels.",
        ),
        (NanOfNothing, "sum() and count() of 0 where every pixel is ignored; found nan and 0."),
        (
            HighIsGood,
            "right logits to cost less than wrong ones; found # for right, # for wrong logits.",
        ),
        (
            Forgotten,
            "a finite gradient that is not all 0, for logits of the labels' size; found a sum "
            "without any gradient.",
        ),
        (FullSize, "logits of 6x5 and labels of 24x20 to be taken; found RuntimeError: ..."),
        (PerImage, "sum() to return a float scalar tensor; found torch.float32 (3,)."),
        (Integers, "count() to return a float scalar tensor; found torch.int64 ()."),
        (Exponent, "a finite sum from logits of 1e4; found nan."),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_loss(kind: type[RightLoss], text: str) -> None:
    assert_refuses(f"loss loss: expected {text}", check_loss, loss(kind))


# --------------------------------------------------------------------------------------- metrics


class RightMetric:
    """Share of right pixels."""

    def __init__(self, facts: Any) -> None:
        self.names = facts.class_names
        self.state = {name: torch.zeros((), dtype=torch.int64) for name in ("right", "all")}

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        valid = labels != 255
        self.state["right"] += (predictions == labels)[valid].sum()
        self.state["all"] += valid.sum()

    def compute(self) -> dict[str, Any]:
        return {"share": (self.state["right"] / self.state["all"]).item()}


class Averages(RightMetric):
    def __init__(self, facts: Any) -> None:
        super().__init__(facts)
        self.state = {"share": torch.zeros(()), "images": torch.zeros(())}

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        valid = labels != 255
        self.state["share"] = (predictions == labels)[valid].float().mean()
        self.state["images"] += len(labels)

    def compute(self) -> dict[str, Any]:
        return {"share": self.state["share"].item()}


class Remembers(RightMetric):
    seen = 0

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        super().update(predictions, labels)
        self.seen += len(labels)

    def compute(self) -> dict[str, Any]:
        return {**super().compute(), "images": float(self.seen)}


class Grows(RightMetric):
    def update(self, predictions: Tensor, labels: Tensor) -> None:
        super().update(predictions, labels)
        self.state["all"] = self.state["all"][None]


class Counts255(RightMetric):
    def update(self, predictions: Tensor, labels: Tensor) -> None:
        super().update(predictions, labels.where(labels != 255, 0))


class Divides(RightMetric):
    def compute(self) -> dict[str, Any]:
        return {"share": int(self.state["right"]) / int(self.state["all"])}


class Errors(RightMetric):
    def compute(self) -> dict[str, Any]:
        return {"error": 1 - super().compute()["share"]}


class Numbered(RightMetric):
    def compute(self) -> dict[str, Any]:
        return {**super().compute(), "by_class": {"0": 1.0}}


class TensorScores(RightMetric):
    def compute(self) -> dict[str, Any]:
        return {"share": self.state["right"] / self.state["all"]}


class Constant(RightMetric):
    def compute(self) -> dict[str, Any]:
        return {"pixels": float(self.state["all"])}


def metric(kind: type[RightMetric], **more: Any) -> Metric:
    build = lambda options, facts: kind(facts)  # noqa: E731
    return Metric(name="metric", summary="metric", options=NoOptions, build=build, **more)


def test_a_right_metric() -> None:
    check_metric(metric(RightMetric))
    check_metric(metric(Errors, lower_is_better=("error",)))


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (
            metric(Averages),
            "state['share'] of 4 images to be the sum over 4 parts of them, as over processes; "
            "found another one: keep sums and counts in the state, and divide in compute() only.",
        ),
        (
            metric(Remembers),
            "compute() to need nothing but the summed `state`; found other scores from a state "
            "that was added up.",
        ),
        (
            metric(Grows),
            "state['all'] to keep its shape and dtype, for processes without images; found "
            "another one after an update.",
        ),
        (
            metric(Counts255),
            "pixels labelled 255 to count for nothing; found another state['right'] after a "
            "change of the prediction under such pixels.",
        ),
        (
            metric(Divides),
            "compute() of an empty state to give nan, not an exception; found ZeroDivisionError: "
            "division by zero.",
        ),
        (
            metric(Errors),
            "a perfect prediction not to have a lower error than a wrong one; found 0 for the "
            "perfect, 1 for the wrong one: compute it otherwise, or name it in lower_is_better.",
        ),
        (metric(Numbered), "by_class by class name, road, tree, sky, car; found the keys 0."),
        (metric(TensorScores), "share to be a finite Python float on common data; found Tensor #."),
        (
            metric(Constant),
            "some score to tell a perfect prediction from a wrong one; found equal pixels.",
        ),
        (
            metric(RightMetric, lower_is_better=("share",)),
            "a perfect prediction not to have a higher share than a wrong one; found 1 for the "
            "perfect, 0 for the wrong one: compute it otherwise, or take it out of "
            "lower_is_better.",
        ),
        (
            metric(RightMetric, lower_is_better=("errors",)),
            "lower_is_better to name some of the scores share; found errors.",
        ),
    ],
)
def test_a_broken_metric(record: Metric, text: str) -> None:
    assert_refuses(f"metric metric: expected {text}", check_metric, record)
