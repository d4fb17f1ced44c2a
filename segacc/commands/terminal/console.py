"""Shared by all commands: consoles, plugin warnings, quiet libraries and a progress bar."""

import gc
import importlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from segacc.errors import is_main
from segacc.registry import Registry, load_registry
from segacc.settings.secrets import shown

PERIOD = 0.25
"""Shortest time between two updates of a notebook's display, in seconds."""

Where = Callable[[str], str]
"""Returns how the user typed the setting of a name, for error messages."""


def in_notebook() -> bool:
    """Return whether this is a Jupyter notebook."""
    return Console(quiet=True).is_jupyter


class PlainConsole(Console):
    """A console that escapes control characters in what it prints, as in names of files."""

    def render(self, *given: Any, **more: Any) -> Iterator[Segment]:
        """Render a text, a table or a bar; rich's own control codes are separate segments."""
        for part in super().render(*given, **more):
            yield part if part.control else part._replace(text=shown(part.text))

    def render_str(self, text: str, **more: Any) -> Text:
        """Escape a text before its width is measured, as in the cell of a table."""
        return super().render_str(shown(text), **more)


class Patient(PlainConsole):
    """A console whose reader may leave, as in `segacc evaluate ... | head`: the work goes on."""

    def on_broken_pipe(self) -> None:
        """Drop this and all later output."""
        with suppress(SystemExit):
            super().on_broken_pipe()


def console_of(*, stderr: bool = False, kind: type[Console] = PlainConsole) -> Console:
    """Return a console that prints on the main process only, and plain text in a notebook."""
    plain = False if in_notebook() else None  # although ipykernel sets FORCE_COLOR
    return kind(
        soft_wrap=True,
        stderr=stderr,
        quiet=not is_main(),
        force_terminal=plain,
        force_jupyter=False,
    )


def text_of(show: Callable[[Console], None]) -> str:
    """Return as plain text what a function prints."""
    console = PlainConsole(file=io.StringIO(), width=120, soft_wrap=True, force_jupyter=False)
    with console.capture() as captured:
        show(console)
    return captured.get().rstrip("\n")


class NotebookView:
    """Shows a changing text below a notebook cell, as rich's Live does on a terminal.

    It is updated in place by `refresh`, without a thread and without ipywidgets.
    """

    def __init__(self, view: Callable[[], RenderableType]) -> None:
        """Prepare it; `view` returns what to show."""
        self.view, self.updated = view, 0.0
        self._handle: Any = None

    @property
    def is_started(self) -> bool:
        """Whether it is shown and may change."""
        return self._handle is not None

    def start(self) -> None:
        """Show it."""
        display = importlib.import_module("IPython.display").display  # a notebook has IPython
        self._handle = display(self._content(), raw=True, display_id=True)

    def refresh(self) -> None:
        """Update it, at most every PERIOD seconds."""
        if self.is_started and time.monotonic() - self.updated >= PERIOD:
            self._update()

    def stop(self) -> None:
        """Update it for the last time."""
        if self.is_started:
            self._update()
            self._handle = None

    def _update(self) -> None:
        self.updated = time.monotonic()
        self._handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        console = PlainConsole(record=True, file=io.StringIO(), width=100, force_jupyter=False)
        console.print(self.view())
        html = '<pre style="white-space:pre;line-height:normal">{code}</pre>'
        return {
            "text/plain": console.export_text(clear=False),
            "text/html": console.export_html(code_format=html, inline_styles=True),
        }


def load_plugins() -> Registry:
    """Load the registry; the main process prints warnings on broken plugins and name clashes."""
    registry = load_registry()
    if is_main():
        for failure in registry.failures:
            sys.stderr.write(shown(f"warning: {failure.text()}\n"))
        for clash in registry.clashes():
            sys.stderr.write(shown(f"warning: {clash}\n"))
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
def loading(console: Console, what: str) -> Iterator[None]:
    """Show that `what` is loaded, and meanwhile pause Python's search for cyclic garbage.

    Imports leave none, but create so many objects that the search takes a tenth of the time.
    """
    searched = gc.isenabled()
    gc.disable()
    try:
        with console.status(f"Loading {what} ..."):
            yield
    finally:
        if searched:
            gc.enable()


@contextmanager
def progress_bar(
    console: Console, total: int | None, text: str = ""
) -> Iterator[Callable[..., None]]:
    """Show a progress bar if the console is a terminal, or in a notebook.

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
        update = partial(progress.update, progress.add_task(text, total=total))
        if console.quiet or not in_notebook():
            yield update
            return
        view = NotebookView(progress.get_renderable)
        view.start()

        def tick(**change: Any) -> None:
            update(**change)
            view.refresh()

        yield tick
        view.stop()
