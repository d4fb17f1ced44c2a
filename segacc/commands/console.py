"""Shared by all commands: plugin warnings, quiet libraries and a progress bar."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segacc.errors import is_main
from segacc.registry import Registry, load_registry


def load_plugins() -> Registry:
    """Load the registry; the main process prints warnings on broken plugins and name clashes."""
    registry = load_registry()
    if is_main():
        for failure in registry.failures:
            sys.stderr.write(f"warning: {failure.text()}\n")
        for clash in registry.clashes():
            sys.stderr.write(f"warning: {clash}\n")
    return registry


def quiet_libraries() -> None:
    """Turn off progress bars and warnings of libraries, but not their errors."""
    import logging
    import warnings

    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not (sys.stderr.isatty() and is_main()):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"torch(\.|$)|accelerate(\.|$)|transformers(\.|$)")


@contextmanager
def progress_bar(
    console: Console, total: int | None, text: str = ""
) -> Iterator[Callable[..., None]]:
    """Show a progress bar if the console is a terminal.

    Yields:
        A function to call with `advance=1` after each item, or with `description=TEXT`.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=off) as progress:
        yield partial(progress.update, progress.add_task(text, total=total))
