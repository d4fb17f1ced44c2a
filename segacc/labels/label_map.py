"""LabelMap: maps raw ids or colours in label files to classes 0..K-1 or 255, and back."""

import colorsys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from segacc.contracts import IGNORE
from segacc.errors import DataError, count_of, first_of, twice_in

if TYPE_CHECKING:
    import numpy as np

    Ids = np.ndarray[Any, np.dtype[np.int64]]

Color = tuple[int, int, int]

ONE_CLASS = "With a single class, add the background as a second one."
MANY_CLASSES = (
    "Give the data set a list of fewer names, as names=FILE, and the raw ids of each, as map=FILE "
    "with a YAML file like `classes: {0: wall, 7: wall, 9: sky}`."
)


def spread_colors(count: int) -> tuple[Color, ...]:
    """Return `count` well separated RGB colours; the first is dark grey, for the background."""
    hues = [
        ((k * 0.618034 + 0.08) % 1.0, (1.0, 0.55, 0.8)[k % 3], (0.95, 1.0, 0.7)[k // 3 % 3])
        for k in range(count)
    ]
    bright = [tuple(round(255 * part) for part in colorsys.hsv_to_rgb(*hue)) for hue in hues]
    return ((60, 60, 60), *((r, g, b) for r, g, b in bright[: count - 1]))


def bit_color(index: int) -> Color:
    """Return Pascal VOC's RGB colour of an index in 0..255; all indices have different colours.

    Three at a time, from the lowest, its bits are bit 7, 6, ... of red, green and blue, as in the
    devkit's VOClabelcolormap (Everingham et al., host.robots.ox.ac.uk/pascal/VOC).
    """
    triples = range(3)  # 8 bits, three at a time
    red, green, blue = (
        sum((index >> (3 * k + channel) & 1) << (7 - k) for k in triples) for channel in range(3)
    )
    return red, green, blue


@dataclass(frozen=True)
class LabelMap:
    """The mapping between raw ids in label files and class indices.

    Attributes:
        names: the K class names.
        classes: raw id -> class 0..K-1, or 255 for a raw id that is ignored, which alone may be
            negative; any other raw id is an error.
        palette: K RGB colours, 0..255, for rendered pictures.
        colors: RGB colour -> raw id, for label files that contain colours; otherwise empty.
    """

    names: tuple[str, ...]
    classes: Mapping[int, int]
    palette: tuple[Color, ...] = field(default=())
    colors: Mapping[Color, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fill in a default palette; reject an invalid map."""
        if not 2 <= len(self.names) <= IGNORE:
            told = f"{len(self.names)}: {first_of(self.names, 4)}" if self.names else "none"
            raise DataError(
                f"A label map needs 2 to {IGNORE} classes, got {told}. "
                f"{ONE_CLASS if len(self.names) < 2 else MANY_CLASSES}"
            )
        if twice := twice_in(self.names):
            raise DataError(f"Two classes have the same name: {first_of(twice, 4)}.")
        wrong = {
            raw: k
            for raw, k in self.classes.items()
            if k != IGNORE and not 0 <= k < len(self.names)
        }
        if wrong:
            raise DataError(f"The label map maps raw ids to classes without a name: {wrong}.")
        if below := {raw: k for raw, k in self.classes.items() if raw < 0 and k != IGNORE}:
            told = first_of((f"{raw} to {self.names[k]}" for raw, k in below.items()), 4)
            raise DataError(f"A negative raw id can only be ignored; the label map maps {told}.")
        if not self.palette:
            object.__setattr__(self, "palette", spread_colors(len(self.names)))
        if len(self.palette) != len(self.names):
            raise DataError(
                f"The palette has {len(self.palette)} colours for {len(self.names)} classes."
            )
        self._check_colors()

    def _check_colors(self) -> None:
        for color in (*self.palette, *self.colors):
            if len(color) != 3 or not all(0 <= part <= 255 for part in color):
                raise DataError(f"{color} is not an RGB colour: three numbers from 0 to 255.")
        if below := {color: raw for color, raw in self.colors.items() if raw < 0}:
            raise DataError(f"The label map maps colours to negative raw ids: {below}.")

    @classmethod
    def plain(
        cls,
        names: Sequence[str],
        *,
        ignore: Sequence[int] = (),
        reduce_labels: bool = False,
        palette: Sequence[Sequence[int]] = (),
    ) -> "LabelMap":
        """Build the usual map: raw id i is class i; 255 and the ids in `ignore` are ignored.

        With `reduce_labels`, raw id 0 is ignored and raw id i is class i - 1 (ADE20K's files).
        """
        first = 1 if reduce_labels else 0
        classes = {first + k: k for k in range(len(names))}
        ignored = {raw: IGNORE for raw in (IGNORE, *ignore, *range(first))}
        return cls(tuple(names), {**classes, **ignored}, tuple((r, g, b) for r, g, b in palette))

    @property
    def ignored(self) -> list[int]:
        """The raw ids that are ignored, sorted."""
        return sorted(raw for raw, k in self.classes.items() if k == IGNORE)

    def told(self, ids: Collection[int]) -> str:
        """Name raw ids, as `raw ids 11, 255`, or by their colours, as `colour (0, 0, 0)`."""
        if colors := [color for color, raw in self.colors.items() if raw in ids]:
            return f"colour{'s' if len(colors) > 1 else ''} {first_of(colors, 4)}"
        return f"raw id{'s' if len(ids) > 1 else ''} {ranges(ids)}"

    @property
    def without_pixels(self) -> list[str]:
        """The names of the classes that no raw id is mapped to."""
        used = set(self.classes.values())
        return [name for k, name in enumerate(self.names) if k not in used]

    @cached_property
    def _bytes(self) -> bytes:
        """The class of each raw id 0..255; K, which is not a class, for raw ids outside the map."""
        return bytes(self.classes.get(raw, len(self.names)) for raw in range(256))

    @cached_property
    def _run(self) -> tuple[int, int, int]:
        """The longest range of raw ids with a constant offset to their classes.

        Ids and classes are shifted by one modulo 256, so 255 becomes 0 and raw id 0 becomes 1. The
        last is below the first if no id below 256 is in the map.
        """
        bytes_in = {raw: k for raw, k in self.classes.items() if 0 <= raw < 256}
        moved = {(raw + 1) % 256: (k + 1) % 256 for raw, k in bytes_in.items()}
        parts = groupby(
            enumerate(sorted(moved)), lambda pair: (pair[1] - pair[0], moved[pair[1]] - pair[1])
        )
        runs = [[byte for _, byte in part] for _, part in parts]
        longest = max(runs, key=len, default=[])
        return (longest[0], longest[-1], moved[longest[0]] - longest[0]) if runs else (1, 0, 0)

    @cached_property
    def _sorted_classes(self) -> "tuple[Ids, Ids]":
        return sorted_table(self.classes)

    @cached_property
    def _sorted_colors(self) -> "tuple[Ids, Ids]":
        return sorted_table({packed_color(color): raw for color, raw in self.colors.items()})

    def apply(
        self, raw: "np.ndarray[Any, Any]", where: str
    ) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """Map raw ids (H, W), any integer dtype, to classes (H, W) uint8, 255 ignored.

        Raises:
            DataError: a raw id outside the map; the message names `where`, the ids and the likely
                fix.
        """
        import numpy as np

        if raw.dtype == np.uint8 and raw.size:  # the usual case: a constant offset
            first, last, far = self._run
            turned = raw + np.uint8(1)
            if first <= turned.min() and turned.max() <= last:
                return turned + np.uint8((far - 1) % 256)
        if raw.dtype == np.uint8 and len(self.names) < IGNORE:  # one pass over bytes
            translated = bytearray(raw).translate(self._bytes)
            if len(self.names) in translated:
                raise DataError(self._complaint(raw, where))
            return np.frombuffer(translated, np.uint8).reshape(raw.shape)
        mapped = look_up(raw, *self._sorted_classes)
        if mapped.min() < 0:
            raise DataError(self._complaint(raw, where))
        return mapped.astype(np.uint8)

    def raw_ids(self, rgb: "np.ndarray[Any, Any]", where: str) -> "np.ndarray[Any, Any]":
        """Map the colours of a label (H, W, 3) uint8 to raw ids (H, W) for `apply`.

        Returns:
            uint8, or int64 if a raw id is above 255.

        Raises:
            DataError: a colour that `colors` lacks; the message names `where`, the colours, the
                nearest known colours and the likely fix.
        """
        import numpy as np

        padded = np.zeros((*rgb.shape[:2], 4), np.uint8)
        for band in range(3):  # pack each colour into one number
            padded[..., band] = rgb[..., band]
        values = padded.view("<u4")[..., 0]
        raw = look_up(values, *self._sorted_colors)
        if raw.min() < 0:
            raise DataError(self._color_complaint(values[raw < 0], where))
        return raw if max(self.colors.values()) > 255 else raw.astype(np.uint8)

    def _color_complaint(self, values: "np.ndarray[Any, Any]", where: str) -> str:
        import numpy as np

        found, counts = np.unique(values, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:8]
        told = [self._stranger(unpacked_color(int(found[k])), int(counts[k])) for k in order]
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        if len(found) > 20:
            cure = (
                f"So many different colours ({len(found)}) suggest JPEG compression, smoothed "
                "edges or a photograph: export the labels again as PNG, without anti-aliasing, and "
                "resize them with nearest neighbour only."
            )
        else:
            cure = (
                "Add them to the colour table; to ignore a class of the table, "
                "use map={drop: [NAME]}."
            )
        return (
            f"{where}: colours that are not among the {len(self.colors)} of the colour table: "
            f"{', '.join(told)}{more}. {cure}"
        )

    def _stranger(self, color: Color, count: int) -> str:
        """Describe an unknown colour and the nearest one in the table."""
        near = min(
            self.colors, key=lambda one: sum((a - b) ** 2 for a, b in zip(one, color, strict=True))
        )
        k = self.classes.get(self.colors[near], IGNORE)
        name = self.names[k] if k != IGNORE else "ignored"
        return f"{color} ({count_of(count, 'pixel')}; nearest is {near}, {name})"

    def _complaint(self, raw: "np.ndarray[Any, Any]", where: str) -> str:
        import numpy as np

        found, counts = np.unique(raw, return_counts=True)
        bad = [
            (int(v), int(c))
            for v, c in zip(found, counts, strict=True)
            if int(v) not in self.classes
        ]
        told = first_of((f"{value} ({count_of(count, 'pixel')})" for value, count in bad), 8)
        return (
            f"{where}: label values outside the {len(self.names)} classes: {told}. Allowed raw "
            f"ids: {ranges(self.classes)}. {self._cure([value for value, _ in bad])}"
        )

    def _cure(self, bad: Sequence[int]) -> str:
        largest = max((raw for raw, k in self.classes.items() if k != IGNORE), default=-1)
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
            "If these pixels should be ignored, add "
            f"ignore={'/'.join(map(str, bad))}; otherwise name the missing classes."
        )

    def restore(self, prediction: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Map classes (H, W) back to raw ids (H, W); a merged class becomes its lowest raw id.

        Returns:
            uint8, or uint16 or int32 if a raw id requires it.
        """
        import numpy as np

        kept = [[r for r, k in self.classes.items() if k == c] for c in range(len(self.names))]
        ignored = min((raw for raw in self.ignored if raw >= 0), default=IGNORE)
        raw = [min(ids) if ids else ignored for ids in kept]  # empty if all its ids are ignored
        dtypes = (np.uint8, np.uint16, np.int32)
        table: np.ndarray[Any, Any] = np.array(raw, dtypes[(max(raw) > 255) + (max(raw) > 65535)])
        restored: np.ndarray[Any, Any] = table[prediction]
        return restored

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-compatible dict for `from_dict`."""
        pairs = sorted(self.classes.items())
        return {
            "names": list(self.names),
            "classes": pairs,
            "palette": [list(color) for color in self.palette],
            "colors": [[*color, raw] for color, raw in self.colors.items()],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LabelMap":
        """Read the result of `to_dict`; older versions wrote no `colors`."""
        classes = {int(raw): int(k) for raw, k in values["classes"]}
        palette = tuple((r, g, b) for r, g, b in values["palette"])
        colors = {(r, g, b): int(raw) for r, g, b, raw in values.get("colors", ())}
        return cls(tuple(values["names"]), classes, palette, colors)


def refuse_many(names: Sequence[str], cure: str) -> None:
    """Refuse more classes than labels of 8 bits have.

    Raises:
        DataError: there are more; its last sentence is `cure`.
    """
    if len(names) > IGNORE:
        told = f"{len(names)}: {first_of(names, 4)}"
        raise DataError(f"A label map has at most {IGNORE} classes, got {told}. {cure}")


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Begin the errors of a label map that is made inside with the source of its class names."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def ranges(ids: Iterable[int]) -> str:
    """Format ids as `0-10, 255`; negative ones one by one."""
    runs: list[list[int]] = []
    for raw in sorted(ids):
        if runs and runs[-1][0] >= 0 and raw == runs[-1][1] + 1:
            runs[-1][1] = raw
        else:
            runs.append([raw, raw])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def packed_color(color: tuple[int, int, int]) -> int:
    """Pack a colour into one number, in the byte order of a pixel in memory."""
    return color[0] | color[1] << 8 | color[2] << 16


def unpacked_color(value: int) -> tuple[int, int, int]:
    """Return the colour that was packed by `packed_color`."""
    return value & 255, value >> 8 & 255, value >> 16


def sorted_table(table: Mapping[int, int]) -> "tuple[Ids, Ids]":
    """Return the sorted keys and their values, the table for `look_up`."""
    import numpy as np

    keys = sorted(table)
    return np.array(keys, np.int64), np.array([table[key] for key in keys], np.int64)


def look_up(values: "np.ndarray[Any, Any]", keys: "Ids", results: "Ids") -> "Ids":
    """Look up integers (H, W) in sorted keys: (H, W) int64, -1 for values that are not a key.

    Adjacent label pixels are mostly equal, so only the first of each run is searched.
    """
    import numpy as np

    flat = values.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    heads = flat[starts]
    found = np.minimum(np.searchsorted(keys, heads), len(keys) - 1)
    mapped = np.where(keys[found] == heads, results[found], -1)
    return np.repeat(mapped, np.diff(starts, append=len(flat))).reshape(values.shape)
