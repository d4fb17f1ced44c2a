"""Sources of settings: YAML files and flags, merged in order, and the --augment pipelines."""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from segacc.errors import OptionError, SegaccError, cut, quoted, read_text, unknown
from segacc.settings.config import TrainConfig
from segacc.settings.options import PlainYaml, check_value, expected, literal_choices
from segacc.settings.secrets import without_secrets
from segacc.settings.synonyms import suggest_key

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])

ABOUT_THE_PLACE = ("output_dir", "resume", "resume_anyway", "overwrite")
"""Settings that say where a run is stored, not what is trained; config.yaml omits them."""

EITHER = (
    *(("epochs", "max_steps", "max_time"), ("aug", "augment")),
    ("gradient_accumulation_steps", "total_batch_size"),
)
"""Alternative settings: at most one of each group is given, and it replaces the others."""

NUMBER = re.compile(r"# The (\d+) effective settings")
"""Finds the number of settings in the first line of a config.yaml."""

FLAG = re.compile(r"`[^`]*`|--(?P<flag>[a-z][a-z-]*)(?P<value> (?=[0-9]|[A-Z]+\b))?")
"""Finds a flag in an error, with the space before a number or a word like N; or a command."""

AUGMENT: Mapping[str, tuple[str, ...]] = {
    "light": ("random_scale_crop", "flip"),
    "standard": ("random_scale_crop", "flip", "color_jitter"),
    "strong": (
        "random_scale_crop",
        "flip",
        "class_mix:p=0.5",
        "random_erasing:p=0.25,area_max=0.1",
        "gaussian_blur:p=0.2,sigma_max=1.5",
        "photometric_distortion",
    ),
}
"""The augmentation pipelines of TrainConfig.augment. The crop comes first, so that all later steps
process only the pixels that are trained on, and those that mix samples get crops of equal size."""


POSITIONAL = ("model", "folder", "repo", "source", "target")
"""What the commands take without a flag."""


def flag(key: str) -> str:
    """Return how a value is typed in a command line, as `--eval-batch-size` or `MODEL`."""
    return key.upper() if key in POSITIONAL else f"--{key.replace('_', '-')}"


@dataclass(frozen=True)
class Layer:
    """Values from one source; `where` returns the name of a value as the user typed it."""

    values: Mapping[str, Any]
    source: str
    """A file's path, `command line`, or a function of the Python API."""

    def where(self, key: str) -> str:
        """Return the flag, or file and key, of a value."""
        return flag(key) if self.source == "command line" else f"{self.source}: {key}"


@dataclass(frozen=True)
class Settings:
    """A validated configuration, and the origin of each value that is not a default."""

    config: TrainConfig
    origins: Mapping[str, str] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """Return the origin of a value, for an error message."""
        return self.origins.get(key, f"the default of {flag(key)}")

    def chosen(self, reasons: Mapping[str, tuple[Any, str]]) -> "Settings":
        """Fill in values that segacc chose: name -> (value, reason)."""
        values = {key: value for key, (value, _) in reasons.items()}
        origins = {key: f"chosen: {reason}" for key, (_, reason) in reasons.items()}
        return Settings(dataclasses.replace(self.config, **values), {**self.origins, **origins})


def merge(layers: Sequence[Layer]) -> Settings:
    """Merge the sources, later over earlier, and validate each value.

    Raises:
        OptionError: an unknown key, an invalid value, or two settings that exclude each other.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for pair in EITHER:
            given = [key for key in pair if layer.values.get(key) is not None]
            if len(given) > 1:
                told = " and ".join(layer.where(key) for key in given)
                raise OptionError(f"{told} exclude each other; give one.")
            if given:
                values = {key: value for key, value in values.items() if key not in pair}
                origins = {key: where for key, where in origins.items() if key not in pair}
        values |= check_layer(TrainConfig, layer)
        origins |= {key: layer.where(key) for key in layer.values}
    return Settings(TrainConfig(**values), origins)


def check_layer(cls: type[Any], layer: Layer) -> dict[str, Any]:
    """Validate and convert the values of one source, as fields of the dataclass `cls`.

    Raises:
        OptionError: an unknown key or an invalid value; the message names where it was given.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    for key in layer.values:
        if key not in hints:
            raise OptionError(
                f'{layer.source}: unknown key "{cut(key)}". '
                f"{suggest_key(key, hints)}"
                "`python -m segacc --help` lists all settings."
            )
    return {
        key: check_value(hints[key], _ready(hints[key], key, value, layer), layer.where(key))
        for key, value in layer.values.items()
    }


def config_of(cls: type[C], layer: Layer, *, but: Sequence[str] = ()) -> C:
    """Return the settings of a command, such as an EvaluateConfig, from its flags or keywords.

    Args:
        cls: the dataclass of the settings.
        layer: the given values.
        but: names of settings that cannot be given here.

    Raises:
        OptionError: a name is unknown, a value is invalid, or the data set is missing.
    """
    names = [one.name for one in dataclasses.fields(typing.cast(Any, cls)) if one.name not in but]
    for key in layer.values:
        if key not in names:
            raise OptionError(f"{layer.source}: {unknown('setting', key, names)}.")
    if "dataset" in names and "dataset" not in layer.values:
        example = "`--dataset folder:root=data/camvid`"
        if layer.source != "command line":
            example = '`dataset="folder:root=data/camvid"`'
        raise OptionError(f"{layer.where('dataset')} must be given, as in {example}.")
    return cls(**check_layer(cls, layer))


