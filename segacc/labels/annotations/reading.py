"""Functions shared by the readers of annotation files: checked values, polygons, and faults."""

import base64
import gc
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segacc.errors import DataError, count_of, cut, first_of, read_text, twice_in
from segacc.labels.annotations.shapes import AnnotatedImage

T = TypeVar("T")
OUTSIDE = 0.1
"""How far outside the image a corner may lie, as a fraction of the image's width or height: tools
let an annotator draw beyond the edge, which cuts it off; more means another image, or its size."""
CURVE = 64
"""Number of corners of the polygon that stands for a circle or an ellipse."""
KINDS = {dict: "an object {...}", list: "a list [...]", str: "a text", int: "a whole number"}


class ShapeError(ValueError):
    """What is wrong with a shape; the reader adds where it is."""


@contextmanager
def no_collection() -> Iterator[None]:
    """Pause the garbage collector, which would look through millions of new objects in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_json(path: Path, what: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: it cannot be read; `what` says what was expected.
    """
    try:
        return json.loads(read_text(path))
    except OSError as error:
        raise DataError(f"{path}: {what} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {what} is not valid JSON: {cut(str(error), 200)}.") from None


def value(entry: Any, key: str, kind: type[T]) -> T:
    """Return a value of a JSON object.

    Raises:
        ShapeError: it is missing or of another type.
    """
    if not isinstance(entry, dict) or key not in entry:
        raise ShapeError(f'it has no "{key}"')
    found = entry[key]
    if not isinstance(found, kind) or isinstance(found, bool):
        raise ShapeError(f'its "{key}" is {cut(json.dumps(found))}; expected {KINDS[kind]}')
    return found


def class_name(told: str) -> str:
    """Return the name of a shape's class, without spaces around it.

    Raises:
        ShapeError: it is empty.
    """
    if not (name := told.strip()):
        raise ShapeError("its label is empty; give it a class in the tool")
    return name


def number(entry: Any, key: str) -> float:
    """Return a number of a JSON object, which may be written as a text, as in XML.

    Raises:
        ShapeError: it is missing, no number, or not finite.
    """
    if key not in entry:
        raise ShapeError(f'it has no "{key}"')
    try:
        found = float(entry[key])
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ShapeError(f'its "{key}" is {cut(repr(entry[key]))}; expected a number')
    return found


def numbers(found: Any, count: int, what: str) -> list[float]:
    """Return a list of so many numbers.

    Raises:
        ShapeError: it is something else.
    """
    try:
        read = [float(one) for one in found]
    except (TypeError, ValueError, OverflowError):
        read = []
    if len(read) != count or not all(map(math.isfinite, read)):
        raise ShapeError(f"its {what} is {cut(repr(found))}; expected {count} numbers")
    return read


def image_size(height: float, width: float) -> tuple[int, int]:
    """Return (height, width) as whole numbers.

    Raises:
        ShapeError: they are not positive whole numbers.
    """
    if not (height >= 1 and width >= 1 and height == int(height) and width == int(width)):
        raise ShapeError(f"its size is {height:g}x{width:g} (height x width); expected pixels")
    return int(height), int(width)


