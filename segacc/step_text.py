"""What is told of a step and of a score in a few words."""

import math

from segacc.events import Evaluated, StepDone
from segacc.tracking import flat

SLOW_DATA = 0.1
"""Share of the time spent waiting for data from which advice is given."""


def score_of(event: Evaluated, key: str) -> str:
    """Tell one score of an evaluation, and where it was reached."""
    average = " (EMA)" if event.terms.weights == "ema" else ""
    value = flat(event.scores).get(key, math.nan)
    return f"{key} {value:.4f} at step {event.step}{average}"


def numbers_of(event: StepDone) -> list[tuple[str, str]]:
    """Tell a logged step as pairs of text and style."""
    terms = ", ".join(f"{name} {value:.4f}" for name, value in event.losses.items())
    terms = f" ({terms})" if len(event.losses) > 1 else ""
    slow = event.data_wait > SLOW_DATA
    advice = " (raise --num-workers)" if slow else ""
    return [
        (f"loss {event.loss:.4f}{terms}", "bold" if math.isfinite(event.loss) else "bold red"),
        (f"lr {event.lr:.1e}", ""),
        (f"{event.images_per_second:.1f} images/s", ""),
        (f"data wait {100 * event.data_wait:.0f} %{advice}", "yellow" if slow else ""),
    ]
