"""Does a metric's state add up over images and processes, and say what is good?"""

import math
from typing import Any

import torch
from torch import Tensor

from segacc.hookspecs import Facts, Metric, MetricState
from segacc.labels import IGNORE
from segacc.order import seeded
from segacc.testing.tools import Report, close, facts_of, some_labels

SIZE = (24, 20)
NUM_CLASSES = 4


def check_metric(record: Metric, options: Any = None) -> None:
    """Check that a metric keeps the promises of `MetricState`.

    States add up over images and processes, integers exactly, and decide the scores alone; ignored
    pixels do not count; empty states give no exception; a perfect prediction is not worse than a
    wrong one, as `lower_is_better` says.

    Args:
        record: what the hook returned.
        options: of the metric; default `record.options()`.

    Raises:
        AssertionError: what was expected and what was found.
    """
    options = record.options() if options is None else options
    report, facts = Report(record, options), facts_of(NUM_CLASSES)

    def make() -> MetricState:
        state: MetricState = record.build(options, facts)
        return state

    with seeded(0), report.attempt("scores of predictions (N, H, W) against labels (N, H, W)"):
        labels = some_labels(SIZE, NUM_CLASSES, count=4)
        predictions = torch.randint(NUM_CLASSES, labels.shape)
        empty(report, make)
        additive(report, make, predictions, labels)
        ignored(report, make, predictions, labels)
        named(report, record, scores_of(make, predictions, labels), facts)
        order(report, record, make, labels)


def state_of(make: Any, predictions: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the state after one update."""
    metric = make()
    metric.update(predictions, labels)
    state: dict[str, Tensor] = metric.state
    return state


def scores_of(make: Any, predictions: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the scores after one update."""
    metric = make()
    metric.update(predictions, labels)
    scores: dict[str, Any] = metric.compute()
    return scores


def empty(report: Report, make: Any) -> None:
    """Require tensors as state, and scores of nothing without an exception."""
    metric = make()
    wrong = [name for name, one in metric.state.items() if not isinstance(one, Tensor)]
    report.require(
        metric.state and not wrong,
        "`state` to hold tensors that processes can add up",
        f"no tensor under {', '.join(wrong)}" if wrong else "an empty state",
    )
    with report.attempt("compute() of an empty state to give nan, not an exception"):
        metric.compute()


def additive(report: Report, make: Any, predictions: Tensor, labels: Tensor) -> None:
    """Require that states of parts add up to the state of all, and decide the scores alone."""
    whole, start = state_of(make, predictions, labels), make().state
    for name, one in start.items():
        same = name in whole and whole[name].shape == one.shape and whole[name].dtype == one.dtype
        expected = f"state[{name!r}] to keep its shape and dtype, for processes without images"
        report.require(same, expected, "another one after an update")
    for cut in ([1] * len(labels), [len(labels) // 2] * 2):
        pairs = zip(torch.split(predictions, cut), torch.split(labels, cut), strict=True)
        states = [state_of(make, *pair) for pair in pairs]
        total = make()
        for name in whole:
            total.state[name] = torch.stack([state[name] for state in states]).sum(0)
            exact = not whole[name].is_floating_point()
            fine = close(total.state[name].double(), whole[name].double(), 0 if exact else 1e-6)
            report.require(
                fine,
                f"state[{name!r}] of {len(labels)} images to be the sum over {len(cut)} parts of "
                "them, as over processes",
                "another one: keep sums and counts in the state, and divide in compute() only",
            )
        same = alike(flat(total.compute()), flat(scores_of(make, predictions, labels)))
        expected = "compute() to need nothing but the summed `state`"
        report.require(same, expected, "other scores from a state that was added up")


def ignored(report: Report, make: Any, predictions: Tensor, labels: Tensor) -> None:
    """Require that pixels labelled 255 do not count."""
    other = torch.where(labels == IGNORE, (predictions + 1) % NUM_CLASSES, predictions)
    whole, again = state_of(make, predictions, labels), state_of(make, other, labels)
    for name, one in whole.items():
        expected = "pixels labelled 255 to count for nothing"
        found = f"another state[{name!r}] after a change of the prediction under such pixels"
        report.require(torch.equal(one, again[name]), expected, found)
    start, after = make().state, state_of(make, predictions, torch.full_like(labels, IGNORE))
    expected = "an image that is all ignored to leave scores as they were"
    for name, one in start.items():
        if not one.is_floating_point():
            report.require(torch.equal(one, after[name]), expected, f"another state[{name!r}]")


def named(report: Report, record: Metric, scores: dict[str, Any], facts: Facts) -> None:
    """Require finite floats, or mappings from class names to them."""
    for name, score in scores.items():
        if isinstance(score, dict):
            expected = f"{name} by class name, {', '.join(facts.class_names)}"
            found = f"the keys {', '.join(map(str, score))}"
            report.require(tuple(score) == facts.class_names, expected, found)
    for name, value in flat(scores).items():
        fine = isinstance(value, float) and value == value and abs(value) != float("inf")
        found = f"{type(value).__name__} {value}"
        report.require(fine, f"{name} to be a finite Python float on common data", found)
    unknown = [name for name in record.lower_is_better if name not in scores]
    expected = f"lower_is_better to name some of the scores {', '.join(scores)}"
    report.require(not unknown, expected, ", ".join(unknown))


def order(report: Report, record: Metric, make: Any, labels: Tensor) -> None:
    """Require that a perfect prediction scores as well as a wrong one, and better somewhere."""
    perfect = scores_of(make, labels.where(labels != IGNORE, 0), labels)
    wrong = scores_of(make, (labels == 0).long(), labels)  # no pixel is right
    plain = [name for name, score in perfect.items() if isinstance(score, float)]
    better = 0
    for name in plain:
        lower = name in record.lower_is_better
        good, bad = perfect[name], wrong[name]
        ahead = bad - good if lower else good - bad
        hint = "take it out of" if lower else "name it in"
        report.require(
            not ahead < 0,  # nan, of what a wrong prediction leaves undefined, passes
            f"a perfect prediction not to have a {'higher' if lower else 'lower'} {name} than a "
            "wrong one",
            f"{good:.4g} for the perfect, {bad:.4g} for the wrong one: compute it "
            f"otherwise, or {hint} lower_is_better",
        )
        better += ahead > 0
    expected = "some score to tell a perfect prediction from a wrong one"
    report.require(better or not plain, expected, f"equal {', '.join(plain)}")


def alike(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Tell whether scores are the same, up to the rounding of a sum; nan equals nan."""
    return mine.keys() == theirs.keys() and all(
        math.isclose(mine[name], other, rel_tol=1e-6, abs_tol=1e-9)
        or (math.isnan(mine[name]) and math.isnan(other))
        for name, other in theirs.items()
    )


def flat(scores: dict[str, Any]) -> dict[str, Any]:
    """Write a score by class as `score/class`."""
    values: dict[str, Any] = {}
    for name, score in scores.items():
        parts = score.items() if isinstance(score, dict) else [("", score)]
        values |= {f"{name}/{part}" if part else name: value for part, value in parts}
    return values
