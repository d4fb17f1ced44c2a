"""Writes the pages of docs/ that are made from code and from other pages: `make docs` runs it.

options.md has every option of every command, components.md those of the built-in components, and
tutorial.ipynb is tutorial.md as a notebook. Tests compare the files with what this script makes.
docs/architectures.md needs minutes and is made by `segacc plugins --markdown`.
"""

import json
import re
from argparse import Action
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segacc.commands.cli import COMMANDS
from segacc.commands.plugins.command import LISTED, default_of, options_of
from segacc.contracts import VERSION
from segacc.hookspecs import COMMON, NoOptions
from segacc.registry import KINDS, Offer, load_registry
from segacc.settings.options import OptionDoc, describe

DOCS = Path(__file__).parent.parent
KIND_NAMES = {
    "dataset": "Data sets",
    "augmentation": "Augmentations",
    "loss": "Losses",
    "metric": "Metrics",
    "optimizer": "Optimizers",
    "schedule": "Learning rate schedules",
    "protocol": "Evaluation protocols",
}
"""Headings of components.md; architectures have a page of their own."""
OPTIONS = """
Made from the code by `make docs`; the help of a command, such as `segacc train --help`, says the
same. In a file for `--config` and in Python, names have `_` in place of `-`. Defaults are in
brackets. The options of [architectures](architectures.md) and other [components](components.md), as
in `--arch segformer:variant=b2`, have pages of their own."""
COMPONENTS = """
Made from the code by `make docs`; `segacc plugins NAME` prints the same. Options follow the name of
the component after a colon, as in `--loss focal:gamma=1.5,weight=0.5`. The options of `--arch` are
on the page of [architectures](architectures.md); [plugins](plugins.md) add more components."""


def main() -> None:
    """Write all pages."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the text of each generated page by file name."""
    tutorial = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    return {
        "options.md": "\n".join(options_page()) + "\n",
        "components.md": "\n".join(components_page()) + "\n",
        "tutorial.ipynb": notebook(tutorial),
    }


def options_page() -> Iterator[str]:
    """Yield the lines of options.md: a section for each command, a table for each group."""
    yield "# All options"
    yield from OPTIONS.splitlines()
    for name, command in COMMANDS.items():
        parser = command.parser()
        yield from ["", f"## segacc {name}", "", str(parser.description)]
        for group in parser._action_groups:
            actions = [one for one in group._group_actions if one.help and one.dest != "help"]
            if actions:
                yield from _group_table(str(group.title), actions)


def _group_table(title: str, actions: list[Action]) -> Iterator[str]:
    """Yield the table of one group of flags or arguments."""
    yield ""
    headings = {"options": "option", "positional arguments": "argument"}
    yield f"| {headings.get(title, title)} | value | |"
    yield "|---|---|---|"
    for action in actions:
        flags = ", ".join(f"`{flag}`" for flag in action.option_strings) or f"`{action.metavar}`"
        shown = str(action.metavar or "") if action.option_strings else ""
        value = " or ".join(f"`{one}`" for one in shown.split("|")) if shown else ""
        yield f"| {flags} | {value} | {_cell(str(action.help).replace('%%', '%'))} |"


def components_page() -> Iterator[str]:
    """Yield the lines of components.md: a table of options for each built-in component."""
    yield "# Components"
    yield from COMPONENTS.splitlines()
    offers = [one for one in load_registry().offers if one.built_in]
    for kind, listed in LISTED.items():
        offers += [Offer(kind, one, "segacc", VERSION) for one in listed()]
    for kind in (*KINDS, *LISTED):
        if kind in KIND_NAMES:
            yield from ["", f"## {KIND_NAMES[kind]}"]
            if kind in COMMON:
                what = "data set" if kind == "dataset" else kind
                yield from ["", f"Every {what} has these options besides its own:"]
                yield from _options_table(describe(COMMON[kind]))
            for offer in (one for one in offers if one.kind == kind):
                yield from ["", f"### {offer.record.name}", "", f"{_cell(offer.record.summary)}."]
                yield from _options_table(_own_options(offer))


def _own_options(offer: Offer) -> Sequence[OptionDoc]:
    """Return the options of a component without those of every component of its kind."""
    common = describe(COMMON.get(offer.kind, NoOptions))
    return [one for one in options_of(offer) if one not in common]


def _options_table(options: Sequence[OptionDoc]) -> Iterator[str]:
    if options:
        yield from ["", "| option | type | default | |", "|---|---|---|---|"]
    for one in options:
        text = default_of(one)
        default = {"-": "", "required": "required"}.get(text, f"`{text}`")
        yield f"| `{one.name}` | {_cell(one.type)} | {default} | {_cell(one.doc)} |"


def _cell(text: str) -> str:
    """Return a text in one line of a table; what looks like a tag outside of code is escaped."""
    line = " ".join(text.split()).replace("|", "\\|")
    return re.sub("`.*?`|<(?=[a-z/])", lambda one: "&lt;" if one[0] == "<" else one[0], line)


def notebook(page: str) -> str:
    """Return a page as a notebook: each block of Python is a cell, the text between is another."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(re.split(r"^```python\n(.*?)^```$\n?", page, flags=re.M | re.S)):
        text = re.sub(r"^<!--.*?-->\n", "", part, flags=re.M).strip("\n")
        if text:
            code = {"execution_count": None, "outputs": []} if number % 2 else {}
            kind = "code" if number % 2 else "markdown"
            cells.append(
                {
                    **{"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}},
                    **{"source": text.splitlines(keepends=True), **code},
                }
            )
    language = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    book = {"cells": cells, "metadata": language, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
