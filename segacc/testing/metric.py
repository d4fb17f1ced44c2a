"""Checks that a metric's state is additive over images and processes, and its scores are valid."""

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from segacc.contracts import IGNORE, Facts
from segacc.data.order import seeded
from segacc.errors import Origin
from segacc.evaluation.metrics import check_metrics
from segacc.evaluation.scores import Scores, flat
from segacc.hookspecs import Chosen, Metric
from segacc.loop import gather_scores
from segacc.testing.tools import (
    alone_on_cpu,
    attempt,
    facts_of,
    forked,
    naming,
    require,
    some_labels,
)
from segacc.training.processes import start_accelerator

SIZE = (24, 20)
NUM_CLASSES = 4
NUM_IMAGES = 4


@dataclass(frozen=True)
class Pixels:
    """The input of a metric for N images."""

    predictions: Tensor
    """(N, H, W) int64."""
    labels: Tensor
    """(N, H, W) int64, 255 ignored."""
    confidence: Tensor
    """(N, H, W) float32."""
    log_odds: Tensor
    """(N, H, W) float32."""

    def cut(self, sizes: list[int]) -> "list[Pixels]":
        """Split into parts of the given numbers of images."""
        whole = (self.predictions, self.labels, self.confidence, self.log_odds)
        return [
            Pixels(*part) for part in zip(*(torch.split(one, sizes) for one in whole), strict=True)
        ]


@dataclass(frozen=True)
class Subject:
    """A metric with options, and the facts it is built with."""

    record: Metric
    options: Any
    facts: Facts

    def fed(self, *parts: Pixels) -> Any:
        """Build a metric and update it with each part."""
        metric = self.record.build(self.options, self.facts)
        for part in parts:
            more = [part.confidence] if self.record.wants_confidence else []
            more += [part.log_odds] if self.record.wants_log_odds else []
            metric.update(part.predictions, part.labels, *more)
        return metric

    def scores(self, *parts: Pixels) -> Scores:
        """Return the scores of such a metric."""
        scores: Scores = self.fed(*parts).compute()
        return scores


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
    subject = Subject(record, options, facts_of(num_classes))
    given = " and their confidence" if record.wants_confidence else ""
    given += " and log-odds" if record.wants_log_odds else ""
    with naming(record, options):
        with (
            alone_on_cpu(),
            seeded(0),
            attempt(f"scores of predictions (N, H, W){given} against labels (N, H, W)"),
        ):
            labels = some_labels(SIZE, num_classes, count=NUM_IMAGES)
            predictions = torch.randint(num_classes, labels.shape)
            sure = 1 - torch.rand(labels.shape) / 2
            odds = sure.where(predictions == 1, 1 - sure).logit()
            pixels = Pixels(predictions, labels, sure, odds)
            with attempt("compute() of an empty state to give nan, not an exception"):
                names = list(flat(subject.scores()))
            with attempt("a metric that a run accepts"):
                check_metrics([Chosen(record, options, record.name)], subject.facts, "--metric")
            additive(subject, pixels)
            ignored(subject, pixels)
            named(subject, subject.scores(pixels), names)
            order(subject, pixels)
            files(subject, pixels)
        if processes > 1:
            gathered(subject, pixels, processes)


