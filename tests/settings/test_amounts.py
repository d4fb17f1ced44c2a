"""Times and steps as they are typed."""

import pytest

from segacc.errors import OptionError
from segacc.settings.sources import Layer, merge
from segacc.settings.units import clock_text, period_of, seconds, steps_of


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("45m", 2700), ("90s", 90), ("1h30m", 5400), ("2h", 7200), ("1h2m3s", 3723), ("0m90s", 90)],
)
def test_a_time_is_read(text: str, wanted: float) -> None:
    assert seconds(text) == wanted
    assert merge([Layer({"max_time": text}, "x")]).config.max_time == text


@pytest.mark.parametrize("text", ["90", "", "m", "45 m", "1m2h", "-5m", "0s", "1.5h", "1:30:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(OptionError) as error:
        merge([Layer({"max_time": text}, "command line")])
    assert str(error.value) == (
        f"--max-time: expected text: a time above 0, for example 45m, 90s or 1h30m; found {text!r}."
    )


@pytest.mark.parametrize(("given", "text"), [(0, "0:00"), (192, "3:12"), (3792, "1:03:12")])
def test_clock_text(given: float, text: str) -> None:
    assert clock_text(given) == text


def test_steps_are_whole_or_a_share_of_the_run() -> None:
    settings = merge([Layer({"warmup_steps": "0.05", "eval_every": "20"}, "x")]).config
    assert (settings.warmup_steps, settings.eval_every) == (0.05, 20)
    assert type(settings.eval_every) is int
    assert [steps_of(value, 150) for value in (0, 0.05, 0.999, 1, 7)] == [0, 7, 149, 1, 7]
    assert [period_of(value, 150) for value in (0.001, 0.2, 0.21, 1, 7)] == [1, 30, 32, 1, 7]


@pytest.mark.parametrize(
    ("key", "text", "complaint"),
    [
        (
            "warmup_steps",
            "1.5",
            "number >= 0: a whole number of steps, or a fraction of the run below 1",
        ),
        ("warmup_steps", "-1", "number >= 0"),
        (
            "save_every",
            "2.5",
            "number > 0 or epoch: a whole number of steps, or a fraction of the run below 1",
        ),
        ("eval_every", "0", "number > 0 or epoch"),
        ("eval_every", "epochs", "number > 0 or epoch"),
        ("encoder_warmup_steps", "inf", "finite number >= 0"),
    ],
)
def test_what_is_neither_is_refused(key: str, text: str, complaint: str) -> None:
    with pytest.raises(OptionError) as error:
        merge([Layer({key: text}, "run.yaml")])
    assert str(error.value) == f"run.yaml: {key}: expected a {complaint}; found {text!r}."
