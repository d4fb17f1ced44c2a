"""The label map: raw ids to classes and back, files of class names, and what errors say."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from segacc.errors import DataError
from segacc.labels import LabelMap, NamesFile, ranges, read_names, spread_colors

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
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
        "a.png: label values outside the 3 classes: 7 (1 pixels), 9 (2 pixels), 254 (1 pixels). "
        "Allowed raw ids: 0-2, 11, 255. If these pixels should count for nothing, add "
        "ignore=7/9/254; otherwise name the missing classes."
    )


def test_ids_below_and_above_the_map_are_named() -> None:
    assert complaint(LabelMap.plain(ABC), [-1, 0, 1000], np.int32) == (
        "a.png: label values outside the 3 classes: -1 (1 pixels), 1000 (1 pixels). "
        "Allowed raw ids: 0-2, 255. If these pixels should count for nothing, add "
        "ignore=-1/1000; otherwise name the missing classes."
    )


def test_a_photograph_is_recognized() -> None:
    assert complaint(LabelMap.plain(ABC), list(range(100))) == (
        "a.png: label values outside the 3 classes: 3 (1 pixels), 4 (1 pixels), 5 (1 pixels), "
        "6 (1 pixels), 7 (1 pixels), 8 (1 pixels), 9 (1 pixels), 10 (1 pixels) .... "
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
            "For one kind of thing, name the background as a class too.",
        ),
        (
            ["a", "b"],
            {0: 0, 1: 2},
            (),
            "The label map sends raw ids to classes that have no name: {1: 2}.",
        ),
        (["a", "b"], {0: 0, 1: 1}, ((1, 2, 3),), "The palette has 1 colours for 2 classes."),
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
    [([0], "0"), ([0, 1, 2, 255], "0-2, 255"), ([5, 1, 2, 7, 8], "1-2, 5, 7-8"), ([], "")],
)
def test_ranges(ids: list[int], text: str) -> None:
    assert ranges(dict.fromkeys(ids, 0)) == text


def test_names_of_camvid() -> None:
    found = read_names(shared("camvid/classes.json"))
    assert (found.names[0], found.names[-1], len(found.names)) == ("Sky", "Bicyclist", 11)
    assert (found.ignored, found.reduce_labels) == ((11,), False)
    assert found.palette[:2] == [[128, 128, 128], [128, 0, 0]]
    assert len(found.palette) == 11


def test_names_of_ade20k() -> None:
    found = read_names(shared("ade20k_sample/classes.json"))
    assert (found.names[0], found.names[-1], len(found.names)) == ("wall", "flag", 150)
    assert found.reduce_labels


def test_names_of_comma10k() -> None:
    found = read_names(shared("comma10k_mini/classes.json"))
    assert found.names == ["road", "lane_markings", "undrivable", "movable", "my_car"]
    assert (found.ignored, found.reduce_labels) == ((255,), False)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("names.txt", "sky\nroad\n\n  dirt road  \n", NamesFile(["sky", "road", "dirt road"])),
        ("names.txt", "sky\r\ngrün\r\n", NamesFile(["sky", "grün"])),
        ("names.json", '{"0": "sky", "1": "road"}', NamesFile(["sky", "road"])),
        ("names.json", '{"1": "road", "0": "sky"}', NamesFile(["sky", "road"])),
        ("names.json", '["sky", "road"]', NamesFile(["sky", "road"])),
        (
            "names.json",
            '{"id2label": {"0": "sky", "1": "road"}, "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],'
            ' "ignore_index": 0, "reduce_labels": true}',
            NamesFile(["sky", "road"], [[1, 2, 3], [4, 5, 6]], (0,), True),
        ),
    ],
)
def test_files_of_names(file: str, text: str, expected: NamesFile, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    assert read_names(tmp_path / file) == expected


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("sky\nroad\n", encoding="utf-8-sig")
    assert read_names(tmp_path / "names.txt").names == ["sky", "road"]


RIGHT = (
    "Right is a text file with one name a line, or JSON "
    'like {"id2label": {"0": "road", "1": "sky"}}.'
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ('{"1": "a", "2": "b"}', "ids must be 0..1 without a gap, found [1, 2]"),
        ('{"0": "a", "2": "b"}', "ids must be 0..1 without a gap, found [0, 2]"),
        ('{"road": 0}', "invalid literal for int() with base 10: 'road'"),
        ("5", "argument of type 'int' is not"),
    ],
)
def test_a_file_that_holds_no_names(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_names(path)
    assert str(error.value).startswith(f"{path}: not a list of class names ({reason}")
    assert str(error.value).endswith(f"). {RIGHT}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_names(tmp_path / "names.txt")
    assert str(error.value) == (
        f"{tmp_path / 'names.txt'}: cannot read the class names: No such file or directory."
    )


def test_a_class_whose_only_id_is_ignored_can_still_be_written() -> None:
    labels = LabelMap.plain(ABC, ignore=(0,))
    np.testing.assert_array_equal(labels.restore(np.array([[0, 1, 2]])), [[0, 1, 2]])
