"""LabelMap: a data set's raw label ids -> classes 0..K-1 or 255, once, when read; and back."""

import colorsys
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.errors import DataError

if TYPE_CHECKING:
    import numpy as np

IGNORE = 255
"""The class id of a pixel that counts for nothing, everywhere inside segacc."""

Color = tuple[int, int, int]


def spread_colors(count: int) -> tuple[Color, ...]:
    """Return `count` well separated RGB colours; the first is dark grey, as backgrounds are."""
    hues = [
        ((k * 0.618034 + 0.08) % 1.0, (1.0, 0.55, 0.8)[k % 3], (0.95, 1.0, 0.7)[k // 3 % 3])
        for k in range(count)
    ]
    bright = [tuple(round(255 * part) for part in colorsys.hsv_to_rgb(*hue)) for hue in hues]
    return ((60, 60, 60), *((r, g, b) for r, g, b in bright[: count - 1]))


@dataclass(frozen=True)
class LabelMap:
    """The one integer map between the ids in label files and the classes that are trained.

    Attributes:
        names: the K class names.
        classes: raw id -> class 0..K-1, or 255 for a raw id that is ignored; any other raw id is
            an error.
        palette: K RGB colours, 0..255.
    """

    names: tuple[str, ...]
    classes: Mapping[int, int]
    palette: tuple[Color, ...] = field(default=())

    def __post_init__(self) -> None:
        """Fill the palette; refuse a map that the rest of segacc could not hold."""
        if not 2 <= len(self.names) <= IGNORE:
            raise DataError(
                f"A label map needs 2 to {IGNORE} classes, got {len(self.names)}: "
                f"{', '.join(self.names)}. "
                "For one kind of thing, name the background as a class too."
            )
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise DataError(f"Two classes have the same name: {', '.join(twice)}.")
        wrong = {
            raw: k
            for raw, k in self.classes.items()
            if k != IGNORE and not 0 <= k < len(self.names)
        }
        if wrong:
            raise DataError(f"The label map sends raw ids to classes that have no name: {wrong}.")
        if min(self.classes) < 0:
            raise DataError(f"The label map has a negative raw id: {min(self.classes)}.")
        if not self.palette:
            object.__setattr__(self, "palette", spread_colors(len(self.names)))
        if len(self.palette) != len(self.names):
            raise DataError(
                f"The palette has {len(self.palette)} colours for {len(self.names)} classes."
            )

    @classmethod
    def plain(
        cls,
        names: Sequence[str],
        *,
        ignore: Sequence[int] = (),
        reduce_labels: bool = False,
        palette: Sequence[Sequence[int]] = (),
    ) -> "LabelMap":
        """Build the usual map: raw id i is class i, and 255 and the ids in `ignore` are ignored.

        With `reduce_labels`, raw id 0 is ignored and raw id i is class i - 1 (ADE20K's files).
        """
        first = 1 if reduce_labels else 0
        classes = {first + k: k for k in range(len(names))}
        ignored = {raw: IGNORE for raw in (IGNORE, *ignore, *range(first))}
        return cls(tuple(names), {**classes, **ignored}, tuple((r, g, b) for r, g, b in palette))

    @cached_property
    def _table(self) -> "np.ndarray[Any, np.dtype[np.int16]]":
        import numpy as np

        table = np.full(max(self.classes) + 1, -1, dtype=np.int16)
        table[list(self.classes)] = list(self.classes.values())
        return table

    def apply(
        self, raw: "np.ndarray[Any, Any]", where: str
    ) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """Map raw ids (H, W), any integer dtype, to classes (H, W) uint8, 255 ignored.

        Raises:
            DataError: a raw id outside the map; the text names `where`, the ids and the likely
                cure.
        """
        import numpy as np

        outside = raw.min() < 0 or raw.max() >= len(self._table)
        mapped = np.full(raw.shape, -1, np.int16) if outside else self._table[raw]
        if outside or mapped.min() < 0:
            raise DataError(self._complaint(raw, where))
        return mapped.astype(np.uint8)

    def _complaint(self, raw: "np.ndarray[Any, Any]", where: str) -> str:
        import numpy as np

        found, counts = np.unique(raw, return_counts=True)
        bad = [
            (int(v), int(c))
            for v, c in zip(found, counts, strict=True)
            if int(v) not in self.classes
        ]
        told = ", ".join(f"{value} ({count} pixels)" for value, count in bad[:8]) + (
            " ..." if len(bad) > 8 else ""
        )
        return (
            f"{where}: label values outside the {len(self.names)} classes: {told}. Allowed raw "
            "ids: "
            f"{ranges(self.classes)}. {self._cure([value for value, _ in bad])}"
        )

    def _cure(self, bad: Sequence[int]) -> str:
        largest = max(raw for raw, k in self.classes.items() if k != IGNORE)
        if bad == [largest + 1] and 0 in self.classes and self.classes[0] == 0:
            return (
                f"If 0 means `not labelled` and classes start at 1, add reduce_labels=true; "
                f"if {bad[0]} means `not labelled`, add ignore={bad[0]}."
            )
        if len(bad) > 20:
            return (
                "So many different values suggest a photograph or a resized label: labels "
                "must hold ids, not colours."
            )
        return (
            "If these pixels should count for nothing, add "
            f"ignore={'/'.join(map(str, bad[:8]))}; otherwise name the missing classes."
        )

    def restore(self, prediction: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Map classes (H, W) back to raw ids (H, W), uint8 or uint16; the lowest where merged."""
        import numpy as np

        kept = [[r for r, k in self.classes.items() if k == c] for c in range(len(self.names))]
        ignored = min((r for r, k in self.classes.items() if k == IGNORE), default=IGNORE)
        raw = [min(ids) if ids else ignored for ids in kept]  # none where every id is ignored
        table: np.ndarray[Any, Any] = np.array(raw, np.uint8 if max(raw) < 256 else np.uint16)
        restored: np.ndarray[Any, Any] = table[prediction]
        return restored

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads, of plain lists and numbers."""
        pairs = sorted(self.classes.items())
        return {
            "names": list(self.names),
            "classes": pairs,
            "palette": [list(color) for color in self.palette],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LabelMap":
        """Read what `to_dict` wrote."""
        classes = {int(raw): int(k) for raw, k in values["classes"]}
        return cls(
            tuple(values["names"]), classes, tuple((r, g, b) for r, g, b in values["palette"])
        )


def ranges(ids: Mapping[int, int]) -> str:
    """Tell ids as `0-10, 255`."""
    runs: list[list[int]] = []
    for raw in sorted(ids):
        if runs and raw == runs[-1][1] + 1:
            runs[-1][1] = raw
        else:
            runs.append([raw, raw])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@dataclass(frozen=True)
class NamesFile:
    """What a file of class names tells."""

    names: list[str]
    palette: list[list[int]] = field(default_factory=list)
    ignored: tuple[int, ...] = ()
    reduce_labels: bool = False


def read_names(path: Path) -> NamesFile:
    """Read class names from a text file, one a line, or from JSON with more facts.

    The JSON is `{"id2label": {"0": "road", ...}, "palette": [[r, g, b], ...], "ignore_index": 11,
    "reduce_labels": false}`; all but the first may be missing, and
    the whole file may be the id2label alone.

    Raises:
        DataError: the file is not there or not of this form.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".json":
            return NamesFile([line.strip() for line in text.splitlines() if line.strip()])
        content = json.loads(text)
        content = content if "id2label" in content else {"id2label": content}
        names = [str(name) for name in _listed(content["id2label"])]
        palette = _listed(content.get("palette") or [])[: len(names)]
        ignored = content.get("ignore_index")
        reduce_labels = bool(content.get("reduce_labels", False))
        return NamesFile(names, palette, () if ignored is None else (int(ignored),), reduce_labels)
    except OSError as error:
        raise DataError(f"{path}: cannot read the class names: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a list of class names ({error}). Right is a text file with one name a "
            "line, or JSON "
            'like {"id2label": {"0": "road", "1": "sky"}}.'
        ) from None


def _listed(values: Any) -> list[Any]:
    if isinstance(values, list):
        return values
    ordered = sorted((int(key), value) for key, value in values.items())
    if [key for key, _ in ordered] != list(range(len(ordered))):
        raise ValueError(
            f"ids must be 0..{len(ordered) - 1} without a gap, found {[key for key, _ in ordered]}"
        )
    return [value for _, value in ordered]
