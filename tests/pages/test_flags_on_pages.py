"""Every flag that a page names exists, and its value is accepted; commands in the pages parse."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from cli_tools import ROOT
from segacc.commands.cli import COMMANDS
from segacc.commands.parser import dashes, parse
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.plan import make_plan

DOCS = sorted((ROOT / "docs").glob("*.md"))
TABLES = ("from_huggingface", "from_mmsegmentation", "from_ultralytics", "own_data", "tutorial")
KNOWN = {
    flag
    for name, command in COMMANDS.items()
    for action in command.parser()._actions
    for flag in action.option_strings
}
PLANNED = {
    *("--arch", "--aug", "--augment", "--early-stop", "--ema", "--eval-every", "--loss"),
    *("--max-time", "--metric", "--mixed-precision", "--optimizer", "--protocol", "--save-every"),
    *("--schedule", "--train-split", "--warmup-steps"),
}
"""Flags whose values are checked as a run checks them."""


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each line that starts segacc in a block of shell commands."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```$", text, re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.split("-m segacc ")[-1] if "-m segacc " in line else line
            if line.startswith(("segacc ", "accelerate launch")) and "..." not in line:
                yield shlex.split(words.removeprefix("segacc "), comments=True)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_commands_parse(page: Path) -> None:
    for words in commands(page):
        name = next(one for one in (" ".join(words[:2]), words[0], "train") if one in COMMANDS)
        rest = words[len(name.split()) :] if words[0] in COMMANDS else words
        assert parse(COMMANDS[name].parser(), [dashes(word) for word in rest]) is not None


def cells(page: str) -> Iterator[str]:
    """Yield flags with their values in the columns of tables where segacc's words are."""
    place = 2
    for line in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").splitlines():
        columns = [one.strip() for one in line.split("|")]
        if line.startswith("|") and "segacc" in columns:
            place = columns.index("segacc")
        elif line.startswith("|"):
            yield from re.findall("`(--.*?)`", columns[1 if columns[2] == "the same" else place])


@pytest.mark.parametrize("page", TABLES)
def test_flags_in_tables_are_segaccs(page: str) -> None:
    found = list(cells(page))
    assert found
    values: dict[str, list[str]] = {}
    for typed in found:
        words = shlex.split(typed)
        assert {dashes(word) for word in words if word.startswith("--")} <= KNOWN, typed
        for flag, value in pairwise(words):
            if flag in PLANNED and not re.search(r"[A-Z]{3}|\.\.\.", value):
                values.setdefault(flag, []).append(value)
    registry = load_registry()
    for flag, given in values.items():
        for value in given:
            name = flag[2:].replace("-", "_")
            plan = make_plan([Layer({name: value}, "page")], registry)
            assert plan.settings.config is not None
