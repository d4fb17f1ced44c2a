"""Errors caused by user input; each message is a paragraph: where, what is wrong, how to fix it.

Also the functions that read the paths and text files that users give.
"""

import difflib
import errno
import os
import stat
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOW_TRACEBACK = "SEGACC_TRACEBACK=1 shows the traceback."
MEMORY_FULL = (
    *("out of memory", "can't allocate memory", "ALLOC_FAILED", "std::bad_alloc"),
    *("could not create a primitive", "could not execute a primitive"),
)
"""Parts of torch's errors of full memory that have no type of their own; the last ones are those of
oneDNN, which does not tell the reason."""
LOST_PEER = (
    *("Connection closed by peer", "Connection reset by peer", "ncclRemoteError", "pair closure"),
    *("Timed out waiting", "waiting for clients", "Watchdog caught collective operation timeout"),
)
"""Parts of the errors of gloo and NCCL if another process has ended or does not answer. gloo says
"pair closure" in each call after the first that timed out."""
BETWEEN = ("pluggy", "importlib", "contextlib", "functools")
"""Packages whose lines may lie between segacc's and a plugin's in a traceback."""


def is_main() -> bool:
    """Return whether this is the main process, which alone prints, before accelerate is started."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """Return how many processes a launcher has started, 1 without one; torch is not imported."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_memory_full(error: BaseException) -> bool:
    """Return whether it is torch's error of a full memory; torch is not imported."""
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY_FULL)


def is_peer_lost(error: BaseException) -> bool:
    """Return whether another process of a distributed run has ended or does not answer."""
    told = isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_PEER)
    return world_size() > 1 and told


def count_of(count: int, word: str, several: str | None = None) -> str:
    """Return a count with its noun, as `1 pixel` or `2 pixels`; `several` is another plural."""
    return f"{count} {word if count == 1 else several or f'{word}s'}"


def first_of(values: Iterable[object], most: int) -> str:
    """Return the first values, as `a, b, c and 5 more`."""
    told = [str(value) for value in values]
    return ", ".join(told[:most]) + (f" and {len(told) - most} more" if len(told) > most else "")


def twice_in(values: Iterable[str]) -> list[str]:
    """Return the values that occur more than once, sorted."""
    return sorted(value for value, count in Counter(values).items() if count > 1)


def cut(text: str, most: int = 80) -> str:
    """Return a text that the user typed, for an error: at most so many characters of it."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def quoted(value: object) -> str:
    """Return a value that the user gave, in quotes if it is a text, and cut like `cut`."""
    return cut(repr(value))


def huge(size: int, max_bytes: int) -> str:
    """Return what to tell about a file of too many bytes."""
    return (
        f"it has {size} bytes, and up to {max_bytes} are read. If memory suffices, set "
        f"max_bytes={size}, an option of every data set, of `segacc predict` (--max-bytes) and of "
        "Segmenter.from_pretrained"
    )


SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
"""File types that may never end, or hang when they are opened."""


def refuse_special(path: Path) -> int:
    """Refuse FIFOs, devices and sockets, also behind a symbolic link; return the size in bytes.

    Raises:
        OSError: it is one of these, or is missing; `strerror` is for the user.
    """
    found = path.stat()
    if kind := SPECIAL.get(stat.S_IFMT(found.st_mode)):
        raise OSError(errno.EINVAL, f"it is {kind}; only regular files are read")
    return found.st_size


def read_text(path: Path, *, special: bool = False) -> str:
    """Return the content of a text file that the user wrote.

    Args:
        path: the file.
        special: whether it may be a FIFO, as a shell's `<(command)` is.

    Raises:
        OSError: it cannot be read, is no regular file or not UTF-8; `strerror` is for the user.
    """
    if not special:
        refuse_special(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without a byte order mark
        raise OSError(errno.EILSEQ, "it is not UTF-8; if it is a text file, save it in UTF-8")
    return text


class SegaccError(Exception):
    """An error that the user can fix: printed as one paragraph, with exit code 2."""


class OptionError(SegaccError):
    """A setting given on the command line, in a YAML file or in Python is invalid."""


class DataError(SegaccError):
    """A data set, an image or a label is invalid."""


class NoClassesError(DataError):
    """A folder has no class list; `path` and `content` are one that fits the labels."""

    def __init__(self, text: str, path: Path, content: str) -> None:
        """Keep the class list."""
        super().__init__(text)
        self.path, self.content = path, content

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle rebuilds it from, in another process."""
        return type(self), (str(self), self.path, self.content)


class EmptySplitError(DataError):
    """The folder of a split has no image."""


class WorkerError(DataError):
    """Data loader workers were killed."""


class UnreadableError(DataError):
    """An image or label file is missing or cannot be decoded; see `skip_unreadable`."""


