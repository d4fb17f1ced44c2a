"""The conformance kit finds metrics that break their promise, and says what is wrong."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import reduce
from torch import Tensor

from refusals import NoOptions, assert_refuses
from segacc.hookspecs import Metric
from segacc.testing import check_metric


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


class Confident(RightMetric):
    """Share of right pixels by confidence."""

    def __init__(self, facts: Any) -> None:
        super().__init__(facts)
        self.state = {name: torch.zeros(2, dtype=torch.int64) for name in ("right", "all")}

    def update(self, predictions: Tensor, labels: Tensor, confidence: Tensor) -> None:  # type: ignore[override]
        valid = labels != 255
        high = (confidence > 0.75)[valid].long()
        self.state["right"] += high[(predictions == labels)[valid]].bincount(minlength=2)
        self.state["all"] += high.bincount(minlength=2)

    def compute(self) -> dict[str, Any]:
        low, high = (self.state["right"] / self.state["all"]).tolist()
        return {"low": low, "high": high}


class SureOf255(Confident):
    def update(self, predictions: Tensor, labels: Tensor, confidence: Tensor) -> None:  # type: ignore[override]
        super().update(predictions, labels, confidence)
        self.state["all"] += (confidence > 0.75).long().flatten().bincount(minlength=2)


class Writes(RightMetric):
    def write(self, folder: Path) -> None:
        (folder / "share.txt").write_text(str(self.compute()["share"]))


class WritesNothing(RightMetric):
    def write(self, folder: Path) -> None:
        pass


class DividesFiles(RightMetric):
    def write(self, folder: Path) -> None:
        (folder / "share.txt").write_text(str(1 / int(self.state["all"])))


class Gathers(RightMetric):
    """A metric without state; it knows nothing of other processes."""

    def __init__(self, facts: Any) -> None:
        super().__init__(facts)
        self.own, self.state = self.state, {}

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        valid = labels != 255
        self.own["right"] += (predictions == labels)[valid].sum()
        self.own["all"] += valid.sum()

    def compute(self) -> dict[str, Any]:
        return {"share": (self.own["right"] / self.own["all"]).item()}


class GathersRight(Gathers):
    def compute(self) -> dict[str, Any]:
        counts = torch.stack(list(self.own.values()))
        right, every = reduce(counts, "sum").tolist()
        return {"share": right / every if every else math.nan}


class GathersLast(Gathers):
    def update(self, predictions: Tensor, labels: Tensor) -> None:
        self.own = {name: torch.zeros_like(one) for name, one in self.own.items()}
        super().update(predictions, labels)


class Gathers255(Gathers):
    def update(self, predictions: Tensor, labels: Tensor) -> None:
        super().update(predictions, labels.where(labels != 255, 0))


class Nameless(RightMetric):
    def compute(self) -> dict[str, Any]:
        return super().compute() if self.state["all"] else {}


def metric(kind: type[RightMetric], **more: Any) -> Metric:
    build = lambda options, facts: kind(facts)  # noqa: E731
    return Metric(name="metric", summary="metric", options=NoOptions, build=build, **more)


def test_a_right_metric() -> None:
    check_metric(metric(RightMetric))
    check_metric(metric(Errors, lower_is_better=("error",)))
    check_metric(metric(Confident, wants_confidence=True), num_classes=2)
    check_metric(metric(Writes, writes=True))
    check_metric(metric(GathersRight))


@pytest.mark.launch
def test_a_metric_on_several_processes() -> None:
    for kind in (RightMetric, GathersRight):
        check_metric(metric(kind), processes=3)
    text = "the scores of one process from 2 processes; found share #."
    record = metric(Gathers)
    assert_refuses(f"metric metric: expected {text}", check_metric, record, processes=2)


told = "a metric that a run accepts; found PluginError: --metric metric:"
fails = told.replace("--metric", "metric")


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (
            metric(Averages),
            f'{told} its state "share" for two images is not the sum of the states for each, as '
            "summing over processes requires: keep sums and counts, and divide in compute(). This "
            "is a bug in its plugin.",
        ),
        (
            metric(Remembers),
            "compute() to depend on the summed `state` only; found other scores for a summed "
            "state.",
        ),
        (
            metric(Grows),
            f"{told} its state changes in an update, from {{'right': 'int64 ()', 'all': 'int64 "
            "()'} to {'right': 'int64 ()', 'all': 'int64 (1,)'}; expected the same names, shapes "
            "and dtypes from the start. This is a bug in its plugin.",
        ),
        (
            metric(Counts255),
            "pixels labelled 255 to be ignored; found another state['right'] after a "
            "change of the prediction at such pixels.",
        ),
        (
            metric(Divides),
            "compute() of an empty state to give nan, not an exception; found ZeroDivisionError: "
            "division by zero.",
        ),
        (
            metric(Errors),
            "a perfect prediction not to have a lower error than a wrong one; found 0 for the "
            "perfect, 1 for the wrong one: compute it differently, or add it to lower_is_better.",
        ),
        (metric(Numbered), "by_class by class name, road, tree, sky, car; found the keys 0."),
        (
            metric(TensorScores),
            f"{fails} compute() returned {{'share': tensor(...)}}; expected a dict of scores by "
            "name, each a number or a dict of numbers by class name.",
        ),
        (
            metric(Constant),
            "some score to differ between a perfect and a wrong prediction; found equal pixels.",
        ),
        (
            metric(RightMetric, lower_is_better=("share",)),
            "a perfect prediction not to have a higher share than a wrong one; found 1 for the "
            "perfect, 0 for the wrong one: compute it differently, or remove it from "
            "lower_is_better.",
        ),
        (
            metric(Confident),
            f"{fails} update() with predictions (1, 24, 32) failed: TypeError: ...'confidence'...",
        ),
        (
            metric(RightMetric, wants_confidence=True),
            f"{fails} update() with predictions (1, 24, 32) failed: TypeError: ...4 were given...",
        ),
        (
            metric(SureOf255, wants_confidence=True),
            "pixels labelled 255 to be ignored; found another state['all'] after a change "
            "of the prediction at such pixels.",
        ),
        (metric(Writes), "`writes=True` for a metric that has write(); found False."),
        (metric(RightMetric, writes=True), "write(folder), as declared by `writes`; found none."),
        (
            metric(WritesNothing, writes=True),
            "write(folder) of an empty metric to write files; found an empty folder.",
        ),
        (
            metric(DividesFiles, writes=True),
            "write(folder) of an empty metric to write files; found ZeroDivisionError: division "
            "by zero.",
        ),
        (
            metric(GathersLast),
            "the scores not to depend on how images are split into updates; found other scores "
            "from 4 parts of 4 images.",
        ),
        (
            metric(Gathers255),
            "pixels labelled 255 to be ignored; found other scores after a change of the "
            "prediction at such pixels.",
        ),
        (
            metric(Nameless),
            "an empty metric to give the scores share, which --best-by uses; found none.",
        ),
        (
            metric(RightMetric, lower_is_better=("errors",)),
            f"{told} lower_is_better has the unknown score errors; known: share. This is a bug in "
            "its plugin.",
        ),
    ],
)
def test_a_broken_metric(record: Metric, text: str) -> None:
    assert_refuses(f"metric metric: expected {text}", check_metric, record)
