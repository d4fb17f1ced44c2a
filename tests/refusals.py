"""Compares what the conformance kit says of a component."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """None."""


def assert_refuses(text: str, check: Callable[..., None], *args: Any, **more: Any) -> None:
    """Compare what a check says: `#` stands for a number, `...` for words of others."""
    with pytest.raises(AssertionError) as error:
        check(*args, **more)
    pattern = re.escape(text).replace(r"\#", r"-?\d[\d.e+-]*").replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern, str(error.value)), str(error.value)
