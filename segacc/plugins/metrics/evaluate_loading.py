"""Finds a metric module of the `evaluate` library: a file, a folder, or a name on the Hub."""

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
"""Seconds that the Hub may take to answer before it counts as out of reach."""
INPUTS = {"predictions", "references"}


@functools.cache
def load_class(path: str, config: str | None) -> Any:
    """Return the module's class; each process loads it once.

    Args:
        path: a .py file, a folder that holds a .py file of the folder's name, or a name on the Hub.
        config: the module's configuration, for those that have several.

    Raises:
        OptionError: there is no such module, or it does not load.
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
    except Exception as error:  # the code of a stranger, and what it needs
        raise OptionError(f"{WHERE}: {path} does not load: {told(error)}.") from None
    return type(module)


def local_path(path: str) -> Path | None:
    """Return the file or folder that a path names; None for a name on the Hub.

    Raises:
        OptionError: it is a path by its form, and not there.
    """
    place = Path(path).expanduser().resolve()
    if (place.suffix == ".py" and place.is_file()) or (place / f"{place.name}.py").is_file():
        return place
    path_like = path.count("/") > 1 or path.startswith((".", "/", "~")) or place.suffix == ".py"
    if place.exists() or path_like:
        reason = "it is no .py file" if place.exists() else "there is no such file or folder"
        reason = f"it holds no {place.name}.py" if place.is_dir() else reason
        raise OptionError(
            f"{WHERE}: {path}: {reason} (looked at {place}). Give the module's .py file, or a "
            "folder that holds one of the folder's own name."
        )
    return None


def space_of(name: str) -> str:
    """Return the Hub's space of a module; those without an owner are the library's own."""
    return name if "/" in name else f"evaluate-metric/{name}"


def hub_trouble(name: str) -> str:
    """Tell why the Hub does not answer; empty where it does.

    Raises:
        OptionError: it has no such module.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().space_info(space_of(name), timeout=TIMEOUT)
    except (HFValidationError, RepositoryNotFoundError):
        raise OptionError(
            f"{WHERE}: there is no file or folder {name}, and the Hub has no metric module "
            f"{space_of(name)}. Its own are listed at https://huggingface.co/evaluate-metric; a "
            "file on disk is given by its path, as in evaluate:path/to/module.py."
        ) from None
    except Exception as error:  # offline, a Hub in trouble, or what its HTTP library raises
        return type(error).__name__
    return ""


@contextmanager
def offline(yes: bool) -> Iterator[None]:
    """Keep `evaluate` to its cache inside a block: its own timeouts are minutes."""
    from evaluate import config

    before = config.HF_EVALUATE_OFFLINE
    config.HF_EVALUATE_OFFLINE = before or yes
    try:
        yield
    finally:
        config.HF_EVALUATE_OFFLINE = before


def missing(name: str, trouble: str) -> str:
    """Say that a module cannot be fetched, and how to do without the network."""
    why = f"the Hub does not answer ({trouble})" if trouble else "the Hub does not give it"
    file = f"{name.rpartition('/')[2]}.py"
    return (
        f"{WHERE}: {name} cannot be loaded: there is no file or folder of that name, {why}, and "
        f"the cache of `evaluate` does not hold it. Where there is a network, download {file} "
        f"from https://huggingface.co/spaces/{space_of(name)}, and give the copy's path: "
        f"evaluate:path/to/{file}."
    )


def told(error: Exception) -> str:
    """Tell an error of others in one line."""
    reason = " ".join(str(error).split())[:400].rstrip(".")
    return f"{type(error).__name__}{': ' if reason else ''}{reason}"


def form_of(features: Any) -> str | None:
    """Tell how a module takes predictions: `pictures`, `rows` (lists of lists) or `pixels`.

    None for what label maps cannot be turned into.
    """
    if set(features) != INPUTS:
        return None
    forms = {_form(feature) for feature in features.values()}
    return forms.pop() if len(forms) == 1 else None


def _form(feature: Any) -> str | None:
    if type(feature).__name__ == "Image":
        return "pictures"
    depth = 0
    while isinstance(feature, list) or hasattr(feature, "feature"):  # two ways to write a list
        feature = feature[0] if isinstance(feature, list) else feature.feature
        depth += 1
    number = type(feature).__name__ in ("Value", "ClassLabel")
    return {0: "pixels", 2: "rows"}.get(depth) if number else None


def arguments(kind: Any, path: str, known: Mapping[str, Any], typed: Mapping[str, Any]) -> Any:
    """Choose what the module's compute is given beside predictions and references.

    Args:
        kind: the module's class.
        path: as it was typed.
        known: what can be told, by the usual names; left out where compute does not take it.
        typed: what the user asked for; it wins.

    Returns:
        A dict.

    Raises:
        OptionError: compute does not take what was typed, or needs more.
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
            f"{WHERE}: kwargs: {path} takes no {', '.join(unknown)}. Known: {', '.join(names)}."
        )
    given = {name: value for name, value in known.items() if name in names} | dict(typed)
    needs = [name for name in names if taken[name].default is inspect.Parameter.empty]
    if lacking := [name for name in needs if name not in given]:
        raise OptionError(
            f"{WHERE}: {path} needs {', '.join(lacking)}; add kwargs={{{lacking[0]}: VALUE}}."
        )
    return given