def keywords_of(cls: type[Any], *, but: Sequence[str] = ()) -> Callable[[F], F]:
    """Decorate a function whose `**settings` are fields of a dataclass.

    `help` then lists them, and errors name settings as in Python, see `as_keywords`.

    Args:
        cls: the dataclass of the settings.
        but: names of settings that the function does not take.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind != one.VAR_KEYWORD]
        kind, absent = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
        for name, hint in typing.get_type_hints(cls).items():
            if name not in (*but, *signature.parameters):
                default = getattr(cls, name, absent)
                own.append(inspect.Parameter(name, kind, default=default, annotation=hint))

        @functools.wraps(function)
        def called(*given: Any, **settings: Any) -> Any:
            with as_keywords(cls):
                return function(*given, **settings)

        changed: Any = called
        changed.__signature__ = signature.replace(parameters=own)
        return typing.cast(F, called)

    return decorate


@contextmanager
def as_keywords(cls: type[Any]) -> Iterator[None]:
    """Name settings in errors as in Python: `lr` for `--lr`, and `epochs=N` for `--epochs N`.

    Commands in backticks stay as they are.

    Args:
        cls: the dataclass of the settings.
    """
    names = {one.name for one in dataclasses.fields(cls)}

    def named(found: re.Match[str]) -> str:
        name = (found["flag"] or "").replace("-", "_")
        return f"{name}{'=' * bool(found['value'])}" if name in names else found[0]

    try:
        yield
    except SegaccError as error:
        error.args = (FLAG.sub(named, str(error)), *error.args[1:])
        raise


def _ready(hint: Any, key: str, value: Any, layer: Layer) -> Any:
    """Accept a single YAML value for a list, a bare `no` (false in YAML) for "no", and a Path.

    Raises:
        OptionError: true or false was given for another type; pydantic would convert them to 1 and
            0.
    """
    if isinstance(value, Path):
        return str(value)  # in Python; most settings that may be a path are text
    if isinstance(value, bool) and hint is not bool:
        if not value and "no" in literal_choices(hint):
            return "no"
        raise OptionError(f"{layer.where(key)}: {expected(hint, str(value).lower())}.")
    many = typing.get_origin(hint) is tuple and typing.get_args(hint)[-1] is ...
    return [value] if many and isinstance(value, str | dict) else value


class UniqueKeys(PlainYaml):
    """A YAML loader that rejects duplicate keys (`-` equals `_`); others keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a duplicate key raises yaml.MarkedYAMLError."""
        seen = set()
        for key, _ in node.value:
            name = str(self.construct_object(key, deep=True)).replace("-", "_")
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f'the key "{name}" is given twice', problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, where: str = "--config") -> Layer:
    """Read a YAML file of settings; `where` is the flag that named it.

    Raises:
        OptionError: the file is missing, is not YAML, or does not contain a mapping.
    """
    try:
        text = read_text(path, special=True)
        content = yaml.load(text, Loader=UniqueKeys)
    except OSError as error:
        raise OptionError(f"{where} {path}: {error.strerror}.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise OptionError(f"{where} {path}: not YAML: {line}{error.problem}.") from None
    except yaml.YAMLError as error:
        raise OptionError(f"{where} {path}: not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        found = {list: "a list", type(None): "nothing"}.get(type(content), quoted(content))
        raise OptionError(f"{where} {path}: expected lines like `arch: segformer`, found {found}.")
    if where != "--config":
        _refuse_cut(text, len(content), f"{where} {path}")
    return Layer({str(key).replace("-", "_"): value for key, value in content.items()}, str(path))


def _refuse_cut(text: str, count: int, where: str) -> None:
    """Refuse a run's config.yaml that was cut off; defaults would fill what is missing.

    Raises:
        OptionError: settings are missing, or the end of the last one.
    """
    whole = NUMBER.match(text)
    if whole and (count < int(whole[1]) or not text.endswith("\n")):
        raise OptionError(
            f"{where}: it was cut off: {count} of its {whole[1]} settings are there. Copy it "
            "again; or remove its first line, and the others get their defaults."
        )


def to_yaml(settings: Settings) -> str:
    """Return the effective settings as YAML with the origin of each; `read_yaml` accepts it."""
    values = plain_values(settings)

    def origin(name: str) -> str:
        return without_secrets(settings.origins.get(name, "default"))

    lines = [f"# The {len(values)} effective settings of this run; `--config` accepts this file."]
    for name, value in values.items():
        text = (
            yaml.safe_dump(value, default_flow_style=True, width=10**6)
            .removesuffix("\n...\n")
            .strip()
        )
        lines.append(f"{f'{name}: {text}':<44} # {origin(name)}")
    return "\n".join(lines) + "\n"


def plain_values(settings: Settings) -> dict[str, Any]:
    """Return what config.yaml holds: numbers, text without secrets, lists and dictionaries."""
    values = {f.name: getattr(settings.config, f.name) for f in dataclasses.fields(TrainConfig)}
    either = {name for names in EITHER for name in names}
    return {
        name: plain(value)
        for name, value in values.items()
        if name not in ABOUT_THE_PLACE and not (value is None and name in either)
    }


def plain(value: Any) -> Any:
    """Return a setting as JSON and YAML hold it, without secrets."""
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return without_secrets(str(value)) if isinstance(value, str | Path) else value
