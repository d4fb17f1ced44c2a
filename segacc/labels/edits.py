"""Edits of a label map from a file or mapping: redefine, ignore, drop, merge or rename classes."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segacc.contracts import IGNORE
from segacc.errors import (
    DataError,
    OptionError,
    did_you_mean,
    first_of,
    read_text,
    twice_in,
    unknown,
)
from segacc.labels.label_map import Color, LabelMap, ranges, spread_colors
from segacc.labels.names import rgb

QUOTES = (
    "A name must be text: put it in quotes, because YAML converts unquoted yes, no, on, off, "
    "null and numbers."
)


@dataclass
class _Classes:
    """Mutable working copy of a label map. A class that loses its last raw id is removed."""

    raw: dict[str, list[int]]
    """Raw ids by class name, in the order of the classes."""
    palette: dict[str, Color]
    ignored: set[int]
    where: str
    colors: Mapping[Color, int] = field(default_factory=dict)
    empty: Collection[Any] = ()
    """Names of classes that had no raw id from the start; they may be dropped, too."""

    def refuse(self, text: str) -> OptionError:
        return OptionError(f"{self.where}: {text}")

    def take(self, ids: Sequence[int]) -> None:
        """Remove raw ids from the classes or the ignored ids that have them."""
        self.raw = {
            name: left
            for name, owned in self.raw.items()
            if (left := [raw for raw in owned if raw not in ids])
        }
        self.ignored -= set(ids)

    def owner(self, raw: int) -> str | None:
        return next((name for name, owned in self.raw.items() if raw in owned), None)

    def ids(self, given: Any, key: str) -> list[int]:
        """Return the raw ids of a class name, or the raw id itself."""
        if isinstance(given, int) and not isinstance(given, bool):
            if given not in self.ignored and self.owner(given) is None:
                all_ids = self.ignored.union(*self.raw.values())
                known = ranges(dict.fromkeys(all_ids, 0))
                raise self.refuse(f"{key}: there is no raw id {given}. Known: {known}.")
            return [given]
        return self.raw[self.known(given, key)]

    def known(self, name: Any, key: str) -> str:
        """Return `name` if it is the name of a class."""
        if not isinstance(name, str):
            raise self.refuse(f"{key}: {name!r} is neither a class name nor a raw id. {QUOTES}")
        if name not in self.raw:
            raise self.refuse(
                f'{key}: there is no class "{name}". {did_you_mean(name, self.raw)}Known: '
                f"{first_of(self.raw, 20)}."
            )
        return name


def edit(labels: LabelMap, edits: Path | Mapping[str, Any] | None, where: str) -> LabelMap:
    """Apply edits to a label map; the result is stored with the model.

    All keys of `edits` are optional; they are applied in this order:

    1. `classes`: {raw id: class name}, redefines all classes, in this order. A raw id that is not
       listed is an error when a label contains it, except 255 and the ids in `ignore`.
    2. `ignore`: [raw id, ...] are ignored, whether or not the label map has them. Only these may
       be negative.
    3. `drop`: [class name or raw id, ...] are ignored.
    4. `merge`: {new name: [class name or raw id, ...]}, one after the other. An existing class
       of the new name is the first of them. The merged class takes the lowest class index among
       them and the colour of the first.
    5. `rename`: {old name: new name}, all at once.
    6. `palette`: {class name: [r, g, b] or "#rrggbb"}, for rendered pictures.

    A class without raw ids is removed, and the remaining classes are renumbered in the same order.
    `labels.colors`, which maps colours to raw ids, is not changed.

    Args:
        labels: the data set's own map.
        edits: a mapping, or a YAML or JSON file with one; None changes nothing.
        where: origin of the edits for errors, such as `--dataset camvid: map`; a file's path is
            added.

    Raises:
        OptionError: the file cannot be read; an unknown key, class or raw id; a value of the wrong
            form; or classes that are not a valid label map.
    """
    if edits is None:
        return labels
    where = f"{where}={edits}" if isinstance(edits, Path) else where
    given = _read(edits, where) if isinstance(edits, Path) else edits
    state = _Classes(
        {name: _raw_of(labels, k) for k, name in enumerate(labels.names)},
        dict(zip(labels.names, labels.palette, strict=True)),
        {raw for raw, k in labels.classes.items() if k == IGNORE},
        where,
        labels.colors,
    )
    state.empty = [name for name, ids in state.raw.items() if not ids]
    state.raw = {name: ids for name, ids in state.raw.items() if ids}
    for key in given:
        if key not in STEPS:
            raise state.refuse(f"{unknown('key', str(key), STEPS)}.")
    for key, step in STEPS.items():
        if given.get(key) is not None:
            step(state, given[key])
    return _finished(state)


def _raw_of(labels: LabelMap, wanted: int) -> list[int]:
    return [raw for raw, k in labels.classes.items() if k == wanted]


def _read(path: Path, where: str) -> Mapping[str, Any]:
    try:
        text = read_text(path)
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise OptionError(f"{where}: cannot read the file: {error.strerror}.") from None
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        told = " ".join(str(error).split())
        raise OptionError(f"{where}: neither YAML nor JSON: {told}.") from None
    if not isinstance(content, Mapping):
        raise OptionError(
            f"{where}: expected a mapping with some of {', '.join(STEPS)}, found "
            f"{type(content).__name__ if content is not None else 'nothing'}."
        )
    return content


def _classes(state: _Classes, given: Any) -> None:
    """Redefine all classes; each keeps the colour that its name or its first raw id had."""
    named: dict[str, list[int]] = {}
    palette: dict[str, Color] = {}
    of_raw = {raw: color for color, raw in reversed([*state.colors.items()])}
    for key, name in _mapping(state, given, "classes").items():
        raw = _raw_id(state, key, "classes")
        if not isinstance(name, str):
            raise state.refuse(f"classes: the name of raw id {raw} is {name!r}. {QUOTES}")
        if name not in named:
            before = state.palette.get(state.owner(raw) or "", of_raw.get(raw))
            color = state.palette.get(name, before)
            taken = palette.values()
            palette[name] = color if color and color not in taken else _free_color(taken)
        named.setdefault(name, []).append(raw)
    state.raw, state.palette = named, palette
    state.ignored = {IGNORE}.difference(*named.values())


def _free_color(taken: Collection[Color]) -> Color:
    return next(one for one in spread_colors(len(taken) + 2)[1:] if one not in taken)


def _ignore(state: _Classes, given: Any) -> None:
    ids = [_raw_id(state, one, "ignore") for one in _list(state, given, "ignore")]
    state.take(ids)
    state.ignored |= set(ids)


def _drop(state: _Classes, given: Any) -> None:
    some = [
        one for one in _list(state, given, "drop") if one in state.raw or one not in state.empty
    ]
    ids = [raw for one in some for raw in state.ids(one, "drop")]
    state.take(ids)
    state.ignored |= set(ids)


def _merge(state: _Classes, given: Any) -> None:
    for name, members in _mapping(state, given, "merge").items():
        key = f"merge: {name}"
        if not isinstance(name, str):
            raise state.refuse(f"merge: the new name is {name!r}. {QUOTES}")
        found = [(one, state.ids(one, key)) for one in _list(state, members, key)]
        if not found:
            raise state.refuse(f"{key}: the list of classes to merge is empty.")
        if name in state.raw:  # an existing class of the new name is kept
            found.insert(0, (name, state.raw[name]))
        _join(state, name, found)


def _join(state: _Classes, name: str, found: list[tuple[Any, list[int]]]) -> None:
    owners = [owner for _, ids in found if (owner := state.owner(ids[0])) is not None]
    order = list(state.raw)
    first = min((order.index(owner) for owner in owners), default=len(order))
    ids = list(dict.fromkeys(raw for _, some in found for raw in some))
    state.take(ids)
    if owners and owners[0] not in state.raw:
        state.palette[name] = state.palette[owners[0]]
    else:  # only a part of a class, which keeps its own colour
        state.palette[name] = _free_color(state.palette.values())
    front = {other: state.raw[other] for other in order[:first] if other in state.raw}
    state.raw = {**front, name: ids, **state.raw}


def _rename(state: _Classes, given: Any) -> None:
    new: dict[str, str] = {}
    for old, name in _mapping(state, given, "rename").items():
        if not isinstance(name, str):
            raise state.refuse(f"rename: the new name of {old} is {name!r}. {QUOTES}")
        new[state.known(old, "rename")] = name
    names = [new.get(name, name) for name in state.raw]
    if twice := twice_in(names):
        raise state.refuse(
            f'rename: two classes would be called "{twice[0]}". Use merge to combine them.'
        )
    palette = {new.get(name, name): state.palette[name] for name in state.raw}
    state.raw = dict(zip(names, state.raw.values(), strict=True))
    state.palette = palette


def _palette(state: _Classes, given: Any) -> None:
    for name, color in _mapping(state, given, "palette").items():
        try:
            state.palette[state.known(name, "palette")] = rgb(color)
        except ValueError as error:
            hint = "; # starts a comment in YAML outside quotes" if color is None else ""
            raise state.refuse(f"palette: {name}: {error}{hint}.") from None


STEPS: Mapping[str, Callable[[_Classes, Any], None]] = {
    "classes": _classes,
    "ignore": _ignore,
    "drop": _drop,
    "merge": _merge,
    "rename": _rename,
    "palette": _palette,
}
"""The keys, in the order in which they are applied."""


def _mapping(state: _Classes, given: Any, key: str) -> Mapping[Any, Any]:
    if not isinstance(given, Mapping):
        raise state.refuse(f"{key}: expected a mapping, got {given!r}.")
    return given


def _list(state: _Classes, given: Any, key: str) -> Sequence[Any]:
    if not isinstance(given, list | tuple):
        raise state.refuse(f"{key}: expected a list, as in [{given}], got {given!r}.")
    return given


def _raw_id(state: _Classes, given: Any, key: str) -> int:
    """Convert to a raw id; the keys of a JSON object are texts."""
    negative = key == "ignore"
    if isinstance(given, str) and given.removeprefix("-" if negative else "").isdecimal():
        return int(given)
    if isinstance(given, int) and not isinstance(given, bool) and (negative or given >= 0):
        return given
    raise state.refuse(
        f"{key}: {given!r} is not a raw id (an integer{'' if negative else ' >= 0'})."
    )


def _finished(state: _Classes) -> LabelMap:
    classes = {raw: k for k, ids in enumerate(state.raw.values()) for raw in ids}
    classes |= dict.fromkeys(sorted(state.ignored), IGNORE)
    try:
        palette = tuple(state.palette[name] for name in state.raw)
        return LabelMap(tuple(state.raw), classes, palette, state.colors)
    except DataError as error:
        raise state.refuse(str(error)) from None
