"""Which evaluation is the best, and when a score has not become better for too long."""

from typing import Any

import pytest

from refusals import NoOptions
from segacc.contracts import Facts
from segacc.errors import OptionError
from segacc.hookspecs import Chosen, Metric
from segacc.plugins.metrics.overlap import MeanIou
from segacc.settings.sources import Layer, merge
from segacc.training.checkpoint import Progress
from segacc.training.defaults import choose_score
from segacc.training.limits.guard import EarlyStop
from segacc.training.plan import EarlyStopOptions, choose_early_stop
from segacc.training.run import Best

NAN = float("nan")


class Calibration:
    """A stranger's metric whose scores are the better the lower they are."""

    def compute(self) -> dict[str, float | dict[str, float]]:
        return {"ece": NAN, "per_category_ece": {"cell": NAN, "gap": NAN}}


class Accuracy:
    """One of which higher is better."""

    def compute(self) -> dict[str, float | dict[str, float]]:
        return {"accuracy": NAN, "per_category_accuracy": {"cell": NAN, "gap": NAN}}


RECORDS = (
    Metric(
        name="calibration",
        summary="",
        options=NoOptions,
        build=lambda options, facts: Calibration(),
        lower_is_better=("ece", "per_category_ece"),
    ),
    Metric(name="accuracy", summary="", options=NoOptions, build=lambda options, facts: Accuracy()),
)
CHOSEN = tuple(Chosen(record, NoOptions(), record.name) for record in RECORDS)
EMPTY: Any = {"calibration": Calibration(), "accuracy": Accuracy()}


def scores(value: float) -> Any:
    many = {"cell": value, "gap": 0.5}
    return {
        **{"ece": value, "per_category_ece": many},
        **{"accuracy": value, "per_category_accuracy": many},
    }


@pytest.mark.parametrize(
    ("by", "best"),
    [
        ("ece", [1, 4]),
        ("per_category_ece/cell", [1, 4]),
        ("per_category_ece/gap", [0]),
        ("accuracy", [1, 2]),
        ("per_category_accuracy/cell", [1, 2]),
    ],
)
def test_the_best_is_the_lowest_or_highest_as_the_metric_says(by: str, best: list[int]) -> None:
    rule, progress, found = Best(by, CHOSEN, EMPTY), Progress(), []
    for step, value in enumerate((NAN, 0.3, 0.4, NAN, 0.2, 0.2, 0.4)):
        progress.step = step
        if rule.note(scores(value), progress):
            found.append(step)
    assert found == best
    assert progress.best_step == best[-1] and progress.evaluated == 6


@pytest.mark.parametrize(
    "by", ["per_category_ece", "ece/cell", "per_category_ece/cells", "calibration"]
)
def test_a_key_that_no_metric_gives_is_refused(by: str) -> None:
    known = "ece, accuracy, per_category_ece/cell, per_category_ece/gap, "
    known += "per_category_accuracy/cell, per_category_accuracy/gap."
    with pytest.raises(OptionError) as error:
        Best(by, CHOSEN, EMPTY)
    assert str(error.value) == f"--best-by {by}: no such score. Known: {known}"
    with pytest.raises(OptionError) as error:
        EarlyStop(by, EarlyStopOptions(), CHOSEN, EMPTY)
    assert str(error.value) == f"--early-stop {by}: no such score. Known: {known}"


def test_a_score_is_chosen_only_where_the_default_is_not_given_and_none_was_typed() -> None:
    def chosen(metrics: Any, **typed: Any) -> tuple[str, str]:
        settings = choose_score(merge([Layer(typed, "command line")]), metrics)
        return settings.config.best_by, settings.where("best_by")

    mean_iou = {"mean_iou": MeanIou(Facts(num_classes=2, class_names=("gap", "cell")))}
    default = ("mean_iou", "the default of --best-by")
    assert chosen(EMPTY) == ("ece", "chosen: the first score of calibration")
    assert chosen({**EMPTY, **mean_iou}) == default
    assert chosen({}) == default
    assert chosen(EMPTY, best_by="accuracy") == ("accuracy", "--best-by")
    assert chosen(EMPTY, best_by="mean_iou") == ("mean_iou", "--best-by")