class WriteError(SegaccError):
    """The output of a run cannot be written: the disk is full, or the terminal is gone."""


class PluginError(SegaccError):
    """A component's name is unknown or ambiguous, or its plugin is broken."""


class NonFiniteError(SegaccError):
    """A loss or a gradient was not finite in more steps than `tolerate_nonfinite` allows."""


class FullMemoryError(SegaccError):
    """The memory does not suffice for a training step, which cannot be cut any smaller."""


class WeightsError(SegaccError):
    """Weights cannot be found, or do not fit the network."""


@dataclass(frozen=True)
class Origin:
    """The component whose code runs, and its plugin, for errors; unlike its record, picklable."""

    name: str
    """Plugin, kind and name: `plugin segacc-example 1.2.3, loss soft_dice`."""
    package: str = ""
    """The plugin's Python package."""

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    @contextmanager
    def doing(self, step: str) -> Iterator[None]:
        """Run a step of the component's code.

        Raises:
            PluginError: it raised anything but a SegaccError; the message names plugin and step.
                Errors of a full memory or a lost process are raised as they are.
        """
        try:
            yield
        except SegaccError:
            raise
        except Exception as error:  # a plugin's code may raise anything
            if is_memory_full(error) or is_peer_lost(error):  # which is nobody's fault
                raise
            raise PluginError(
                f"{self}: {step} failed: {reason_of(error, self.package)}. {SHOW_TRACEBACK}"
            ) from error

    def expect(self, found: object, kind: Any, what: str) -> None:
        """Refuse what the component's `build` returned if it is of another type.

        Raises:
            PluginError: it is not of this type; `what` describes what is expected.
        """
        if not isinstance(found, kind):
            raise PluginError(f"{self}: build returned {type(found).__name__}; expected {what}.")


def reason_of(error: BaseException, package: str = "") -> str:
    """Return what a plugin's code raised, as `ValueError: no such size (segacc_net.py:12)`.

    If the environment variable SEGACC_TRACEBACK is set, the traceback is written to stderr.

    Args:
        error: the exception.
        package: the plugin's package, of which the last executed line is given; by default the
            first package in the traceback that is not segacc's own.
    """
    if os.environ.get("SEGACC_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(error)
    told, place = str(error), _place(error, package)
    if isinstance(error, SyntaxError):
        told, place = error.msg, f"{error.filename}:{error.lineno}"
    told = " ".join(told.split()).rstrip(".")
    text = ": ".join(filter(None, (type(error).__name__, told)))
    return f"{text} ({place})" if place else text


def _place(error: BaseException, package: str) -> str:
    """Return file and line where a plugin's code raised an error, or an empty string."""
    lines: dict[str, str] = {}  # the last line of each package, outermost first
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__")).partition(".")[0]
        lines[name] = f"{frame.f_code.co_filename}:{line}"
    others = [place for name, place in lines.items() if name not in ("segacc", *BETWEEN)]
    return lines[package] if package in lines else "".join(others[:1])


def unknown(what: str, name: str, known: Iterable[str], more: str = "") -> str:
    """Return `unknown loss "dise". Did you mean "dice"? Known: dice, focal`, and `more`."""
    names = list(dict.fromkeys(known))
    listed = ", ".join(names) or "none"
    return f'unknown {what} "{cut(name)}". {did_you_mean(name, names)}Known: {listed}{more}'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `Did you mean "x"? `, preferably with an x that begins `word_`, or an empty string."""
    names = list(known)
    longer = [name for name in names if name.startswith(f"{word}_")]
    near = longer or difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f'Did you mean "{near[0]}"? ' if near else ""


def is_too_long(path: Path) -> bool:
    """Return whether a path, or a name in it, is longer than the system permits."""
    try:
        path.lstat()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def listed(given: Any) -> list[Any]:
    """Return what Python code gave where it may give one or several; a text or path is one."""
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | os.PathLike)
    return list(given) if several else [given]


def expand(path: str | Path, where: str = "") -> Path:
    """Return a path with `~` or `~NAME` at its start replaced by the home folder.

    Args:
        path: as the user wrote it.
        where: the setting that gives it, for the error.

    Raises:
        OptionError: there is no user NAME, and no file of this name either; it is too long; or it
            is no path.
    """
    before = f"{where}: " if where else ""
    if not isinstance(path, str | os.PathLike):
        raise OptionError(f"{before}{type(path).__name__} is not a path, which is a str or a Path.")
    path = Path(path)
    if is_too_long(path):
        raise OptionError(f"{before}{cut(str(path))}: the path is too long for this system.")
    try:
        return path.expanduser()
    except RuntimeError:
        if path.exists():
            return path
        raise OptionError(
            f"{before}{path}: there is no user {path.parts[0][1:]}, whose "
            f"home folder would be {path.parts[0]}. Write ./{path} for a path in the working "
            "directory."
        ) from None
