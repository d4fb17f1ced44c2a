"""Errors that a process sends to the others arrive whole."""

import pickle
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import segacc
from segacc.errors import NoClassesError, SegaccError


def kinds(kind: type[SegaccError]) -> Iterator[type[SegaccError]]:
    """Yield a class of errors and its subclasses."""
    yield kind
    for one in kind.__subclasses__():
        yield from kinds(one)


def test_every_error_can_be_sent_to_another_process() -> None:
    root = Path(segacc.__file__).parent
    for path in root.rglob("*.py"):
        if re.search(r"^class \w+\(\w*Error\):", path.read_text(), re.MULTILINE):
            import_module(".".join(path.relative_to(root.parent).with_suffix("").parts))
    found = [one for one in kinds(SegaccError) if one.__module__.startswith("segacc.")]
    assert len(found) >= 15
    for kind in found:
        more = (Path("classes.txt"), "a\nb\n") if kind is NoClassesError else ()
        error: Any = kind("text", *more)
        error.args = ("text, and what was added to it",)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))
