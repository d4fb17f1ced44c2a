"""Parse text into typed options: the `name:key=value,...` grammar, and `decode` on pydantic."""

import ast
import dataclasses
import functools
import inspect
import math
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BeforeValidator, PositiveInt, TypeAdapter, ValidationError

from segacc.errors import OptionError, cut, did_you_mean, expand, quoted

T = TypeVar("T")


def _size(value: Any) -> Any:
    """Accept 256, "256" and "320x416" for a (height, width) pair."""
    if isinstance(value, str):
        value = value.lower().split("x")
    if isinstance(value, int):
        value = [value]
    if isinstance(value, list | tuple) and len(value) == 1:
        return (value[0], value[0])
    return value


Size = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(_size)]
"""(height, width) in pixels; typed as `256` or `320x416`."""


CLOSING = {"[": "]", "{": "}", "'": "'", '"': '"'}
"""Ends of the values that are parsed as YAML, by their first character."""
LARGEST = 2**53
"""No number is larger: steps and sizes are counted in floats, too."""
INTEGER = "tag:yaml.org,2002:int"
"""YAML's tag of integers."""
ARTICLE = ("number", "list", "mapping", "path")
"""First words of `type_text` that take an article."""
TOLD_BY_TYPE = (
    *("bool_parsing", "bool_type", "float_parsing", "float_type", "int_from_float", "int_parsing"),
    *("greater_than", "greater_than_equal", "less_than", "less_than_equal", "int_type"),
    *("dict_type", "literal_error", "path_type", "string_type", "too_long", "tuple_type"),
)
"""Pydantic's errors that repeat what `type_text` says."""


class PlainYaml(yaml.SafeLoader):
    """A YAML loader that reads 010 as 10, not 8, and 1:30 as text, not as 90."""


