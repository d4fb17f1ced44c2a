"""Reads files of class names, and tables of the colours used in label files."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from segacc.contracts import IGNORE
from segacc.errors import DataError, cut, first_of, read_text
from segacc.labels.label_map import Color

NAMES_FORM = (
    'Expected is a text file with one name per line, or JSON such as {"id2label": {"0": "road", '
    '"1": "sky"}}.'
)
COLORS_FORM = (
    "Expected are lines such as `road,128,64,128` or `128 64 128 road`, or JSON such as "
    '{"road": [128, 64, 128], "sky": "#4682b4"}.'
)
COLUMNS = ("r", "g", "b", "red", "green", "blue")
CVAT = re.compile(r"(.+?):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+):*")
"""A line of CVAT's `labelmap.txt`, such as `road:128,64,128::`."""

NUMBERED = re.compile(r"(?P<id>\d+)(?P<sign>\s*[,;:=\t]\s*|\s*(?:[.)-]|->)?\s+)(?P<name>\S.*)")
"""A line with a number and a name, such as `0 road`, `0: road` or `0. road`."""
NUMBERED_LAST = re.compile(r"(?P<name>\S.*?)\s*[,;:=\t]\s*(?P<id>\d+)")
"""A line with a name and a number, such as `road: 0`."""
COLUMN_WORDS = {
    *("id", "ids", "idx", "index", "number", "value", "pixel", "code", "trainid"),
    *("name", "names", "class", "classes", "label", "labels", "category", "categories"),
}
"""Words of column names in a list of classes."""


UNLABELLED = frozenset(
    (
        *("void", "unlabelled", "unlabeled", "notlabelled", "notlabeled", "nolabel", "unannotated"),
        *("ignore", "ignored", "unknown", "undefined", "unclassified", "unspecified", "dontcare"),
        *("nodata", "invalid", "outofroi", "none", "null"),
    )
)
"""Names, in lower-case letters only, that data sets give to pixels without a label."""


def is_unlabelled(name: str) -> bool:
    """Return whether a class name means `no label`, such as `Void` or `not labelled`."""
    return "".join(filter(str.isalpha, name.lower())) in UNLABELLED


MUCH = 0.1
"""Share of the pixels from which on the raw id 0 is taken for a class."""


def starts_at_one(share: float, zero: int, above: int) -> bool:
    """Return whether 0 may mean `no label`, if labels have one id more than there are classes.

    It may not if it is much of the pixels, and the id above the last class, which then means
    `no label`, is in at least half as many labels.

    Args:
        share: share of the pixels with the raw id 0.
        zero: number of labels that contain 0.
        above: number of labels that contain the id above the last class.
    """
    return share < MUCH or above < zero / 2


@dataclass(frozen=True)
class NamesFile:
    """The contents of a file of class names."""

    names: list[str]
    palette: list[Color] = field(default_factory=list)
    ignored: tuple[int, ...] = ()
    reduce_labels: bool = False
    colors: Mapping[Color, int] = field(default_factory=dict)
    """RGB colour -> raw id, from a colour table."""
    source: str = field(default="", compare=False)
    """The file, for errors."""


def rgb(value: Any) -> Color:
    """Convert to a colour: three integers 0..255, or `#rrggbb`.

    Raises:
        ValueError: the value is not a colour.
    """
    parts: Any = value
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        parts = list(bytes.fromhex(value[1:]))
    if isinstance(parts, list | tuple) and len(parts) == 3:
        r, g, b = parts
        if all(isinstance(part, int) and 0 <= part <= 255 for part in parts):
            return r, g, b
    raise ValueError(f'{value!r} is not a colour: three numbers from 0 to 255, or "#rrggbb"')


