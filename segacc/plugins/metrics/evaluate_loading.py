"""Loads a metric module of the `evaluate` library: a file, a folder, or a name on the Hub."""

import functools
import inspect
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segacc.errors import OptionError

WHERE = "--metric evaluate"
TIMEOUT = 5.0
"""Seconds without a response until the Hub is treated as unreachable."""
INPUTS = {"predictions", "references"}


@functools.cache
def load_class(path: str, config: str | None) -> Any:
    """Return the module's class; it is loaded once per process.

    Args:
        path: a .py file, a folder with a .py file of the same name, or a name on the Hub.
        config: the module's configuration name, if it has several.

    Raises:
        OptionError: there is no such module, or it cannot be loaded.
    """
    import evaluate

    local, trouble = local_path(path), ""
    if local is None:
        trouble = hub_trouble(path)
    try:
        with offline(bool(trouble)), tempfile.TemporaryDirectory() as folder:
            given = path if local is None else str(local)
            module = evaluate.load(given, config, "metric", cache_dir=folder, keep_in_memory=True)
    except FileNotFoundError:
        raise OptionError(missing(path, trouble)) from None
    except Exception as error:  # third-party code and its dependencies
        raise OptionError(f"{WHERE}: {path} cannot be loaded: {told(error)}.") from None
    return type(module)


def local_path(path: str) -> Path | None:
    """Return the file or folder for a path; None for a name on the Hub.

    Raises:
        OptionError: it has the form of a path but does not exist.
    """
    found = Path(path).expanduser().resolve()
    if (found.suffix == ".py" and found.is_file()) or (found / f"{found.name}.py").is_file():
        return found
    path_like = path.count("/") > 1 or path.startswith((".", "/", "~")) or found.suffix == ".py"
    if found.exists() or path_like:
        reason = "it is not a .py file" if found.exists() else "there is no such file or folder"
        reason = f"it contains no {found.name}.py" if found.is_dir() else reason
        raise OptionError(
            f"{WHERE}: {path}: {reason} (looked at {found}). Give the module's .py file, or a "
            "folder that contains one with the folder's name."
        )
    return None


def space_of(name: str) -> str:
    """Return the module's space on the Hub; a name without an owner is one of the library's."""
    return name if "/" in name else f"evaluate-metric/{name}"


def hub_trouble(name: str) -> str:
    """Return why the Hub is unreachable; empty if it is reachable.

    Raises:
        OptionError: the Hub has no such module.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().space_info(space_of(name), timeout=TIMEOUT)
    except (HFValidationError, RepositoryNotFoundError):
        raise OptionError(
            f"{WHERE}: there is no file or folder {name}, and the Hub has no metric module "
            f"{space_of(name)}. The modules of the library are listed at "
            "https://huggingface.co/evaluate-metric; a local file is given by its path, e.g. "
            "evaluate:path/to/module.py."
        ) from None
    except Exception as error:  # offline, a Hub in trouble, or what its HTTP library raises
        return type(error).__name__
    return ""


@contextmanager
def offline(yes: bool) -> Iterator[None]:
    """Restrict `evaluate` to its cache inside a block, because its own timeouts are minutes."""
    from evaluate import config

    before = config.HF_EVALUATE_OFFLINE
    config.HF_EVALUATE_OFFLINE = before or yes
    try:
        yield
    finally:
        config.HF_EVALUATE_OFFLINE = before


def missing(name: str, trouble: str) -> str:
    """Return a message that a module is unavailable, and how to use it without a network."""
    why = f"the Hub does not respond ({trouble})" if trouble else "the Hub does not provide it"
    file = f"{name.rpartition('/')[2]}.py"
    return (
        f"{WHERE}: {name} cannot be loaded: there is no file or folder of that name, {why}, and "
        "the cache of `evaluate` does not contain it. On a computer with network access, download "
        f"{file} from https://huggingface.co/spaces/{space_of(name)}, and give the copy's path: "
        f"evaluate:path/to/{file}."
    )


def told(error: Exception) -> str:
    """Describe another library's error in one line."""
    reason = " ".join(str(error).split())[:400].rstrip(".")
    return f"{type(error).__name__}{': ' if reason else ''}{reason}"


def form_of(features: Any) -> str | None:
    """Return how a module takes predictions: `pictures`, `rows` (lists of lists) or `pixels`.

    None if label maps cannot be converted to its inputs.
    """
    if set(features) != INPUTS:
        return None
    forms = {_form(feature) for feature in features.values()}
    return forms.pop() if len(forms) == 1 else None


def _form(feature: Any) -> str | None:
    if type(feature).__name__ == "Image":
        return "pictures"
    depth = 0
    while isinstance(feature, list) or hasattr(feature, "feature"):  # two notations for a list
        feature = feature[0] if isinstance(feature, list) else feature.feature
        depth += 1
    number = type(feature).__name__ in ("Value", "ClassLabel")
    return {0: "pixels", 2: "rows"}.get(depth) if number else None


def arguments(kind: Any, path: str, known: Mapping[str, Any], typed: Mapping[str, Any]) -> Any:
    """Return the arguments of the module's compute besides predictions and references.

    Args:
        kind: the module's class.
        path: as typed by the user.
        known: known values by their usual names; left out if compute does not accept them.
        typed: values given by the user; they take precedence.

    Returns:
        A dict.

    Raises:
        OptionError: compute does not accept a given value, or requires more.
    """
    taken = dict(inspect.signature(kind._compute).parameters)
    any_name = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    names = [
        name
        for name, one in taken.items()
        if name not in {"self", *INPUTS} and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    ]
    if unknown := [name for name in typed if name not in names and not any_name]:
        raise OptionError(
            f"{WHERE}: kwargs: {path} does not accept {', '.join(unknown)}. "
            f"Known: {', '.join(names)}."
        )
    given = {name: value for name, value in known.items() if name in names} | dict(typed)
    needs = [name for name in names if taken[name].default is inspect.Parameter.empty]
    if lacking := [name for name in needs if name not in given]:
        raise OptionError(
            f"{WHERE}: {path} needs {', '.join(lacking)}; add kwargs={{{lacking[0]}: VALUE}}."
        )
    return given