PlainYaml.yaml_implicit_resolvers = {
    first: [row for row in rows if row[0] != INTEGER]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainYaml.add_implicit_resolver(INTEGER, re.compile(r"[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
PlainYaml.add_constructor(INTEGER, lambda _, node: int(node.value.replace("_", "")[:100]))


@dataclasses.dataclass(frozen=True)
class Component:
    """A component as the user wrote it: its name, option values, and flag or key."""

    name: str
    values: Mapping[str, Any]
    where: str

    @property
    def label(self) -> str:
        """Return how errors begin, as `--optimizer sgd` or `run.yaml: arch (dpt)`."""
        name = cut(self.name)
        named = name if self.where.startswith("--") else f"({name})"
        return f"{self.where} {named}"


@dataclasses.dataclass(frozen=True)
class OptionDoc:
    """One field of an options class, described for help and tables."""

    name: str
    type: str
    default: Any
    doc: str


@dataclasses.dataclass(frozen=True)
class Listed:
    """An optimizer, schedule or protocol, described for `segacc plugins`."""

    name: str
    summary: str
    options: Sequence[OptionDoc]


def parse_component(given: Any, where: str) -> Component:
    """Parse `name:key=value,...` or a mapping with the key `name`.

    A first value without a key, as in `folder:data/camvid`, is stored under the key "" for
    `decode`. A value that starts with `[`, `{` or a quote is parsed as YAML, so it may contain
    commas.

    Raises:
        OptionError: the text or mapping does not follow the grammar.
    """
    if isinstance(given, Mapping):
        values = {str(key).replace("-", "_"): value for key, value in given.items()}
        name = values.pop("name", None)
        if not isinstance(name, str):
            raise OptionError(
                f"{where}: a mapping needs the key `name`, as in {{name: segformer, variant: b0}}; "
                f"found the keys {cut(', '.join(map(str, given))) or 'none'}."
            )
        return Component(name, values, where)
    if not isinstance(given, str) or not given.strip():
        raise OptionError(
            f"{where}: expected a name such as `segformer:variant=b0`, got {quoted(given)}."
        )
    name, _, rest = given.strip().partition(":")
    values = {}
    for index, item in enumerate(_split(rest)):
        key, equals, value = item.partition("=")
        if index == 0 and not equals:
            key, equals, value = "", "=", item
        elif not equals or not key.strip():
            raise OptionError(
                f"{where}: cannot read {quoted(item)} in {quoted(given)}. Options are written "
                "`name:key=value,key=value`; a value with commas goes in quotes or brackets."
            )
        if (key := key.strip().replace("-", "_")) in values:
            raise OptionError(f"{where}: the option {key!r} is given twice in {quoted(given)}.")
        values[key] = _read_value(value.strip(), f"{where}: {key}")
    return Component(name.strip(), values, where)


def _read_value(text: str, where: str) -> Any:
    """Parse a value as YAML if it is enclosed in brackets or quotes, unlike `[2024] scans`."""
    end = CLOSING.get(text[:1], "")
    if not end or (end in text[1:] and not text.endswith(end)):
        return text
    try:
        return yaml.load(text, Loader=PlainYaml)
    except yaml.YAMLError:
        raise OptionError(f"{where}: a quote or bracket in {quoted(text)} is not closed.") from None


def _split(text: str) -> list[str]:
    """Split at commas, except inside a value that starts with a quote or bracket."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if char == "," and not depth and not quote:
            parts.append("")
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and (depth or parts[-1].rstrip().endswith("=")):
            quote = char
        elif depth or parts[-1].rstrip().endswith("="):
            depth = max(0, depth + (char in "[{") - (char in "]}"))
        parts[-1] += char
    return [part for part in parts if part.strip()]


def decode(cls: type[T], values: Mapping[str, Any], where: str, *, others: Sequence[str] = ()) -> T:
    """Convert texts and YAML values to a validated instance of the dataclass `cls`.

    A text given for a tuple is split at `/`, as in `ignore=0/11`. Keys in `others` are decoded
    elsewhere; the error for an unknown key lists them too.

    Raises:
        OptionError: unknown key, wrong type or value out of range; the message starts with `where`.
    """
    values, names = name_first(cls, values, where), [one.name for one in _fields(cls)]
    names += others
    for key in values:
        if key not in names:
            known = f"Known: {', '.join(names)}." if names else "It has no options."
            raise OptionError(
                f'{where}: unknown option "{cut(key)}". {did_you_mean(key, names)}{known}'
            )
    hints = typing.get_type_hints(cls, include_extras=True)
    ready = {key: _ready(value, hints[key], f"{where}: {key}") for key, value in values.items()}
    try:
        checked: T = _adapter(cls).validate_python(ready)  # type: ignore[arg-type]
    except ValidationError as error:
        raise OptionError(f"{where}: {explain(error, hints)}") from None
    for one in _fields(cls):
        _refuse_huge(getattr(checked, one.name), hints[one.name], f"{where}: {one.name}")
    return checked


def name_first(cls: type[Any], values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Assign the value without a key to the first option, if that option is required.

    Raises:
        OptionError: the first option is not required, or it is given by name as well.
    """
    if "" not in values:
        return values
    first = next((one.name for one in _fields(cls) if _default(one) == "required"), None)
    if first is None or first != _fields(cls)[0].name:
        raise OptionError(
            f"{where}: cannot read {quoted(values[''])}. Options are written "
            "`name:key=value,key=value`; a value with commas goes in quotes or brackets."
        )
    if first in values:
        raise OptionError(
            f'{where}: "{first}" is given twice: {quoted(values[""])} and {quoted(values[first])}.'
        )
    return {first if key == "" else key: value for key, value in values.items()}


def _fields(cls: type[Any]) -> "tuple[dataclasses.Field[Any], ...]":
    return dataclasses.fields(cls)


def check_value(hint: Any, value: Any, where: str) -> Any:
    """Convert one text or YAML value to the type `hint`.

    Raises:
        OptionError: wrong type or out of range; the message starts with `where`.
    """
    try:
        checked = TypeAdapter(hint).validate_python(_ready(value, hint, where))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise OptionError(f"{where}: {expected(hint, quoted(value), problem)}.") from None
    _refuse_huge(checked, hint, where)
    return checked


def _refuse_huge(value: Any, hint: Any, where: str) -> None:
    """Refuse numbers that Python reads, but numpy and torch cannot represent.

    Raises:
        OptionError: a number is beyond LARGEST.
    """
    for part in value if isinstance(value, tuple) else (value,):
        if isinstance(part, int | float) and LARGEST < abs(part) < math.inf:
            raise OptionError(
                f"{where}: {expected(hint, quoted(part))}, which is larger than {LARGEST}."
            )


def expected(hint: Any, found: str, problem: Any = None) -> str:
    """Return `expected a number > 0; found -1`, with pydantic's reason where that is not all."""
    text = type_text(hint)
    first = text.split()[0]
    article = "an " if first == "integer" else "a " if first in ARTICLE else ""
    reason = ""
    if problem is not None and problem["type"] == "finite_number":
        text = text.replace("number", "finite number")
    elif problem is not None and problem["type"] not in TOLD_BY_TYPE:
        message = problem["msg"].removeprefix("Value error, ")
        reason = f": {message[:1].lower()}{message[1:]}"
    return f"expected {article}{text}{reason}; found {found}"


@functools.cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _ready(value: Any, hint: Any, where: str) -> Any:
    """Split a text given for a tuple, convert a text to a Literal's value, and expand `~`."""
    if isinstance(value, str | Path) and Path in (hint, *typing.get_args(hint)):
        return expand(value, where)
    many = typing.get_origin(hint) is tuple and typing.get_args(hint)[-1:] == (Ellipsis,)
    if not isinstance(value, str):
        alone = many and isinstance(value, int | float) and not isinstance(value, bool)
        return [value] if alone else value
    named = {str(choice): choice for choice in literal_choices(hint)}
    return value.split("/") if many else named.get(value, value)


def literal_choices(hint: Any) -> tuple[Any, ...]:
    """Return the values that a Literal (or optional Literal) allows; empty for any other type."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = [part for part in typing.get_args(hint) if part is not type(None)] if union else [hint]
    literal = len(parts) == 1 and typing.get_origin(parts[0]) is typing.Literal
    return typing.get_args(parts[0]) if literal else ()


def explain(error: ValidationError, hints: Mapping[str, Any]) -> str:
    """Describe each validation error in one sentence: what was given and what is expected."""
    told = {}
    for problem in error.errors(include_url=False):
        if not problem["loc"]:  # the combination of options is invalid
            told[""] = problem["msg"].removeprefix("Value error, ")
            continue
        key = str(problem["loc"][0])
        if problem["type"] == "missing":
            told[key] = f'the option "{key}" is required ({type_text(hints[key])})'
        else:
            told[key] = f"{key}: {expected(hints[key], quoted(problem['input']), problem)}"
    return ". ".join(told.values()) + "."


def describe(cls: type[Any], docs: Mapping[str, str] | None = None) -> list[OptionDoc]:
    """Return the fields of an options dataclass with `docs`, or the docstrings under them."""
    hints = typing.get_type_hints(cls, include_extras=True)
    docs = field_docs(cls) if docs is None else docs
    return [
        OptionDoc(f.name, type_text(hints[f.name]), _default(f), docs.get(f.name, ""))
        for f in dataclasses.fields(cls)
    ]


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "required" if field.default is dataclasses.MISSING else field.default


def field_docs(cls: type[Any]) -> dict[str, str]:
    """Read the docstrings under the fields of a dataclass from its source."""
    docs = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs.update(class_docs(base))
    return docs


def class_docs(cls: type[Any]) -> dict[str, str]:
    """Read the docstrings under the annotated names of one class from its source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for node, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    docs[node.target.id] = " ".join(text.split())
    return docs


def type_text(hint: Any) -> str:
    """Describe a type as help shows it: `number > 0`, `one of b0, b1`, `HEIGHTxWIDTH`."""
    if hint == Size:
        return "SIZE or HEIGHTxWIDTH in pixels > 0"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        limits = [limit for meta in args[1:] for limit in _limits(meta)]
        return " ".join([type_text(args[0]), " and ".join(limits)]).rstrip()
    if origin is typing.Literal:
        return "one of " * (len(args) > 1) + ", ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(arg) for arg in args if arg is not type(None))
    if origin is dict:
        return "mapping"
    if origin is tuple:
        return "list of " + re.sub("^(number|integer)", r"\1s", type_text(args[0]))
    plain = {bool: "true or false", int: "integer", float: "number", str: "text"}
    return plain.get(hint, "path" if getattr(hint, "__name__", "") == "Path" else "text or mapping")


def _limits(meta: Any) -> list[str]:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = [f"{sign} {getattr(meta, name)}" for name, sign in signs.items() if hasattr(meta, name)]
    return [limit for limit in found if "None" not in limit]