def read_names(path: Path, column: str | None = None) -> NamesFile:
    """Read class names from a text file, one per line, or from JSON, which may also give colours.

    In a text file, lines that start with `#` are skipped, and each name may have its number. A YAML
    file has the names under `names`.

    The JSON is `{"id2label": {"0": "road", ...}, "palette": [[r, g, b], ...], "ignore_index": 11,
    "reduce_labels": false}`. Only id2label is required, and the file may contain the id2label
    mapping alone, or a list of names or of objects such as `{"id": 0, "name": "road", "color":
    [r, g, b]}`, which are sorted by `id`. For a data set with several label columns the file may
    map column names to such objects.

    Args:
        path: path of the file.
        column: the label column, if there are several.

    Raises:
        DataError: the file is missing or does not have this form.
    """
    try:
        return replace(_read_names(path, column), source=str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot read the class names: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise DataError(f"{path}: not a list of class names ({told}). {NAMES_FORM}") from None


def _read_names(path: Path, column: str | None) -> NamesFile:
    text = read_text(path)
    if path.suffix in (".yaml", ".yml"):
        content = yaml.load(text, Loader=yaml.BaseLoader)  # which keeps `no` and `1.0` as text
        names = content.get("names", content) if isinstance(content, dict) else content
        return _facts({"id2label": names})
    if path.suffix != ".json":
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if path.suffix == ".csv" and lines and lines[0].lower() in COLUMN_WORDS:
            del lines[0]
        return NamesFile(_names(lines))
    content = json.loads(text)
    if column in content and "id2label" in content[column]:
        content = content[column]
    return _facts(content if "id2label" in content else {"id2label": content})


def _names(lines: list[str]) -> list[str]:
    """Read one name, or a number and a name, per line; the first line may hold column names.

    Raises:
        ValueError: it is ambiguous which part of a line is the name.
    """
    lines = [line for line in lines if not line.startswith("#")]
    for form in (NUMBERED, NUMBERED_LAST):
        found = [form.fullmatch(line) for line in lines]
        header = lines[0] if lines and found[0] is None and _is_header(lines[0]) else ""
        numbered = [(int(one["id"]), one["name"].strip(' "')) for one in found if one]
        if not numbered or len(numbered) + bool(header) < len(lines):
            continue
        if len(re.findall("[,;\t]", header)) > 1:
            raise ValueError(f"{header!r} are more columns than a number and a name")
        if sorted(number for number, _ in numbered) != list(range(len(numbered))):
            raise ValueError("the numbers in its lines do not run from 0 without gaps")
        return [name for _, name in sorted(numbered)]
    for line in lines:
        one = NUMBERED.fullmatch(line)
        if (one and one["sign"].strip()) or re.search(r"[,;]\s*\d+$", line):
            raise ValueError(f"{line!r} has a number beside the name, but not all lines have one")
        if CVAT.fullmatch(line):
            raise ValueError(f"{line!r} has a colour; a table of colours is given with colors=")
    return [line.strip('",; ') for line in lines]


def _is_header(line: str) -> bool:
    words = re.findall(r"[a-z]+", line.lower())
    return bool(re.search("[,;:\t]", line) or (words and COLUMN_WORDS.issuperset(words)))


def read_colors(path: Path) -> NamesFile:
    """Read a table of class names and the colours that stand for them in label files.

    A text file has one class per line, `name,r,g,b` or `r g b name`, separated by commas,
    semicolons or spaces; the first line may hold column names, and lines that start with `#` are
    skipped. JSON is `{name: [r, g, b] or "#rrggbb", ...}`, `[{"name": ..., "color": ...}, ...]`, or
    the format of `read_names` with a `palette`, in which `ignore_color` may be the colour of
    `ignore_index`. A name that occurs several times has several colours. Raw ids number the names
    from 0 (or are the ids of id2label).

    Raises:
        DataError: the file is missing, does not have this form, or two names have the same colour.
    """
    try:
        return replace(_read_colors(path), source=str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot read the colour table: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a table of colours ({error}). {COLORS_FORM}") from None


def _read_colors(path: Path) -> NamesFile:
    text = read_text(path)
    if path.suffix != ".json":
        return _table(_lines(text))
    content = json.loads(text)
    if isinstance(content, list):
        content = _by_id(_ids(content) or range(len(content)), content)
        return _table([(_name(one), rgb(one["color"])) for one in content])
    if "id2label" in content:
        return _with_colors(_facts(content), content)
    return _table([(str(name), rgb(color)) for name, color in content.items()])


def _facts(content: Mapping[str, Any]) -> NamesFile:
    classes = _listed(content["id2label"])
    names = [_name(one) for one in classes]
    own = [one["color"] for one in classes if isinstance(one, dict) and "color" in one]
    palette = [rgb(color) for color in _listed(content.get("palette") or own)[: len(names)]]
    ignored = content.get("ignore_index")
    reduce_labels = bool(content.get("reduce_labels", False))
    return NamesFile(names, palette, () if ignored is None else (int(ignored),), reduce_labels)


def _with_colors(facts: NamesFile, content: Mapping[str, Any]) -> NamesFile:
    """Use the palette as the colours of the label files."""
    if len(facts.palette) != len(facts.names):
        raise ValueError(f"its palette has {len(facts.palette)} colours, {len(facts.names)} names")
    first = 1 if facts.reduce_labels else 0
    colors = {color: first + k for k, color in enumerate(facts.palette)}
    pairs = list(zip(facts.names, facts.palette, strict=True))
    if content.get("ignore_color") is not None:
        pairs.append(("ignore_color", rgb(content["ignore_color"])))
        nothing = [raw for raw in facts.ignored if raw >= 0] or [0 if first else IGNORE]
        colors[pairs[-1][1]] = nothing[0]
    _refuse_shared_colors(pairs)
    return NamesFile(facts.names, facts.palette, facts.ignored, facts.reduce_labels, colors)


def _table(pairs: list[tuple[str, Color]]) -> NamesFile:
    _refuse_shared_colors(pairs)
    found: dict[str, list[Color]] = {}
    for name, color in pairs:
        found.setdefault(name, []).append(color)
    colors = {color: raw for raw, some in enumerate(found.values()) for color in some}
    return NamesFile(list(found), [some[0] for some in found.values()], colors=colors)


def _refuse_shared_colors(pairs: list[tuple[str, Color]]) -> None:
    owner: dict[Color, str] = {}
    for name, color in pairs:
        if owner.setdefault(color, name) != name:
            raise ValueError(f"{owner[color]} and {name} have the same colour {color}")


def _lines(text: str) -> list[tuple[str, Color]]:
    """Parse the lines of a colour table."""
    found: list[tuple[str, Color]] = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = _fields(line.strip())
        if not fields or line.lstrip().startswith("#"):
            continue
        numbers = [field.isdecimal() for field in fields]
        if not found and not any(numbers):  # column names
            columns = "".join(field[0].lower() for field in fields if field.lower() in COLUMNS)
            if columns == "rgb":
                continue
            raise ValueError(f"line {number} is {line.strip()!r}")
        if len(fields) != 4 or numbers not in ([True] * 3 + [False], [False] + [True] * 3):
            raise ValueError(f"line {number} is {line.strip()!r}")
        name, parts = (fields[3], fields[:3]) if numbers[0] else (fields[0], fields[1:])
        found.append((name, rgb([int(part) for part in parts])))
    if not found:
        raise ValueError("it is empty")
    return found


def _fields(line: str) -> list[str]:
    """Split a line into name and numbers, in either order."""
    if match := CVAT.fullmatch(line):
        return list(match.groups())
    for comma in ",;":
        if comma in line:
            cells = next(csv.reader([line], delimiter=comma, skipinitialspace=True))
            return [cell.strip() for cell in cells]
    words = line.split()
    first = words[:3]
    if len(words) > 4 and all(word.isdecimal() for word in first):  # the name has several words
        return [*first, " ".join(words[3:])]
    if len(words) > 4 and not words[-4].isdecimal():
        return [" ".join(words[:-3]), *words[-3:]]
    return words


def _name(entry: Any) -> str:
    """Return the name of a class, which is a text, or the `name` of an object.

    Raises:
        ValueError: it is neither.
    """
    name = entry.get("name") if isinstance(entry, dict) else entry
    if not isinstance(name, str) or not name.strip():
        told = cut(json.dumps(entry, ensure_ascii=False))
        raise ValueError(f'{told} is no class name: expected a text, or an object with a "name"')
    return name


def _listed(values: Any) -> list[Any]:
    """Return the values of a list or a mapping, in the order of their ids.

    The ids are the keys of a mapping; those of a list are the `id` of its objects, if they have it.

    Raises:
        ValueError: the ids are not 0, 1, ... without gaps, or only some objects have one.
    """
    if isinstance(values, list):
        keys, entries = _ids(values) or list(range(len(values))), values
    else:
        keys, entries = [int(str(key)) for key in values], values.values()
    ordered = _by_id(keys, entries)
    if sorted(keys) != list(range(len(keys))):
        raise ValueError(
            f"ids must be 0..{len(keys) - 1} without gaps, found {first_of(sorted(keys), 20)}"
        )
    for key, one in enumerate(ordered):
        if isinstance(one, dict) and str(one.get("id", key)) != str(key):
            raise ValueError(f"the class with the key {key} has the id {one['id']}")
    return ordered


def _ids(values: list[Any]) -> list[int]:
    """Return the `id` of each object in a list; an empty list if there is none.

    Raises:
        ValueError: only some have one, or one is no number.
    """
    own = [int(str(one["id"])) for one in values if isinstance(one, dict) and "id" in one]
    if own and len(own) < len(values):
        raise ValueError('some of its classes have an "id", others have none')
    return own


def _by_id(ids: Sequence[int], values: Iterable[Any]) -> list[Any]:
    return [one for _, one in sorted(zip(ids, values, strict=True), key=lambda pair: pair[0])]