def polygon(points: Any, size: tuple[int, int] | None) -> NDArray[np.float64]:
    """Return the corners of a polygon as (N, 2).

    Args:
        points: pairs of x and y, or one list `x, y, x, y, ...`.
        size: (height, width) of the image, if it is known.

    Raises:
        ShapeError: not numbers, fewer than three corners, or far outside the image.
    """
    try:
        flat = np.array(points, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ShapeError("its corners are not all pairs of numbers") from None
    if flat.ndim > 2 or flat.size % 2 or (flat.ndim == 2 and flat.shape[1] != 2):
        raise ShapeError(f"its corners are {flat.size} numbers; expected pairs of x and y")
    if flat.size < 6:
        few = count_of(flat.size // 2, "corner")
        raise ShapeError(f"its polygon has {few}; at least 3 enclose an area")
    numbers: list[float] = flat.ravel().tolist()  # so few that Python is faster than numpy
    x, y = numbers[::2], numbers[1::2]
    if not math.isfinite(sum(numbers)):
        raise ShapeError("its corners are not all finite numbers")
    inside = size and min(numbers) >= 0 and max(x) <= size[1] and max(y) <= size[0]  # as most are
    if size and not inside and (_is_far(x, size[1]) or _is_far(y, size[0])):
        raise ShapeError(
            f"it extends over x {min(x):g} to {max(x):g} and y {min(y):g} to {max(y):g}, outside "
            f"its image of {size[0]}x{size[1]} pixels (height x width); perhaps the image was "
            "resized after it was annotated"
        )
    return flat.reshape(-1, 2)


def _is_far(values: Sequence[float], side: int) -> bool:
    """Return whether an extent lies too far outside 0..side, or entirely."""
    first, last = min(values), max(values)
    return first < -OUTSIDE * side or last > (1 + OUTSIDE) * side or first >= side or last <= 0


def rectangle(
    left: float, top: float, right: float, bottom: float, degrees: float = 0.0
) -> NDArray[np.float64]:
    """Return the corners (4, 2) of a rectangle, turned clockwise about its centre."""
    x, y = (left + right) / 2, (top + bottom) / 2
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
    return turned(corners, (x, y), degrees)


def ellipse(
    x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0
) -> NDArray[np.float64]:
    """Return a polygon (CURVE, 2) of an ellipse's area, turned clockwise about its centre."""
    angles = np.arange(CURVE) * (2 * np.pi / CURVE)
    # A regular polygon on the circle itself would be smaller than it.
    grown = math.sqrt((2 * np.pi / CURVE) / math.sin(2 * np.pi / CURVE))
    around = np.stack([np.cos(angles) * radius_x, np.sin(angles) * radius_y], axis=1)
    return turned(around * grown + (x, y), (x, y), degrees)


def turned(
    corners: NDArray[np.float64], about: tuple[float, float], degrees: float
) -> NDArray[np.float64]:
    """Return corners (N, 2) turned clockwise, as it looks with y down, about a point."""
    if not degrees:
        return corners
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    turn = np.array([[cosine, sine], [-sine, cosine]])
    moved: NDArray[np.float64] = (corners - about) @ turn + about
    return moved


def embedded(text: str, what: str) -> tuple[bytes, tuple[int, int]]:
    """Return a picture that is given in base64, as the bytes of its file, and (height, width).

    Raises:
        ShapeError: it is none; `what` names it.
    """
    try:
        data = base64.b64decode(text)
        with Image.open(io.BytesIO(data)) as picture:
            return data, (picture.height, picture.width)
    except Exception:  # a damaged file makes Pillow raise anything
        raise ShapeError(f"its {what} is not a PNG in base64") from None


def pixels_of(data: bytes, band: Literal["L", "A"]) -> NDArray[np.bool_]:
    """Return the pixels (height, width) of a mask: those that are not black, or not clear (A).

    Raises:
        ShapeError: the picture is damaged.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            plane = picture.convert("L" if band == "L" else "RGBA").getchannel(band)
            return np.asarray(plane) > 0
    except Exception:  # a damaged file makes Pillow raise anything
        raise ShapeError("its mask is damaged") from None


@dataclass
class Faults:
    """Collects what is wrong in a file, so that it is told at once."""

    path: Path
    found: list[tuple[str, str]] = field(default_factory=list)
    """Where and what."""

    @contextmanager
    def of(self, where: str, image: str = "") -> Iterator[None]:
        """Add the ShapeError of an entry; `image` is the image that it is on."""
        try:
            yield
        except ShapeError as error:
            self.add(where, image, error)

    def add(self, where: str, image: str, error: ShapeError) -> None:
        """Add what is wrong with an entry; see `of`."""
        self.found.append((f"{where} (image {image})" if image else where, str(error)))

    def stop(self) -> None:
        """Raise if something is wrong.

        Raises:
            DataError: it names the first fault, and where the others are.
        """
        if not self.found:
            return
        (where, what), *others = self.found
        more = f" {len(others)} more: {first_of((one for one, _ in others), 4)}." if others else ""
        raise DataError(f"{self.path}: {where}: {what}.{more}")


def left_out(path: Path, lines: Mapping[str, int]) -> tuple[str, ...]:
    """Return a note about shapes that have no area, by their kind, if there are any."""
    if not lines:
        return ()
    kinds = ", ".join(f"{count} of type {kind}" for kind, count in sorted(lines.items()))
    total = count_of(sum(lines.values()), "shape")
    return (f"{path}: {total} without an area left out ({kinds})",)


def refuse_twice(path: Path, what: str, names: Iterable[str], cure: str) -> None:
    """Refuse names that occur twice.

    Raises:
        DataError: one does; `cure` says what would be right.
    """
    if twice := twice_in(names):
        raise DataError(f"{path}: {what} {first_of(twice, 4)} twice. {cure}")


@dataclass(frozen=True)
class FileImages(Sequence[AnnotatedImage], Generic[T]):
    """Annotated images that are read from a file each, when they are asked for."""

    files: tuple[T, ...]
    read: Callable[[T], AnnotatedImage]
    """Picklable."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> AnnotatedImage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AnnotatedImage]: ...
    def __getitem__(self, index: int | slice) -> AnnotatedImage | Sequence[AnnotatedImage]:
        """Read one image, or several.

        Raises:
            DataError: the file is faulty.
        """
        if isinstance(index, slice):
            return [self.read(one) for one in self.files[index]]
        return self.read(self.files[index])

    def reader(self, index: int) -> Callable[[], AnnotatedImage]:
        """Return a picklable function that reads an image."""
        return partial(self.read, self.files[index])
