"""The label map: raw ids and colours to classes and back, and what errors say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from launches import ROOT
from segacc.errors import DataError
from segacc.labels import read_names
from segacc.labels.label_map import LabelMap, ranges, spread_colors

SHARED = ROOT.parent / "shared" / "data"
ABC = ("sky", "road", "tree")


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here: the data that lies beside the repository")
    return path


def complaint(labels: LabelMap, raw: list[int], dtype: type = np.uint8) -> str:
    with pytest.raises(DataError) as error:
        labels.apply(np.array([raw], dtype), "a.png")
    return str(error.value)


def test_plain_maps_each_id_to_itself_and_ignores_255() -> None:
    labels = LabelMap.plain(ABC)
    assert labels.classes == {0: 0, 1: 1, 2: 2, 255: 255}
    assert labels.names == ABC
    assert len(labels.palette) == 3
    raw = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)
    mapped = labels.apply(raw, "a.png")
    assert mapped.dtype == np.uint8
    np.testing.assert_array_equal(mapped, raw)


def test_ignored_ids_count_for_nothing() -> None:
    labels = LabelMap.plain(ABC, ignore=(11, 30))
    mapped = labels.apply(np.array([[0, 11, 2, 30, 255]], np.uint8), "a.png")
    np.testing.assert_array_equal(mapped, [[0, 255, 2, 255, 255]])


def test_reduced_labels_move_down_by_one() -> None:
    labels = LabelMap.plain(ABC, reduce_labels=True, ignore=(9,))
    mapped = labels.apply(np.array([[0, 1, 2, 3, 9, 255]], np.uint8), "a.png")
    np.testing.assert_array_equal(mapped, [[255, 0, 1, 2, 255, 255]])
    np.testing.assert_array_equal(labels.restore(np.array([[0, 1, 2]])), [[1, 2, 3]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64])
def test_any_integer_dtype_is_mapped(dtype: type) -> None:
    mapped = LabelMap.plain(ABC).apply(np.array([[2, 0]], dtype), "a.png")
    assert mapped.dtype == np.uint8
    np.testing.assert_array_equal(mapped, [[2, 0]])


def test_many_raw_ids_may_be_one_class_and_large() -> None:
    labels = LabelMap(("road", "other"), {7: 0, 8: 0, 33: 1, 26000: 1, 0: 255})
    mapped = labels.apply(np.array([[7, 8, 33, 26000, 0]], np.uint16), "a.png")
    np.testing.assert_array_equal(mapped, [[0, 0, 1, 1, 255]])


def test_restore_gives_the_lowest_raw_id_and_undoes_apply() -> None:
    labels = LabelMap(("road", "other"), {8: 0, 7: 0, 33: 1, 0: 255})
    restored = labels.restore(np.array([[0, 1], [1, 0]], np.uint8))
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, [[7, 33], [33, 7]])
    np.testing.assert_array_equal(labels.apply(restored, "a.png"), [[0, 1], [1, 0]])
    large = LabelMap(("road", "other"), {7: 0, 300: 1}).restore(np.array([[1]]))
    assert (large.dtype, large.item()) == (np.uint16, 300)


def test_restore_undoes_apply_on_a_real_label_file() -> None:
    from PIL import Image

    folder = shared("ade20k_sample")
    names = read_names(folder / "classes.json")
    labels = LabelMap.plain(names.names, reduce_labels=names.reduce_labels)
    raw = np.array(Image.open(folder / "annotations/validation/ADE_val_00000001.png"))
    mapped = labels.apply(raw, "ADE_val_00000001.png")
    assert set(np.unique(mapped)) == {(int(value) - 1) % 256 for value in np.unique(raw)}
    counted = mapped != 255
    assert counted.any()
    np.testing.assert_array_equal(labels.restore(mapped[counted][None]), raw[counted][None])


def test_a_map_survives_json_and_yaml() -> None:
    labels = LabelMap.plain(ABC, ignore=(11,), reduce_labels=True, palette=[[1, 2, 3]] * 3)
    assert LabelMap.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels
    assert LabelMap.from_dict(yaml.safe_load(yaml.safe_dump(labels.to_dict()))) == labels


def test_the_next_id_is_taken_for_either_mistake() -> None:
    assert complaint(LabelMap.plain(ABC), [0, 1, 3, 3]) == (
        "a.png: label values outside the 3 classes: 3 (2 pixels). Allowed raw ids: 0-2, 255. "
        "If 0 means `not labelled` and classes start at 1, add reduce_labels=true; "
        "if 3 means `not labelled`, add ignore=3."
    )


def test_a_few_wrong_ids_are_named() -> None:
    assert complaint(LabelMap.plain(ABC, ignore=(11,)), [0, 7, 9, 9, 254]) == (
        "a.png: label values outside the 3 classes: 7 (1 pixel), 9 (2 pixels), 254 (1 pixel). "
        "Allowed raw ids: 0-2, 11, 255. If these pixels should be ignored, add "
        "ignore=7/9/254; otherwise name the missing classes."
    )


def test_ids_below_and_above_the_map_are_named() -> None:
    assert complaint(LabelMap.plain(ABC), [-1, 0, 1000], np.int32) == (
        "a.png: label values outside the 3 classes: -1 (1 pixel), 1000 (1 pixel). "
        "Allowed raw ids: 0-2, 255. If these pixels should be ignored, add "
        "ignore=-1/1000; otherwise name the missing classes."
    )


def test_a_photograph_is_recognized() -> None:
    assert complaint(LabelMap.plain(ABC), list(range(100))) == (
        "a.png: label values outside the 3 classes: 3 (1 pixel), 4 (1 pixel), 5 (1 pixel), "
        "6 (1 pixel), 7 (1 pixel), 8 (1 pixel), 9 (1 pixel), 10 (1 pixel) and 89 more. "
        "Allowed raw ids: 0-2, 255. So many different values suggest a photograph or a resized "
        "label: labels must hold ids, not colours."
    )


@pytest.mark.parametrize(
    ("names", "classes", "palette", "message"),
    [
        (
            ["cell"],
            {0: 0},
            (),
            "A label map needs 2 to 255 classes, got 1: cell. "
            "With a single class, add the background as a second one.",
        ),
        (
            ["a", "b"],
            {0: 0, 1: 2},
            (),
            "The label map maps raw ids to classes without a name: {1: 2}.",
        ),
        (["a", "b"], {0: 0, 1: 1}, ((1, 2, 3),), "The palette has 1 colours for 2 classes."),
        (
            ["a", "b"],
            {0: 0, -7: 1},
            (),
            "A negative raw id can only be ignored; the label map maps -7 to b.",
        ),
        (
            [f"c{k}" for k in range(847)],
            {0: 0},
            (),
            "A label map needs 2 to 255 classes, got 847: c0, c1, c2, c3 and 843 more. Give the "
            "data set a list of fewer names, as names=FILE, and the raw ids of each, as map=FILE "
            "with a YAML file like `classes: {0: wall, 7: wall, 9: sky}`.",
        ),
    ],
)
def test_a_map_that_cannot_be_is_refused(
    names: list[str],
    classes: dict[int, int],
    palette: tuple[tuple[int, int, int], ...],
    message: str,
) -> None:
    with pytest.raises(DataError) as error:
        LabelMap(tuple(names), classes, palette)
    assert str(error.value) == message


def test_256_classes_would_collide_with_the_ignored_one() -> None:
    with pytest.raises(DataError, match=r"^A label map needs 2 to 255 classes, got 256: c0, c1"):
        LabelMap.plain([f"c{k}" for k in range(256)])


@pytest.mark.parametrize("count", [2, 19, 150, 255])
def test_colors_are_all_different(count: int) -> None:
    colors = spread_colors(count)
    assert len(set(colors)) == len(colors) == count
    assert all(0 <= part <= 255 for color in colors for part in color)


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        *(([0], "0"), ([0, 1, 2, 255], "0-2, 255"), ([5, 1, 2, 7, 8], "1-2, 5, 7-8"), ([], "")),
        ([-2, -1, 0, 1], "-2, -1, 0-1"),
    ],
)
def test_ranges(ids: list[int], text: str) -> None:
    assert ranges(ids) == text


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
def test_negative_ids_are_ignored(dtype: Any) -> None:
    labels = LabelMap.plain(ABC, ignore=(-1, -100))
    raw = np.array([[-1, 0, 1, 2, -100, 255]], dtype)
    np.testing.assert_array_equal(labels.apply(raw, "a.png"), [[255, 0, 1, 2, 255, 255]])
    np.testing.assert_array_equal(  # the way of labels of 8 bits, in which -1 cannot be
        labels.apply(np.array([[0, 1, 2, 255]], np.uint8), "a.png"), [[0, 1, 2, 255]]
    )
    assert LabelMap.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels
    assert labels.ignored == [-100, -1, 255]
    assert labels.told(labels.ignored) == "raw ids -100, -1, 255"
    assert LabelMap.plain(ABC, ignore=(-1, 0)).restore(np.array([[0, 1]])).tolist() == [[0, 1]]
    assert "Allowed raw ids: -100, -1, 0-2, 255." in complaint(labels, [9])


def test_ignored_colours_are_told_as_colours() -> None:
    assert STREET.told(STREET.ignored) == "colour (0, 0, 0)"
    assert STREET.told([0]) == "colours (128, 64, 128), (192, 64, 128)"


def test_classes_without_raw_ids() -> None:
    assert LabelMap.plain(ABC, ignore=(1,)).without_pixels == [ABC[1]]
    assert LabelMap.plain(ABC).without_pixels == []


def test_a_class_whose_only_id_is_ignored_can_still_be_written() -> None:
    labels = LabelMap.plain(ABC, ignore=(0,))
    np.testing.assert_array_equal(labels.restore(np.array([[0, 1, 2]])), [[0, 1, 2]])


# --------------------------------------------------------------------------- ids of other widths


@pytest.mark.parametrize("count", [2, 3, 253, 254, 255])
def test_every_byte_goes_where_the_map_says(count: int) -> None:
    random = np.random.default_rng(count)
    raws = random.permutation(256)[: min(count + 1, 255)].tolist()  # one at least is unknown
    classes = {raw: k if k < count else 255 for k, raw in enumerate(raws)}
    labels = LabelMap(tuple(f"c{k}" for k in range(count)), classes)
    known = random.permutation(np.repeat(np.array(raws, np.uint8), 4)).reshape(4, -1)
    wanted = np.array([[classes[int(raw)] for raw in row] for row in known])
    mapped = labels.apply(known, "a.png")
    assert mapped.dtype == np.uint8 and mapped.flags.writeable
    np.testing.assert_array_equal(mapped, wanted)
    np.testing.assert_array_equal(labels.apply(known.T, "a.png"), wanted.T)
    for raw in set(range(256)) - set(raws):
        assert f"outside the {count} classes: {raw} (1 pixel)." in complaint(labels, [raws[0], raw])


@pytest.mark.parametrize("seed", range(40))
def test_runs_of_bytes_go_where_the_map_says(seed: int) -> None:
    """Maps of runs, as real ones are: identity, moved, with holes, with 255 or without it."""
    random = np.random.default_rng(seed)
    first, count = int(random.integers(0, 4)), int(random.integers(2, 60))
    classes = {first + k: k for k in range(count)}
    if random.random() < 0.7:
        classes[255] = 255
    if random.random() < 0.5:
        classes[0] = 255
    if random.random() < 0.3:
        classes[first + count + 3] = int(random.integers(0, count))
    if random.random() < 0.3:
        classes[first + int(random.integers(0, count))] = 255
    labels = LabelMap(tuple(f"c{k}" for k in range(count)), classes)
    for raws in (sorted(classes), sorted(set(classes) - {255}), sorted(classes)[1:]):
        raw = random.choice(np.array(raws, np.uint8), (9, 11))
        kept, mapped = raw.copy(), labels.apply(raw, "a.png")
        wanted = [[classes[int(one)] for one in row] for row in raw]
        assert mapped.dtype == np.uint8 and mapped.flags.writeable
        np.testing.assert_array_equal(mapped, wanted)
        np.testing.assert_array_equal(raw, kept)
    for unknown in set(range(256)) - set(classes):
        assert f": {unknown} (1 pixel)." in complaint(labels, [sorted(classes)[1], unknown])


def test_a_map_of_wide_ids_only_refuses_bytes() -> None:
    labels = LabelMap(("road", "car"), {1000: 0, 2000: 1})
    for raw in (0, 1, 254, 255):
        assert f": {raw} (1 pixel)." in complaint(labels, [raw])


def test_an_empty_label_is_mapped() -> None:
    labels = LabelMap.plain(("road", "car"))
    assert labels.apply(np.zeros((0, 4), np.uint8), "a.png").shape == (0, 4)


def test_ids_of_32_bits_are_exact() -> None:
    labels = LabelMap(("road", "car"), {16_777_217: 0, 2_000_000_000: 1, 5: 255})
    raw = np.array([[16_777_217, 5, 2_000_000_000]], np.int32)
    mapped = labels.apply(raw, "a.tif")
    np.testing.assert_array_equal(mapped, [[0, 255, 1]])
    restored = labels.restore(np.array([[0, 1]]))
    assert restored.dtype == np.int32
    np.testing.assert_array_equal(restored, [[16_777_217, 2_000_000_000]])
    assert "2 classes: 16777216 (1 pixel)." in complaint(labels, [5, 16_777_216], np.int32)


@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 9), (30, 40)])
def test_wide_ids_are_mapped_as_one_by_one(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    classes = {int(raw): k % 5 for k, raw in enumerate(random.permutation(60_000)[:20])}
    labels = LabelMap(tuple("abcde"), classes)
    for raw in (random.choice(list(classes), shape), np.full(shape, next(iter(classes)))):
        wanted = [[classes[int(one)] for one in row] for row in raw]
        np.testing.assert_array_equal(labels.apply(raw.astype(np.uint16), "a"), wanted)
        np.testing.assert_array_equal(
            labels.apply(raw.astype(np.uint16).T, "a"), np.transpose(wanted)
        )


# --------------------------------------------------------------------------------------- colours

CAMVID = {(128, 64, 128): 0, (64, 0, 128): 1, (0, 0, 0): 2, (192, 64, 128): 0}
STREET = LabelMap(("Road", "Car"), {0: 0, 1: 1, 2: 255}, ((1, 2, 3), (4, 5, 6)), CAMVID)


def color_complaint(labels: LabelMap, pixels: list[tuple[int, int, int]]) -> str:
    with pytest.raises(DataError) as error:
        labels.raw_ids(np.array([pixels], np.uint8), "a.png")
    return str(error.value)


def test_colours_become_raw_ids() -> None:
    random = np.random.default_rng(0)
    places = random.integers(0, 4, (13, 21))
    places[3:9] = 2  # a region as labels have them
    rgb = np.array(list(CAMVID), np.uint8)[places]
    wanted = np.array(list(CAMVID.values()))[places]
    found = STREET.raw_ids(rgb, "a.png")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(STREET.raw_ids(rgb[:, ::-1], "a.png"), wanted[:, ::-1])
    np.testing.assert_array_equal(STREET.apply(found, "a.png"), np.where(wanted == 2, 255, wanted))


def test_raw_ids_of_colours_may_be_wide() -> None:
    labels = LabelMap(("a", "b"), {7: 0, 30_000: 1}, (), {(1, 2, 3): 7, (3, 2, 1): 30_000})
    found = labels.raw_ids(np.array([[(3, 2, 1), (1, 2, 3)]], np.uint8), "a.png")
    np.testing.assert_array_equal(found, [[30_000, 7]])


def test_a_real_label_in_colours_has_its_ids_again() -> None:
    from PIL import Image

    folder = shared("ade20k_sample")
    names = read_names(folder / "classes.json").names
    palette = tuple((k, 255 - k, k * 7 % 256) for k in range(151))
    labels = LabelMap.plain(names, reduce_labels=True)
    labels = LabelMap(labels.names, labels.classes, (), {c: k for k, c in enumerate(palette)})
    raw = np.array(Image.open(folder / "annotations/validation/ADE_val_00000001.png"))
    np.testing.assert_array_equal(labels.raw_ids(np.array(palette, np.uint8)[raw], "a"), raw)


def test_a_few_unknown_colours_are_named_beside_the_nearest() -> None:
    pixels = [(0, 0, 0), (128, 64, 130), (9, 0, 9), (128, 64, 130)]
    assert color_complaint(STREET, pixels) == (
        "a.png: colours that are not among the 4 of the colour table: (128, 64, 130) (2 pixels; "
        "nearest is (128, 64, 128), Road), (9, 0, 9) (1 pixel; nearest is (0, 0, 0), ignored). "
        "Add them to the colour table; to ignore a class of the table, use map={drop: "
        "[NAME]}."
    )


def test_the_nearest_colour_is_the_nearest_of_all() -> None:
    random = np.random.default_rng(1)
    table = [tuple(map(int, color)) for color in random.integers(0, 256, (40, 3))]
    colors = {color: k for k, color in enumerate(table)}
    labels = LabelMap(tuple(f"c{k}" for k in range(40)), {k: k for k in range(40)}, (), colors)
    for color in random.integers(0, 256, (20, 3)):
        distances = ((np.array(table) - color) ** 2).sum(1)
        near = int(distances.argmin())
        told = f"(1 pixel; nearest is {table[near]}, c{near})."
        assert told in color_complaint(labels, [tuple(map(int, color))])


def test_compressed_colours_are_recognized() -> None:
    pixels = [(128, 64, k) for k in range(100)]
    told = ", ".join(
        f"(128, 64, {k}) (1 pixel; nearest is {(128, 64, 128)}, Road)" for k in range(8)
    )
    assert color_complaint(STREET, pixels) == (
        f"a.png: colours that are not among the 4 of the colour table: {told} and 92 more. So "
        "many different colours (100) suggest JPEG compression, smoothed edges or a photograph: "
        "export the labels again as PNG, without anti-aliasing, and resize them with nearest "
        "neighbour only."
    )


def test_colours_survive_json_and_may_be_missing_in_what_is_read() -> None:
    written = json.loads(json.dumps(STREET.to_dict()))
    assert LabelMap.from_dict(written) == STREET
    del written["colors"]  # as versions without colours wrote it
    old = LabelMap.from_dict(written)
    assert (old.colors, old.classes, old.palette) == ({}, STREET.classes, STREET.palette)


@pytest.mark.parametrize(
    ("palette", "colors", "message"),
    [
        (
            ((1, 2, 256), (4, 5, 6)),
            {},
            "(1, 2, 256) is not an RGB colour: three numbers from 0 to 255.",
        ),
        ((), {(1, 2): 0}, "(1, 2) is not an RGB colour: three numbers from 0 to 255."),
        (
            (),
            {(1, 2, 3): -1},
            "The label map maps colours to negative raw ids: {(1, 2, 3): -1}.",
        ),
    ],
)
def test_colours_that_cannot_be(palette: Any, colors: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        LabelMap(("a", "b"), {0: 0, 1: 1}, palette, colors)
    assert str(error.value) == message
