"""The classes of a `mix`: those of several data sets, unified by name."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from segacc.contracts import IGNORE
from segacc.errors import DataError
from segacc.hookspecs import DataSplits
from segacc.labels import Color, LabelMap, edit, spread_colors

WHERE = "--dataset mix"
KEPT = 16
"""Label maps of single samples that are kept translated."""


@dataclass(frozen=True)
class Translation:
    """From the classes of one set to those of the mix."""

    whole: LabelMap
    """The mix's own."""
    classes: tuple[int | None, ...]
    """For each class of the set its class in the mix, 255 where it is ignored, or None where its
    raw ids are errors."""
    kept: list[tuple[LabelMap, LabelMap]] = field(default_factory=list, compare=False)
    """What was translated last: samples share few maps, and each map keeps tables."""

    def of(self, labels: LabelMap) -> LabelMap:
        """Return a map of the set's raw ids to the classes of the mix."""
        for before, after in self.kept:
            if before is labels:
                return after
        found = {
            raw: IGNORE if k == IGNORE else self.classes[k] for raw, k in labels.classes.items()
        }
        classes = {raw: k for raw, k in found.items() if k is not None}
        classes = classes or {IGNORE: IGNORE}  # every other raw id is an error
        names, palette = self.whole.names, self.whole.palette
        translated = replace(labels, names=names, classes=classes, palette=palette)
        self.kept[KEPT - 1 :] = []
        self.kept.insert(0, (labels, translated))
        return translated


def unify(parts: Sequence[DataSplits], options: Any) -> tuple[LabelMap, tuple[Translation, ...]]:
    """Unify class sets by name, in order of first appearance, and edit what comes out.

    Args:
        parts: the data sets.
        options: MixOptions, of which `classes` and `map` count here.

    Returns:
        The mix's own map, and the way to it from each part's classes.

    Raises:
        SegaccError: the classes together are too many or too few, or `map` does not fit them.
    """
    names = list(dict.fromkeys(name for part in parts for name in part.labels.names))
    if options.classes == "common":
        names = _common(parts, names)
    try:
        joined = LabelMap.plain(names, palette=_palette(parts, names))
    except DataError as error:
        raise DataError(f"{WHERE}: the classes of all sets: {error}") from None
    edited = edit(joined, options.map, f"{WHERE}: map")
    whole = LabelMap.plain(edited.names, palette=edited.palette)
    place = {name: edited.classes.get(k) for k, name in enumerate(names)}
    rows = [tuple(place.get(name, IGNORE) for name in part.labels.names) for part in parts]
    return whole, tuple(Translation(whole, row) for row in rows)


def _common(parts: Sequence[DataSplits], names: Sequence[str]) -> list[str]:
    """Choose the classes that all sets have."""
    shared = [name for name in names if all(name in part.labels.names for part in parts)]
    if len(shared) < 2:
        told = f"only {shared[0]}" if shared else "no class"
        raise DataError(
            f"{WHERE}: classes=common: the {len(parts)} sets share {told}, and a network needs "
            "two. Rename classes of a set with its map, or leave classes=common out."
        )
    return shared


def _palette(parts: Sequence[DataSplits], names: Sequence[str]) -> list[Color]:
    """Give each class the colour of the first set that has it, or a free one where it is taken."""
    first: dict[str, Color] = {}
    for part in parts:
        for name, color in zip(part.labels.names, part.labels.palette, strict=True):
            first.setdefault(name, color)
    wanted = {first[name] for name in names}
    free = iter([one for one in spread_colors(3 * IGNORE)[1:] if one not in wanted])
    palette: list[Color] = []
    for name in names:
        palette.append(next(free) if first[name] in palette else first[name])
    return palette
