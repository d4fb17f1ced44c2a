"""Polygons become the pixels whose centres are inside; other shapes are decoded exactly."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools import mask as coco_mask

from annotation_tools import png
from segacc.labels.annotations.cvat import read_cvat
from segacc.labels.annotations.draw import draw, filled, outlines, polygon_area
from segacc.labels.annotations.labelme import read_labelme
from segacc.labels.annotations.labelstudio import decoded
from segacc.labels.annotations.reading import ShapeError, ellipse, rectangle
from segacc.labels.annotations.shapes import Patch, Shape

SIZE = (40, 56)


def whole(corners: Any, size: tuple[int, int] = SIZE) -> Any:
    """Return the pixels of a polygon in its image."""
    label = np.zeros(size, bool)
    if found := filled(np.array(corners, float), size):
        top, left, inside = found
        label[top : top + len(inside), left : left + inside.shape[1]] = inside
    return label


def by_matplotlib(corners: Any) -> Any:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    return Outline(corners).contains_points(centres).reshape(SIZE)


def star(seed: int, points: int) -> Any:
    """Return a polygon that does not cross itself, partly outside the image."""
    random = np.random.default_rng(seed)
    angles = np.sort(random.uniform(0, 2 * np.pi, points))
    radius = random.uniform(3, 30, points)
    return (
        random.uniform(5, 45, 2) + np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None]
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), points=st.integers(3, 40))
def test_the_pixels_are_those_whose_centres_matplotlib_finds_inside(seed: int, points: int) -> None:
    corners = star(seed, points)
    np.testing.assert_array_equal(whole(corners), by_matplotlib(corners))


def test_the_area_is_as_near_to_the_true_one_as_that_of_pycocotools_and_nearer_than_pillows() -> (
    None
):
    from PIL import ImageDraw

    sums = np.zeros(4)
    for seed in range(60):
        corners = np.clip(star(seed, 12), 2, 38)
        flat = [corners.ravel().tolist()]
        theirs = coco_mask.decode(coco_mask.frPyObjects(flat, *SIZE))[..., 0]
        canvas = Image.new("1", SIZE[::-1])
        ImageDraw.Draw(canvas).polygon([(x, y) for x, y in corners.tolist()], 1, 1)
        true = polygon_area(corners)
        sums += [whole(corners).sum(), theirs.sum(), np.asarray(canvas).sum(), true]
    own, coco, pillow, true = sums
    assert abs(own / true - 1) < 0.005
    assert abs(coco / true - 1) < 0.01
    assert pillow / true > 1.05


def test_polygons_with_a_common_edge_share_no_pixel_and_leave_none() -> None:
    middle = (19.5, 20.5)  # the centre of a pixel
    edge = [(0, 0), (56, 0), (56, 40), (0, 40)]
    parts = [[middle, a, b] for a, b in zip(edge, [*edge[1:], edge[0]], strict=True)]
    assert (sum(whole(one).astype(int) for one in parts) == 1).all()


def test_a_bridge_into_a_polygon_makes_a_hole() -> None:
    outer = [(4, 4), (30, 4), (30, 30), (4, 30), (4, 4)]
    hole = [(10, 10), (10, 20), (20, 20), (20, 10), (10, 10)]
    found = whole([*outer, *hole])
    assert found.sum() == 26 * 26 - 10 * 10
    assert not found[10:20, 10:20].any()


def test_what_lies_outside_the_image_is_cut_off() -> None:
    assert whole([(-10, -10), (3, -10), (3, 2), (-10, 2)]).sum() == 6
    assert filled(np.array([(60.0, 1), (70, 1), (70, 9)]), SIZE) is None
    assert filled(np.array([(5.6, 1), (6.4, 1), (6.4, 9)]), SIZE) is None  # between two centres


def test_a_circle_has_its_area_and_a_turned_rectangle_its_corners() -> None:
    assert polygon_area(ellipse(20, 20, 10, 10)) == pytest.approx(np.pi * 100)
    assert polygon_area(ellipse(20, 20, 10, 5, 30)) == pytest.approx(np.pi * 50)
    found = rectangle(10, 10, 30, 20, 90)  # clockwise: the first corner goes to the upper right
    np.testing.assert_allclose(found, [(25, 5), (25, 25), (15, 25), (15, 5)])


def shape(label: str, left: float, right: float, **more: Any) -> Shape:
    return Shape(label, label, (rectangle(left, 0, right, 2),), **more)


def test_the_last_shape_is_uppermost_or_the_smallest_and_ignored_ones_are_below() -> None:
    values, size = {"a": 1, "b": 2, "c": 3}, (1, 8)
    shapes = [shape("a", 2, 4), shape("b", 1, 7), shape("c", 0, 3, ignored=True)]
    assert draw(shapes, size, values).tolist() == [[255, 2, 2, 2, 2, 2, 2, 0]]
    small = draw(shapes, size, values, overlap="small_on_top", background=255)
    assert small.tolist() == [[255, 2, 1, 1, 2, 2, 2, 255]]


def test_a_value_above_255_needs_16_bits() -> None:
    found = draw([shape("a", 0, 1)], (1, 2), {"a": 300})
    assert (found.dtype, found.tolist()) == (np.uint16, [[300, 0]])


def test_a_patch_is_drawn_where_it_lies_and_counted_by_its_pixels() -> None:
    patch = Patch(-1, 6, 3, 4, lambda: np.eye(3, 4, dtype=bool))
    values = {"a": 1, "b": 2}
    shapes = [Shape("a", "a", patch=patch), Shape("b", "b", (rectangle(0, 0, 8, 3),))]
    found = draw(shapes, (3, 8), values, overlap="small_on_top")
    expected = np.full((3, 8), 2)
    expected[0, 7] = 1  # of the three pixels, one is outside above, one on the right
    np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------------------------------ run lengths
def pack(values: Any, sizes: tuple[int, ...] = (3, 4, 8, 16)) -> list[int]:
    """Encode values as the JavaScript package of Label Studio does, bit by bit."""
    values = list(map(int, values))
    text = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    at = 0
    while at < len(values):
        end = at + 1
        while end < len(values) and values[end] == values[at] and end - at < 1 << sizes[-1]:
            end += 1
        single = end - at == 1
        if single:  # several different values
            while end < len(values) and values[end] != values[end - 1] and end - at < 8:
                end += 1
        chosen = next(k for k, size in enumerate(sizes) if end - at - 1 < 1 << size)
        text += f"{int(not single)}{chosen:02b}{end - at - 1:0{sizes[chosen]}b}"
        text += "".join(f"{one:08b}" for one in (values[at:end] if single else values[at : at + 1]))
        at = end
    text += "0" * (-len(text) % 8)
    return [int(text[k : k + 8], 2) for k in range(0, len(text), 8)]


def test_the_outlines_of_a_patch_are_those_of_its_pixels_and_holes() -> None:
    """A patch that leaves the image: its outlines hold, by the even-odd rule, what is drawn."""
    pixels = np.ones((6, 7), np.bool_)
    pixels[1:3, 1:4] = pixels[0, 0] = False  # a hole and a corner
    triangle = np.array([[1, 1], [4, 1], [1, 4]], float)
    shapes = [
        Shape("a", "1", (triangle,)),
        Shape("a", "2", patch=Patch(5, 8, 6, 7, lambda: pixels)),
    ]
    found = outlines(shapes, (9, 13))
    assert found[0] is triangle and len(found) == 3
    inside = np.zeros((9, 13), np.bool_)
    for ring in found[1:]:
        region = filled(ring, (9, 13))
        assert region
        top, left, part = region
        inside[top : top + part.shape[0], left : left + part.shape[1]] ^= part
    expected = np.zeros((9, 13), np.bool_)
    expected[5:, 8:] = pixels[:4, :5]
    assert np.array_equal(inside, expected)


def test_brush_strokes_of_label_studio_are_the_pixels_that_are_not_clear() -> None:
    random = np.random.default_rng(3)
    inside = random.random((9, 13)) > 0.6
    inside[3:7] = True
    rgba = np.zeros((9, 13, 4), np.uint8)
    rgba[inside] = (12, 34, 56, 255)
    rgba[0, :4] = (200, 100, 50, 0)  # coloured, and clear
    expected = inside.copy()
    expected[0, :4] = False
    data = bytes(pack(rgba.ravel()))
    np.testing.assert_array_equal(decoded(data, (9, 13)), expected)
    with pytest.raises(ShapeError, match="ends too early"):
        decoded(data[:-20], (9, 13))
    with pytest.raises(ShapeError, match=r"has 468 values; expected 480, four for each pixel"):
        decoded(data, (10, 12))


def test_a_mask_of_labelme_lies_between_its_two_points(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).random((5, 7)) > 0.5
    facts = {
        "shapes": [
            {
                "label": "a",
                "points": [[3.0, 2.0], [9.0, 6.0]],
                "shape_type": "mask",
                "mask": png(mask),
            }
        ],
        "imagePath": "a.png",
        "imageHeight": 12,
        "imageWidth": 20,
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(facts))
    found = draw(read_labelme([path]).images[0].shapes, (12, 20), {"a": 1})
    expected = np.zeros((12, 20))
    expected[2:7, 3:10] = mask  # labelme's own shapes_to_label ends with the second point
    np.testing.assert_array_equal(found, expected)
    with Image.open(io.BytesIO(base64.b64decode(facts["shapes"][0]["mask"]))) as stored:  # type: ignore
        assert stored.size == (7, 5)


def test_a_mask_of_cvat_goes_along_the_rows_of_its_box(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 1], [1, 0, 1]], bool)  # runs along the rows: 1 outside, 3, 1, 1
    path = tmp_path / "a.xml"
    inside = '<mask label="a" rle="1, 3, 1, 1" left="4" top="1" width="3" height="2" z_order="0"/>'
    path.write_text(
        f'<annotations><image name="a.png" width="8" height="4">{inside}</image></annotations>'
    )
    assert read_cvat(path)[""].names == ("a",)  # those that are used, without a list
    found = draw(read_cvat(path)[""].images[0].shapes, (4, 8), {"a": 1})
    expected = np.zeros((4, 8))
    expected[1:3, 4:7] = mask
    np.testing.assert_array_equal(found, expected)
