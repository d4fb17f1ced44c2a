"""The HTML page of a report, made from page.html, page.css and page.js in this folder."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from segacc.commands.report import facts
from segacc.commands.report.pictures import images_of
from segacc.commands.report.run import RunData
from segacc.contracts import VERSION

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that reverse the direction of text, and halves of surrogate pairs."""
FIRST_LINE = f"<!doctype html><!-- segacc report {VERSION} -->"
MARK = b"<!doctype html><!-- segacc report "
"""The start of each report, by which `segacc report` knows which files it may replace."""


def render(runs: Sequence[RunData], num_images: int) -> str:
    """Return the page of some runs, without any reference to another file or address.

    Args:
        runs: the runs, in the order of the page.
        num_images: maximum number of images of each run.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=printable,
    )
    charts = facts.charts_of(runs)
    images = [images_of(run, num_images) for run in runs]
    page = environment.get_template("page.html").render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        version=VERSION,
        runs=runs,
        facts=[facts.facts_of(run) for run in runs],
        charts=charts,
        images=images,
        data=printable({"runs": [run.name for run in runs], "charts": charts, "images": images}),
        classes=facts.classes_of(runs),
        confusions=[facts.confusion_of(run) for run in runs],
        settings=facts.settings_of(runs),
        environment=facts.environment_of(runs),
    )
    return f"{FIRST_LINE}\n{page}\n"


def printable(value: Any) -> Any:
    """Replace the characters of a text that cannot be printed, also in lists and mappings."""
    match value:
        case str() if not hasattr(value, "__html__"):  # it may still be escaped
            return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
        case list():
            return [printable(one) for one in value]
        case dict():
            return {key: printable(one) for key, one in value.items()}
    return value
