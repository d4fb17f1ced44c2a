"""Checks that a metric's state is additive over images and processes, and its scores are valid."""

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from segacc.contracts import IGNORE, Facts, MetricState
from segacc.data.order import seeded
from segacc.hookspecs import Metric
from segacc.loop import gather_scores
from segacc.testing.tools import Report, alone_on_cpu, close, facts_of, forked, some_labels
from segacc.training.processes import start_accelerator

SIZE = (24, 20)
NUM_CLASSES = 4


@dataclass(frozen=True)
class Pixels:
    """The input of a metric for N images."""

    predictions: Tensor
    """(N, H, W) int64."""
    labels: Tensor
    """(N, H, W) int64, 255 ignored."""
    confidence: Tensor
    """(N, H, W) float32."""

    def cut(self, sizes: list[int]) -> "list[Pixels]":
        """Split into parts of the given numbers of images."""
        whole = (self.predictions, self.labels, self.confidence)
        parts = (torch.split(one, sizes) for one in whole)
        return [Pixels(*part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Subject:
    """A metric with options, and the facts it is built with."""

    report: Report
    record: Metric
    options: Any
    facts: Facts

    def make(self) -> MetricState:
        """Build an empty metric."""
        metric: MetricState = self.record.build(self.options, self.facts)
        return metric

    def fed(self, *parts: Pixels) -> MetricState:
        """Build a metric and update it with each part."""
        metric: Any = self.make()
        for part in parts:
            confidence = [part.confidence] if self.record.wants_confidence else []
            metric.update(part.predictions, part.labels, *confidence)
        return metric  # type: ignore[no-any-return]

    def draw(self) -> Pixels:
        """Generate labels, and random predictions that are independent of them."""
        labels = some_labels(SIZE, self.facts.num_classes, count=4)
        predictions = torch.randint(self.facts.num_classes, labels.shape)
        return Pixels(predictions, labels, 1 - torch.rand(labels.shape) / 2)


def check_metric(
    record: Metric, options: Any = None, *, num_classes: int = NUM_CLASSES, processes: int = 1
) -> None:
    """Check that a metric implements `MetricState` correctly.

    States are additive over images and processes (integers exactly) and determine the scores; for a
    metric without state, which gathers its inputs itself, the scores do not depend on how images
    are split into updates. Ignored pixels have no effect; empty states give the score names and no
    exception; a perfect prediction is not worse than a wrong one, according to `lower_is_better`;
    files are written if `writes` is set.

    Args:
        record: the record that the hook returns.
        options: options of the metric; default `record.options()`.
        num_classes: K, 2..5, for a metric that does not support any number.
        processes: with more than one, this many forked processes must give the scores of one
            process; required for a metric without state.

    Raises:
        AssertionError: a check failed; the message says what was expected and found.
    """
    options = record.options() if options is None else options
    report = Report(record, options)
    subject = Subject(report, record, options, facts_of(num_classes))
    given = " and their confidence" if record.wants_confidence else ""
    expected = f"scores of predictions (N, H, W){given} against labels (N, H, W)"
    with alone_on_cpu(), seeded(0), report.attempt(expected):
        pixels = subject.draw()
        names = empty(subject)
        additive(subject, pixels)
        ignored(subject, pixels)
        named(subject, scores_of(subject.fed(pixels)), names)
        order(subject, pixels)
        files(subject, pixels)
    if processes > 1:
        gathered(subject, pixels, processes)


def scores_of(metric: MetricState) -> dict[str, Any]:
    """Return the scores."""
    scores: dict[str, Any] = metric.compute()
    return scores


def empty(subject: Subject) -> list[str]:
    """Check the state, and that an empty one gives scores without an exception; return names."""
    report, metric = subject.report, subject.make()
    wrong = [name for name, one in metric.state.items() if not isinstance(one, Tensor)]
    expected = "`state` to contain tensors that can be summed over processes"
    report.require(not wrong, expected, f"no tensor for {', '.join(wrong)}")
    with report.attempt("compute() of an empty state to give nan, not an exception"):
        return list(flat(scores_of(metric)))


def additive(subject: Subject, pixels: Pixels) -> None:
    """Check that the state is additive over parts, and determines the scores."""
    report, count = subject.report, len(pixels.labels)
    whole, start = subject.fed(pixels).state, subject.make().state
    for name, one in start.items():
        same = name in whole and whole[name].shape == one.shape and whole[name].dtype == one.dtype
        expected = f"state[{name!r}] to keep its shape and dtype, for processes without images"
        report.require(same, expected, "another one after an update")
    scores = flat(scores_of(subject.fed(pixels)))
    for cut in ([1] * count, [count // 2] * 2):
        parts = pixels.cut(cut)
        if not start:
            same = alike(flat(scores_of(subject.fed(*parts))), scores)
            expected = (
                f"the scores of {count} images not to depend on how they are split into updates"
            )
            report.require(same, expected, f"other scores from {len(cut)} parts of them")
            continue
        states = [subject.fed(part).state for part in parts]
        total = subject.make()
        for name in whole:
            total.state[name] = torch.stack([state[name] for state in states]).sum(0)
            exact = not whole[name].is_floating_point()
            fine = close(total.state[name].double(), whole[name].double(), 0 if exact else 1e-6)
            report.require(
                fine,
                f"state[{name!r}] of {count} images to be the sum over {len(cut)} parts of "
                "them, as over processes",
                "another one: keep sums and counts in the state, and divide in compute() only",
            )
        expected = "compute() to depend on the summed `state` only"
        same = alike(flat(scores_of(total)), scores)
        report.require(same, expected, "other scores for a summed state")


def ignored(subject: Subject, pixels: Pixels) -> None:
    """Check that pixels labelled 255 have no effect."""
    report, nothing = subject.report, pixels.labels == IGNORE
    other = replace(
        pixels,
        predictions=pixels.predictions.where(~nothing, 0),
        confidence=pixels.confidence.where(~nothing, 0.5),
    )
    whole, again = subject.fed(pixels), subject.fed(other)
    for name, one in whole.state.items():
        expected = "pixels labelled 255 to be ignored"
        found = f"another state[{name!r}] after a change of the prediction at such pixels"
        report.require(torch.equal(one, again.state[name]), expected, found)
    if not whole.state:
        same = alike(flat(scores_of(again)), flat(scores_of(whole)))
        expected, found = "pixels labelled 255 to be ignored", "other scores after a change"
        report.require(same, expected, f"{found} of the prediction at such pixels")
    black = replace(pixels, labels=torch.full_like(pixels.labels, IGNORE))
    start, after = subject.make().state, subject.fed(black)
    expected = "an image that is all ignored not to change the state"
    for name, one in start.items():
        if not one.is_floating_point():
            fine = torch.equal(one, after.state[name])
            report.require(fine, expected, f"another state[{name!r}]")
    with report.attempt("images that are all ignored to give nan, not an exception"):
        after.compute()


def named(subject: Subject, scores: dict[str, Any], names: list[str]) -> None:
    """Check that scores are finite floats, or mappings by class name, with the expected names."""
    report, classes = subject.report, subject.facts.class_names
    for name, score in scores.items():
        if isinstance(score, dict):
            expected = f"{name} by class name, {', '.join(classes)}"
            found = f"the keys {', '.join(map(str, score))}"
            report.require(tuple(score) == classes, expected, found)
    for name, value in flat(scores).items():
        fine = isinstance(value, float) and value == value and abs(value) != float("inf")
        found = f"{type(value).__name__} {value}"
        report.require(fine, f"{name} to be a finite Python float on common data", found)
    expected = f"an empty metric to give the scores {', '.join(flat(scores))}, which --best-by uses"
    report.require(list(flat(scores)) == names, expected, ", ".join(names) or "none")
    unknown = [name for name in subject.record.lower(subject.options) if name not in scores]
    expected = f"lower_is_better to name some of the scores {', '.join(scores)}"
    report.require(not unknown, expected, ", ".join(unknown))


def order(subject: Subject, pixels: Pixels) -> None:
    """Check that a perfect prediction is never worse than a wrong one, and better in some score."""
    report, labels = subject.report, pixels.labels
    right = replace(pixels, predictions=labels.where(labels != IGNORE, 0))
    false = replace(pixels, predictions=(labels == 0).long())  # no pixel is correct
    perfect, wrong = scores_of(subject.fed(right)), scores_of(subject.fed(false))
    plain = [name for name, score in perfect.items() if isinstance(score, float)]
    better = 0
    for name in plain:
        lower = name in subject.record.lower(subject.options)
        good, bad = perfect[name], wrong[name]
        ahead = bad - good if lower else good - bad
        hint = "remove it from" if lower else "add it to"
        report.require(
            not ahead < 0,  # nan, if the wrong prediction's score is undefined, passes
            f"a perfect prediction not to have a {'higher' if lower else 'lower'} {name} than a "
            "wrong one",
            f"{good:.4g} for the perfect, {bad:.4g} for the wrong one: compute it "
            f"differently, or {hint} lower_is_better",
        )
        better += ahead > 0
    expected = "some score to differ between a perfect and a wrong prediction"
    report.require(better or not plain, expected, f"equal {', '.join(plain)}")


def files(subject: Subject, pixels: Pixels) -> None:
    """Check `writes`: files are written to an existing folder, also for an empty metric."""
    report = subject.report
    has: Any = getattr(subject.make(), "write", None)
    if not subject.record.writes:
        report.require(has is None, "`writes=True` for a metric that has write()", "False")
        return
    report.require(callable(has), "write(folder), as declared by `writes`", "none")
    for what, parts in (("an empty metric", ()), ("a metric", (pixels,))):
        with tempfile.TemporaryDirectory() as folder:
            metric: Any = subject.fed(*parts)
            metric.compute()
            with report.attempt(f"write(folder) of {what} to write files"):
                metric.write(Path(folder))
            wrote = any(Path(folder).iterdir())
            report.require(wrote, f"write(folder) of {what} to write files", "an empty folder")


def gathered(subject: Subject, pixels: Pixels, processes: int) -> None:
    """Check that several processes give the scores of one; from the third on, without images."""
    expected = f"the scores of one process from {processes} processes"
    parts = pixels.cut([1, len(pixels.labels) - 1])

    def work() -> dict[str, Any]:
        scoring: Any = SimpleNamespace(accelerator=start_accelerator("no"))
        rank = scoring.accelerator.process_index
        metric = subject.fed(*parts[rank : rank + 1])
        return gather_scores(scoring, {subject.record.name: metric})

    with tempfile.TemporaryDirectory() as folder, subject.report.attempt(expected):
        with alone_on_cpu():
            wanted = flat(scores_of(subject.fed(pixels)))
        for found in map(flat, forked(work, Path(folder), processes)):
            told = ", ".join(f"{name} {value:.6g}" for name, value in found.items())
            subject.report.require(alike(found, wanted), expected, told)


def alike(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """True if scores are equal up to rounding of sums; nan equals nan."""
    return mine.keys() == theirs.keys() and all(
        math.isclose(mine[name], other, rel_tol=1e-6, abs_tol=1e-9)
        or (math.isnan(mine[name]) and math.isnan(other))
        for name, other in theirs.items()
    )


def flat(scores: dict[str, Any]) -> dict[str, Any]:
    """Flatten per-class scores to `score/class`."""
    values: dict[str, Any] = {}
    for name, score in scores.items():
        parts = score.items() if isinstance(score, dict) else [("", score)]
        values |= {f"{name}/{part}" if part else name: value for part, value in parts}
    return values
