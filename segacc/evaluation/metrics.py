"""Metrics of a run: feed and compute them, and check that they follow the interface."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from segacc.contracts import IGNORE, Facts, MetricState
from segacc.errors import OptionError, Origin, PluginError, cut
from segacc.evaluation.scores import Scores, flat
from segacc.hookspecs import Chosen
from segacc.kernels.resize import Decided, confusion

Counts = Callable[[], Tensor]
"""Returns the confusion matrix (K, K) int64 of some images, counted when it is first asked for."""


def counts_of(predictions: Tensor, labels: Tensor, num_classes: int) -> Counts:
    """Return the Counts of predictions and labels (N, H, W), 255 ignored."""
    return functools.cache(lambda: confusion(predictions, labels, num_classes))


def feed(one: Chosen, metric: Any, found: Decided, labels: Tensor, counts: Counts) -> None:
    """Add images to a metric: their confusion matrix (K, K), or their pixels.

    Args:
        one: the metric's record and options.
        metric: the metric.
        found: the predictions, with confidence and log-odds if the metric wants them.
        labels: (N, H, W) integers, 255 ignored.
        counts: those of all images.
    """
    if one.record.from_confusion:
        matrix = counts()
        with one.doing(f"add() of a matrix {tuple(matrix.shape)}"):
            metric.add(matrix)
        return
    more = [found.confidence] if one.record.wants_confidence else []
    more += [found.log_odds] if one.record.wants_log_odds else []
    with one.doing(f"update() with predictions {tuple(labels.shape)}"):
        metric.update(found.classes.long(), labels.long(), *more)


def computed(origin: Origin, metric: MetricState) -> Scores:
    """Compute the scores of a metric.

    Raises:
        PluginError: it fails, or returns something else.
    """
    with origin.doing("compute()"):
        found: Any = metric.compute()
    if isinstance(found, dict) and all(map(_is_score, flat(found).values())):
        return found
    raise PluginError(
        f"{origin}: compute() returned {cut(repr(found), 200)}; expected a dict of scores by name, "
        "each a number or a dict of numbers by class name."
    )


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def joined(found: Iterable[Scores]) -> Scores:
    """Merge the scores of several metrics.

    Raises:
        OptionError: two metrics have a score of the same name.
    """
    scores: Scores = {}
    for one in found:
        if twice := sorted(set(scores) & set(one)):
            raise OptionError(
                f"--metric: two metrics have the score {', '.join(twice)}; leave one of them out."
            )
        scores |= one
    return scores


def check_metrics(chosen: Sequence[Chosen], facts: Facts, where: str) -> None:
    """Check each metric on two small images, as its states will be summed over processes.

    Raises:
        PluginError: its state is not a sum over images, or its `lower_is_better` is wrong.
        OptionError: two metrics have a score of the same name.
    """
    found: list[Scores] = []
    for one in chosen:
        empty = one.build(facts)
        if one.record.wants_log_odds and facts.num_classes != 2:
            raise OptionError(f"{where} {one.text}: needs 2 classes, not {facts.num_classes}.")
        with one.doing("a test on two small images"):
            alone = getattr(empty, "state", None) == {}  # it gathers its results itself
            complaint = "" if alone else _not_additive(one, empty, facts)
            if not complaint:
                found.append(computed(one.origin, empty))
                if not alone:
                    found[-1] = computed(one.origin, _fed(one, facts, 0, 1))
                complaint = _misnamed(one, found[-1])
        if complaint:
            raise PluginError(f"{where} {one.text}: {complaint}. This is a bug in {one.plugin}.")
    joined(found)


def _misnamed(one: Chosen, scores: Scores) -> str:
    names = one.record.lower(one.options)
    if isinstance(names, str):
        return f'lower_is_better is the string "{names}", expected a tuple of names'
    unknown = ", ".join(name for name in names if name not in scores)
    known = ", ".join(scores) or "none"
    return f"lower_is_better has the unknown score {unknown}; known: {known}" * bool(unknown)


def _not_additive(one: Chosen, metric: MetricState, facts: Facts) -> str:
    """Return why a state is not a sum over images; an empty string if it is."""
    empty: Any = getattr(metric, "state", None)
    if empty is None:
        return "it has no `state`; expected a dict of numeric tensors, summed over processes"
    first, second, both = (_fed(one, facts, *images).state for images in ([0], [1], [0, 1]))
    for state in (empty, first, second, both):
        if not isinstance(state, dict) or not all(map(_adds, state.values())):
            return "its state must be a dict of numeric tensors, which are summed over processes"
        if _forms(state) != _forms(empty):
            return (
                f"its state changes in an update, from {_forms(empty)} to {_forms(state)}; "
                "expected the same names, shapes and dtypes from the start"
            )
    for name, whole in both.items():
        if not _same(first[name] + second[name], whole):
            return (
                f'its state "{name}" for two images is not the sum of the states for each, as '
                "summing over processes requires: keep sums and counts, and divide in compute()"
            )
    if one.record.from_confusion:
        pixels = replace(one, record=replace(one.record, from_confusion=False))
        for name, state in _fed(pixels, facts, 0, 1).state.items():
            if not _same(state, both[name]):
                return f'add() changes its state "{name}" differently from update()'
    return ""


def _same(state: Tensor, wanted: Tensor) -> bool:
    slack = 1e-5 if wanted.is_floating_point() else 0.0
    return torch.allclose(state.double(), wanted.double(), rtol=slack, atol=slack)


def _fed(one: Chosen, facts: Facts, *images: int) -> Any:
    """Build a metric and feed it with the given ones of two small images."""
    draw = torch.Generator().manual_seed(0)
    labels, predictions = torch.randint(facts.num_classes, (2, 2, 1, 24, 32), generator=draw)
    labels[..., :4] = IGNORE
    metric = one.build(facts)
    for k in images:
        sure = torch.full((1, 24, 32), 0.75)
        found = Decided(predictions[k], sure, sure.where(predictions[k] == 1, 1 - sure).logit())
        counts = counts_of(predictions[k], labels[k], facts.num_classes)
        feed(one, metric, found, labels[k], counts)
    return metric


def _adds(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype != torch.bool


def _forms(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{str(one.dtype).removeprefix('torch.')} {tuple(one.shape)}"
        for name, one in state.items()
    }
