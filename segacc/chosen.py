"""A component that was named: its record and the options it will be built with."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segacc.errors import OptionError
from segacc.hookspecs import USUAL, DataSplits, Reading
from segacc.options import decode, name_first
from segacc.registry import Registry
from segacc.samples import read_as


@dataclass(frozen=True)
class Chosen:
    """A record and the options it will be built with."""

    record: Any
    options: Any
    text: str
    """As `name:key=value,...`."""
    parts: "tuple[Chosen, ...]" = ()
    """Of a data set that is made of others: these."""
    reading: Reading = USUAL
    """Of a data set's images."""

    @property
    def name(self) -> str:
        """The record's name."""
        return str(self.record.name)

    def splits(self) -> DataSplits:
        """Build the data set, its parts first.

        Raises:
            DataError: it is not there, or not what it should be.
        """
        if self.record.parts is None:
            return read_as(self.reading, self.record.build(self.options))
        parts = tuple(part.splits() for part in self.parts)
        return read_as(self.reading, self.record.build(self.options, parts))

    @property
    def bits(self) -> int:
        """Tell how many bits of 16 the images use; 16 where its parts differ."""
        found = {part.bits for part in self.parts}
        return found.pop() if self.reading.bits == 16 and len(found) == 1 else self.reading.bits


def choose(registry: Registry, kind: str, given: Any, where: str) -> Chosen:
    """Find a component and decode its options.

    Raises:
        SegaccError: unknown name, unknown option, wrong value.
    """
    record, component = registry.component(kind, given, where)
    label = f"{where} {component.name}" if where.startswith("--") else f"{where} ({component.name})"
    given_values = name_first(record.options, component.values, label)
    own = {field.name for field in dataclasses.fields(record.options)}
    common = {field.name for field in dataclasses.fields(Reading)} - own
    common = common if kind == "dataset" else set()
    options = decode(
        record.options, {k: v for k, v in given_values.items() if k not in common}, label
    )
    reading = decode(Reading, {k: v for k, v in given_values.items() if k in common}, label)
    values = ",".join(f"{key}={_text(value)}" for key, value in given_values.items())
    text = f"{component.name}:{values}" if values else component.name
    inner = getattr(record, "parts", None)
    parts = tuple(choose(registry, kind, one, label) for one in inner(options)) if inner else ()
    return Chosen(record, options, text, parts, reading)


def _text(value: Any) -> str:
    """Tell a value as it is typed: a plain list with `/` between its parts."""
    if not isinstance(value, list | tuple) or any(set("/,:") & set(str(part)) for part in value):
        return str(value)
    return "/".join(map(str, value))


def refuse_twins(names: Sequence[str], where: str) -> None:
    """Refuse components of which two bear one name.

    Raises:
        OptionError: so, or there is none at all.
    """
    if not names:
        raise OptionError(f"{where}: at least one is needed.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(f"{where}: {', '.join(twice)} is given twice.")


def options_text(chosen: Chosen) -> dict[str, Any]:
    """Return a component's full options, for segacc.json."""
    return {"name": chosen.text.partition(":")[0], **dataclasses.asdict(chosen.options)}