def stops(by: str, values: tuple[float, ...], **options: Any) -> tuple[int | None, Progress]:
    """Return the evaluation at which it stops, and what a checkpoint holds then."""
    rule = EarlyStop(by, EarlyStopOptions(**options), CHOSEN, EMPTY)
    progress = Progress()
    for number, value in enumerate(values, 1):
        progress.step = 10 * number
        rule.note(scores(value), progress)
        if rule.reason(progress):
            return number, progress
    return None, progress


@pytest.mark.parametrize(
    ("by", "values", "options", "wanted"),
    [
        ("accuracy", (0.1, 0.2, 0.2, 0.1, 0.3), {"patience": 2}, 4),
        ("accuracy", (0.1, 0.2, 0.2, 0.3, 0.3), {"patience": 2}, None),
        ("ece", (0.5, 0.4, 0.4, 0.5), {"patience": 2}, 4),
        ("ece", (0.1, 0.2, 0.3), {"patience": 2}, 3),
        ("accuracy", (0.1, 0.14, 0.15), {"patience": 2, "min_delta": 0.05}, 3),
        ("accuracy", (0.1, 0.14, 0.16), {"patience": 2, "min_delta": 0.05}, None),
        ("per_category_ece/cell", (0.2, 0.2), {"patience": 1}, 2),
        ("accuracy", (NAN, NAN), {"patience": 2}, 2),
        ("accuracy", (0.1, NAN, 0.2), {"patience": 2}, None),
        ("accuracy", (0.3, *[0.1] * 4), {}, None),
        ("accuracy", (0.3, *[0.1] * 5), {}, 6),
    ],
)
def test_it_stops_after_so_many_evaluations_without_a_better_score(
    by: str, values: tuple[float, ...], options: dict[str, Any], wanted: int | None
) -> None:
    assert stops(by, values, **options)[0] == wanted


def test_the_count_is_in_the_checkpoint_and_more_patience_goes_on() -> None:
    _, progress = stops("ece", (0.4, 0.5, 0.6), patience=2)
    assert progress.early_stop == {"by": "ece", "best": 0.4, "step": 10, "since": 2}
    rule = EarlyStop("ece", EarlyStopOptions(patience=2), CHOSEN, EMPTY)
    assert rule.reason(progress) == (
        "early stop: ece has not been lower than 0.4000 at step 10 for 2 evaluations"
    )
    assert not EarlyStop("ece", EarlyStopOptions(patience=3), CHOSEN, EMPTY).reason(progress)
    assert not EarlyStop("accuracy", EarlyStopOptions(patience=1), CHOSEN, EMPTY).reason(progress)
    assert (
        EarlyStop("accuracy", EarlyStopOptions(patience=1), CHOSEN, EMPTY).note(
            scores(NAN), progress
        )
        is None
        and progress.early_stop["since"] == 1
    )


def test_it_is_read_as_it_is_typed() -> None:
    def read(given: Any) -> Any:
        return choose_early_stop(merge([Layer({"early_stop": given}, "command line")]))

    assert choose_early_stop(merge([])) is None and read("none") is None
    assert read("mean_iou") == ("mean_iou", EarlyStopOptions(patience=5, min_delta=0.0))
    wanted = ("per_category_iou/cell", EarlyStopOptions(patience=3, min_delta=0.01))
    assert read("per_category_iou/cell:patience=3,min_delta=0.01") == wanted
    assert read({"name": "per_category_iou/cell", "patience": 3, "min_delta": 0.01}) == wanted
    for given, text in (
        ("mean_iou:patience=0", "patience: expected an integer > 0; found '0'."),
        ("mean_iou:patients=2", 'unknown option "patients". Did you mean "patience"? Known: '),
    ):
        with pytest.raises(OptionError) as error:
            read(given)
        assert str(error.value).startswith(f"--early-stop mean_iou: {text}")