def additive(subject: Subject, pixels: Pixels) -> None:
    """Check that the scores follow from the sum of the states, or do not depend on the updates."""
    scores = subject.scores(pixels)
    for sizes in ([1] * NUM_IMAGES, [NUM_IMAGES // 2] * 2):
        parts = pixels.cut(sizes)
        total = subject.fed()
        if total.state:
            states = [subject.fed(part).state for part in parts]
            for name in total.state:
                total.state[name] = torch.stack([state[name] for state in states]).sum(0)
            expected = "compute() to depend on the summed `state` only"
            found = "other scores for a summed state"
        else:
            total = subject.fed(*parts)
            expected = "the scores not to depend on how images are split into updates"
            found = f"other scores from {len(parts)} parts of {NUM_IMAGES} images"
        require(alike(total.compute(), scores), expected, found)


def ignored(subject: Subject, pixels: Pixels) -> None:
    """Check that pixels labelled 255 have no effect."""
    nothing, expected = pixels.labels == IGNORE, "pixels labelled 255 to be ignored"
    predictions = pixels.predictions.where(~nothing, 0)
    confidence = pixels.confidence.where(~nothing, 0.5)
    log_odds = pixels.log_odds.where(~nothing, 0)
    other = replace(pixels, predictions=predictions, confidence=confidence, log_odds=log_odds)
    whole, again = subject.fed(pixels), subject.fed(other)
    change = "after a change of the prediction at such pixels"
    for name, one in whole.state.items():
        require(torch.equal(one, again.state[name]), expected, f"another state[{name!r}] {change}")
    if not whole.state:
        require(alike(again.compute(), whole.compute()), expected, f"other scores {change}")
    start = subject.fed()
    after = subject.fed(replace(pixels, labels=torch.full_like(pixels.labels, IGNORE)))
    expected = "an image that is all ignored not to change the state"
    for name, one in start.state.items():
        fine = one.is_floating_point() or torch.equal(one, after.state[name])
        require(fine, expected, f"another state[{name!r}]")
    with attempt("images that are all ignored to give nan, not an exception"):
        after.compute()


def named(subject: Subject, scores: Scores, names: list[str]) -> None:
    """Check that scores are finite floats, or mappings by class name, with the expected names."""
    classes = subject.facts.class_names
    for name, score in scores.items():
        if isinstance(score, dict):
            expected = f"{name} by class name, {', '.join(classes)}"
            require(tuple(score) == classes, expected, f"the keys {', '.join(map(str, score))}")
        for value in score.values() if isinstance(score, dict) else [score]:
            fine = isinstance(value, float) and math.isfinite(value)
            found = f"{type(value).__name__} {value}"
            require(fine, f"{name} to be a finite Python float on common data", found)
    expected = f"an empty metric to give the scores {', '.join(flat(scores))}, which --best-by uses"
    require(list(flat(scores)) == names, expected, ", ".join(names) or "none")


def order(subject: Subject, pixels: Pixels) -> None:
    """Check that a perfect prediction is never worse than a wrong one, and better in some score."""
    labels, lower = pixels.labels, subject.record.lower(subject.options)
    perfect = subject.scores(replace(pixels, predictions=labels.where(labels != IGNORE, 0)))
    wrong = subject.scores(replace(pixels, predictions=(labels == 0).long()))  # no pixel is right
    ahead = {}
    for name, good in perfect.items():
        if isinstance(good, dict):
            continue
        bad: Any = wrong[name]
        ahead[name] = bad - good if name in lower else good - bad
        way, hint = ("higher", "remove it from") if name in lower else ("lower", "add it to")
        require(
            not ahead[name] < 0,  # nan, if the wrong prediction's score is undefined, passes
            f"a perfect prediction not to have a {way} {name} than a wrong one",
            f"{good:.4g} for the perfect, {bad:.4g} for the wrong one: compute it differently, or "
            f"{hint} lower_is_better",
        )
    expected = "some score to differ between a perfect and a wrong prediction"
    fine = not ahead or any(value > 0 for value in ahead.values())
    require(fine, expected, f"equal {', '.join(ahead)}")


def files(subject: Subject, pixels: Pixels) -> None:
    """Check `writes`: files are written to an existing folder, also for an empty metric."""
    write = getattr(subject.fed(), "write", None)
    if not subject.record.writes:
        require(write is None, "`writes=True` for a metric that has write()", "False")
        return
    require(callable(write), "write(folder), as declared by `writes`", "none")
    for what, parts in (("an empty metric", ()), ("a metric", (pixels,))):
        expected = f"write(folder) of {what} to write files"
        with tempfile.TemporaryDirectory() as folder:
            metric = subject.fed(*parts)
            metric.compute()
            with attempt(expected):
                metric.write(Path(folder))
            require(any(Path(folder).iterdir()), expected, "an empty folder")


def gathered(subject: Subject, pixels: Pixels, processes: int) -> None:
    """Check that several processes give the scores of one; from the third on, without images."""
    parts = pixels.cut([1, NUM_IMAGES - 1])

    def work() -> Scores:
        scoring: Any = SimpleNamespace(accelerator=start_accelerator("no"), origin=Origin)
        rank = scoring.accelerator.process_index
        return gather_scores(scoring, {subject.record.name: subject.fed(*parts[rank : rank + 1])})

    expected = f"the scores of one process from {processes} processes"
    with tempfile.TemporaryDirectory() as folder, attempt(expected):
        with alone_on_cpu():
            wanted = subject.scores(pixels)
        for found in forked(work, Path(folder), processes):
            told = ", ".join(f"{name} {value:.6g}" for name, value in flat(found).items())
            require(alike(found, wanted), expected, told)


def alike(mine: Scores, theirs: Scores) -> bool:
    """True if scores are equal up to rounding of sums; nan equals nan."""
    one, other = flat(mine), flat(theirs)
    return one.keys() == other.keys() and all(
        math.isclose(one[name], other[name], rel_tol=1e-6, abs_tol=1e-9)
        or (math.isnan(one[name]) and math.isnan(other[name]))
        for name in other
    )
