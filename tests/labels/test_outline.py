"""Outlines of regions hold exactly their pixels, and simplified ones nearly all of them."""

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

import segacc.plugins.datasets
from segacc.contracts import IGNORE
from segacc.labels.annotations.draw import draw
from segacc.labels.annotations.outline import regions_of
from segacc.labels.annotations.polygons import Form, fewer_corners, shapes_of, simplified
from segacc.labels.annotations.shapes import Shape
from segacc.settings.commands import TOLERANCE, ConvertConfig, PredictConfig

EIGHT = np.ones((3, 3))


def noise(size: tuple[int, int], count: int, seed: int = 0, block: int = 1) -> Any:
    """Return random values in blocks of pixels, which touch at corners, too."""
    random = np.random.default_rng(seed)
    rows, columns = -(-size[0] // block), -(-size[1] // block)
    values = random.integers(0, count, (rows, columns)).astype(np.uint8)
    return np.kron(values, np.ones((block, block), np.uint8))[: size[0], : size[1]]


def real_labels(shared: Path) -> dict[str, list[Any]]:
    """Return labels of real data: those of the package, and of `shared` where it is there."""
    folder = Path(segacc.plugins.datasets.__file__).parent / "data" / "nuclei"
    cells = parquet.read_table(folder / "validation.parquet")["annotation"].to_pylist()
    files = {
        name: sorted((shared / name / "annotations").glob("*/*.png"))[::step]
        for name, step in (("camvid", 240), ("ade20k_sample", 16), ("comma10k_mini", 5))
    }
    found = {name: [np.array(Image.open(path)) for path in some] for name, some in files.items()}
    found["nuclei"] = [np.array(Image.open(io.BytesIO(one["bytes"]))) for one in cells[::9]]
    return {name: some for name, some in found.items() if some}


def inside(shape: Shape, size: tuple[int, int]) -> Any:
    """Return the pixels of a shape by pycocotools, or those of its patch."""
    pixels = np.zeros(size, bool)
    if patch := shape.patch:
        rows, columns = patch.top + patch.height, patch.left + patch.width
        pixels[patch.top : rows, patch.left : columns] = patch.read()
    for corners in shape.polygons:
        rle = coco_mask.frPyObjects([corners.ravel().tolist()], *size)
        pixels |= coco_mask.decode(rle)[..., 0].astype(bool)
    return pixels


def iou(one: Any, other: Any) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize(
    ("size", "count", "block"),
    [((1, 1), 1, 1), ((1, 9), 2, 1), ((9, 1), 2, 1), ((40, 30), 2, 1), ((41, 50), 4, 3)],
)
def test_regions_are_the_connected_parts_and_their_outlines_hold_their_pixels(
    size: tuple[int, int], count: int, block: int
) -> None:
    label = noise(size, count, block=block)
    centres = np.stack(np.mgrid[: size[1], : size[0]], axis=-1).reshape(-1, 2) + 0.5
    regions = regions_of(label)
    for value in range(count):
        parts, number = ndimage.label(label == value, EIGHT)
        assert sum(one.value == value for one in regions) == number
        for region in (one for one in regions if one.value == value):
            rings = [region.outer, *region.holes]
            held = sum(Outline(ring).contains_points(centres).astype(int) for ring in rings)
            pixels = (held % 2).reshape(size[::-1]).T == 1
            row, column = region.runs[0, :2]
            assert np.array_equal(pixels, parts == parts[row, column])
            top, left, height, width = region.box
            assert np.array_equal(region.pixels(), pixels[top : top + height, left : left + width])
            assert region.area == pixels.sum() == region.pixels().sum()
    areas = [one.area for one in regions]
    assert sum(areas) == label.size and areas == sorted(areas, reverse=True)
    assert not regions_of(label, range(count))


@pytest.mark.parametrize("form", ["mixed", "polygons", "masks"])
def test_without_a_tolerance_shapes_are_exact(form: Form) -> None:
    label = noise((60, 70), 3, seed=2, block=2)
    label[5:20, 8:30], label[9:12, 12:20] = 1, IGNORE  # a region with a hole
    names = {1: "a", 2: "b", IGNORE: "void"}
    found, kinds = np.zeros(label.shape, np.uint8), set[bool]()
    for shape in shapes_of(label, names, form=form, tolerance=0):
        pixels = inside(shape, label.shape)
        assert not found[pixels].any() and len(shape.polygons) + bool(shape.patch) == 1
        assert shape.ignored == (shape.label == "void")
        kinds.add(bool(shape.patch))
        found[pixels] = {name: value for value, name in names.items()}[shape.label]
    assert np.array_equal(found, label)
    assert kinds == {"mixed": {True, False}, "polygons": {False}, "masks": {True}}[form]


@pytest.mark.parametrize("tolerance", [TOLERANCE, 3.0])
def test_polygons_of_real_labels_keep_their_regions(shared: Path, tolerance: float) -> None:
    for name, labels in real_labels(shared).items():
        corners = exact = 0
        for label in labels:
            values = {f"c{value}": int(value) for value in np.unique(label)}
            names = {value: key for key, value in values.items()}
            shapes = shapes_of(label, names, form="polygons", tolerance=tolerance)
            drawn = draw(shapes, label.shape, {key: IGNORE - 1 - v for key, v in values.items()})
            for value in values.values():
                kept = iou(drawn == IGNORE - 1 - value, label == value)
                assert kept >= 0.99, (name, value, kept)
            corners += sum(len(one.polygons[0]) for one in shapes)
            exact += sum(len(one.outer) for one in regions_of(label))
        assert corners < exact, name


def test_pycocotools_draws_the_same_within_a_percent(shared: Path) -> None:
    for name, labels in real_labels(shared).items():
        label = labels[0]
        names = {int(value): str(value) for value in np.unique(label)}
        drawn = np.zeros(label.shape, np.uint8)
        for shape in shapes_of(label, names, form="polygons"):
            drawn[inside(shape, label.shape)] = int(shape.label)
        for value in names:
            assert iou(drawn == value, label == value) >= 0.99, (name, value)


def test_a_region_that_would_change_gets_more_corners_or_its_exact_outline() -> None:
    rows, columns = np.mgrid[:240, :240]
    disc = ((rows - 120) ** 2 + (columns - 120) ** 2 < 10000).astype(np.uint8)
    steps = np.array(["000001", "000010", "000100", "011000", "110000", "100000", "100000"])
    steps = np.array([list(row) for row in steps], np.uint8)
    found = {}
    for name, label in (("disc", disc), ("steps", steps)):
        (region,) = regions_of(label, [0])
        for tolerance in (0.0, TOLERANCE, 1.0, 50.0):
            ((ring,),) = simplified([region], tolerance)
            found[name, tolerance] = len(ring)
            assert iou(inside(Shape("a", "", (ring,)), label.shape), label == 1) >= 0.98
    assert found["steps", TOLERANCE] == found["steps", 0.0]  # else pixels would change
    assert found["disc", 0.0] > 2 * found["disc", TOLERANCE] > 4 * found["disc", 1.0]
    assert found["disc", 50.0] <= found["disc", 1.0]  # halved until enough remains


def test_corners_are_left_out_only_near_the_line() -> None:
    random = np.random.default_rng(5)
    angles = np.sort(random.random(200)) * 2 * np.pi
    radius = 20 + random.random(200)
    ring = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    (found,) = fewer_corners([ring], 0.8)
    assert 3 < len(found) < 60 and all((ring == corner).all(1).any() for corner in found)
    for corner in ring:
        assert min(_distance(corner, a, b) for a, b in pairwise([*found, found[0]])) <= 0.8
    there_and_back = np.array([(0, 0), (1, 0), (2, 0.0)])
    assert np.array_equal(fewer_corners([there_and_back, ring], 0.8)[0], there_and_back)


def _distance(point: Any, first: Any, last: Any) -> float:
    """Return the distance of a point from a line, by a search along it."""
    steps = np.linspace(0, 1, 2001)[:, None]
    return float(np.hypot(*(first + steps * (last - first) - point).T).min())


def test_the_settings_have_the_tolerance_of_the_outlines() -> None:
    from segacc.labels.annotations.polygons import TOLERANCE as OF_OUTLINES

    assert ConvertConfig().tolerance == PredictConfig().tolerance == TOLERANCE == OF_OUTLINES
