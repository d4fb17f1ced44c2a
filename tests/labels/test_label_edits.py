"""Edits of a label map: other classes, merged, dropped and renamed ones, and what errors say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from segacc.errors import OptionError
from segacc.labels import LabelMap, edit

STREET = LabelMap.plain(
    ("sky", "road", "car", "truck", "bus", "tree"),
    ignore=(11,),
    palette=[[k, 2 * k, 3 * k] for k in range(6)],
)
RAW = np.array([[0, 1, 2, 3, 4, 5, 11, 255]], np.uint8)
WHERE = "--dataset folder: map"
KNOWN = "Known: sky, road, car, truck, bus, tree."


def edited(**edits: Any) -> LabelMap:
    return edit(STREET, edits, WHERE)


def mapped(labels: LabelMap) -> list[int]:
    """Map the raw ids of STREET."""
    found: list[int] = labels.apply(RAW, "a.png")[0].tolist()
    return found


def refusal(labels: LabelMap = STREET, **edits: Any) -> str:
    with pytest.raises(OptionError) as error:
        edit(labels, edits, WHERE)
    return str(error.value)


def test_no_edits_change_nothing() -> None:
    assert edit(STREET, None, WHERE) is STREET
    assert edited() == STREET


def test_merged_classes_stand_where_the_lowest_stood_in_the_colour_of_the_first() -> None:
    labels = edited(merge={"vehicle": ["bus", "car", "truck"]})
    assert labels.names == ("sky", "road", "vehicle", "tree")
    assert mapped(labels) == [0, 1, 2, 2, 2, 3, 255, 255]
    assert labels.palette == ((0, 0, 0), (1, 2, 3), (4, 8, 12), (5, 10, 15))


def test_merging_into_a_class_of_that_name_keeps_it() -> None:
    labels = edited(merge={"truck": ["car", "bus"]})
    assert labels.names == ("sky", "road", "truck", "tree")
    assert mapped(labels) == [0, 1, 2, 2, 2, 3, 255, 255]
    assert labels.palette[2] == (3, 6, 9)


def test_merges_follow_each_other() -> None:
    labels = edited(merge={"heavy": ["truck", "bus"], "vehicle": ["car", "heavy"]})
    assert labels.names == ("sky", "road", "vehicle", "tree")
    assert mapped(labels) == [0, 1, 2, 2, 2, 3, 255, 255]


def test_raw_ids_are_merged_alone_even_ignored_ones() -> None:
    both = edit(STREET, {"merge": {"vehicle": ["car", "truck"]}}, WHERE)
    labels = edit(both, {"merge": {"other": [3, 11]}}, WHERE)
    assert labels.names == ("sky", "road", "other", "vehicle", "bus", "tree")
    assert mapped(labels) == [0, 1, 3, 2, 4, 5, 2, 255]
    assert len(set(labels.palette)) == 6
    assert edited(merge={"void": [11]}).names[-1] == "void"


def test_dropped_classes_count_for_nothing() -> None:
    labels = edited(drop=["sky", 4])
    assert labels.names == ("road", "car", "truck", "tree")
    assert mapped(labels) == [255, 0, 1, 2, 255, 3, 255, 255]
    assert labels.palette == tuple((k, 2 * k, 3 * k) for k in (1, 2, 3, 5))


def test_ignored_ids_may_be_new() -> None:
    labels = edited(ignore=[5, 77])
    assert labels.names == ("sky", "road", "car", "truck", "bus")
    assert mapped(labels) == [0, 1, 2, 3, 4, 255, 255, 255]
    assert labels.classes[77] == 255


@pytest.mark.parametrize("given", [-1, "-1"])
def test_ignored_ids_may_be_negative(given: Any) -> None:
    assert edited(ignore=[given]).ignored == [-1, 11, 255]
    assert edited(ignore=[-1], drop=[-1]).ignored == [-1, 11, 255]


def test_a_class_whose_ids_are_ignored_may_be_dropped() -> None:
    given = LabelMap.plain(("sky", "road", "Void"), ignore=(2,))
    labels = edit(given, {"drop": ["Void"]}, WHERE)
    assert (labels.names, labels.classes) == (("sky", "road"), {0: 0, 1: 1, 2: 255, 255: 255})
    classes = {0: "sky", 1: "road", 2: "Void"}  # now it has one
    assert edit(given, {"classes": classes, "drop": ["Void"]}, WHERE) == labels


def test_classes_may_swap_their_names() -> None:
    labels = edited(rename={"sky": "road", "road": "sky", "car": "auto"})
    assert labels.names == ("road", "sky", "auto", "truck", "bus", "tree")
    assert (mapped(labels), labels.palette) == (mapped(STREET), STREET.palette)


@pytest.mark.parametrize("color", [[1, 2, 250], "#0102fa", "#0102FA"])
def test_a_class_gets_another_colour(color: Any) -> None:
    labels = edited(palette={"sky": color})
    assert labels.palette == ((1, 2, 250), *STREET.palette[1:])


def test_classes_are_named_anew() -> None:
    labels = edited(classes={5: "green", 2: "vehicle", 3: "vehicle", 11: "void"}, ignore=[0])
    assert labels.names == ("green", "vehicle", "void")
    assert labels.classes == {5: 0, 2: 1, 3: 1, 11: 2, 0: 255, 255: 255}
    assert labels.palette[:2] == (STREET.palette[5], STREET.palette[2])
    assert len(set(labels.palette)) == 3


def test_classes_that_are_named_anew_have_colours_of_the_table() -> None:
    colors = {(9, 9, 9): 30, (8, 8, 8): 31}
    table = LabelMap(STREET.names, STREET.classes, STREET.palette, colors)
    labels = edit(table, {"classes": {31: "a", 30: "b"}}, WHERE)
    assert (labels.palette, labels.colors) == (((8, 8, 8), (9, 9, 9)), colors)
    rgb = np.array([[(9, 9, 9), (8, 8, 8)]], np.uint8)
    found = labels.apply(labels.raw_ids(rgb, "a.png"), "a.png")
    np.testing.assert_array_equal(found, [[1, 0]])


def test_all_edits_apply_in_their_own_order() -> None:
    edits = {  # written the other way round
        "palette": {"thing": "#ffffff"},
        "rename": {"vehicle": "thing"},
        "merge": {"vehicle": ["car", "bus"]},
        "drop": ["sky"],
        "ignore": [3],
        "classes": {0: "sky", 1: "road", 2: "car", 3: "bus", 4: "bus"},
    }
    labels = edit(STREET, edits, WHERE)
    assert labels.names == ("road", "thing")
    assert labels.classes == {1: 0, 2: 1, 4: 1, 0: 255, 3: 255, 255: 255}
    assert labels.palette == ((1, 2, 3), (255, 255, 255))


def test_a_class_without_raw_ids_is_no_more() -> None:
    labels = edit(LabelMap.plain(("a", "b", "c"), ignore=(1,)), {"rename": {"a": "x"}}, WHERE)
    assert labels.names == ("x", "c")


@pytest.mark.parametrize(
    "edits",
    [
        {"merge": {"vehicle": ["bus", "car"]}, "drop": ["sky"]},
        {"classes": {4: "b", 2: "a", 3: "a"}, "ignore": [0, 1, 5, 11]},
        {"ignore": [1], "rename": {"tree": "green"}},
    ],
)
def test_predictions_in_raw_ids_undo_the_edits(edits: Any) -> None:
    labels = edit(STREET, edits, WHERE)
    classes = labels.apply(RAW, "a.png")
    restored = labels.restore(classes[classes != 255][None])
    np.testing.assert_array_equal(labels.apply(restored, "b.png")[0], classes[classes != 255])
    for raw, k in zip(RAW[0], classes[0], strict=True):
        of_class = [one for one, its in labels.classes.items() if its == k]
        if k != 255:
            assert labels.restore(np.array([[k]])).item() == min(of_class) <= raw


def test_the_result_is_stored_as_any_other_map() -> None:
    labels = edited(merge={"vehicle": ["car", "truck"]}, drop=["sky"])
    assert LabelMap.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


# ----------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_edits_are_read_from_a_file(suffix: str, tmp_path: Path) -> None:
    edits = {"classes": {0: "up", 1: "down"}, "palette": {"up": "#010203"}}
    path = tmp_path / f"edits.{suffix}"
    write = {"yaml": yaml.safe_dump, "json": lambda content: json.dumps(content, indent="\t")}
    path.write_text(write[suffix](edits))
    labels = edit(STREET, path, WHERE)
    assert labels == edited(**edits)
    assert (labels.names, labels.palette[0]) == (("up", "down"), (1, 2, 3))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a mapping with some of classes, ignore, drop, merge, rename, palette, "
             "found nothing."),
        ("- sky", "expected a mapping with some of classes, ignore, drop, merge, rename, palette, "
                  "found list."),
        ("mrge: {}", 'unknown key "mrge". Did you mean "merge"? Known: classes, ignore, drop, '
                     "merge, rename, palette."),
        ("palette: {sky: #ffffff}", "neither YAML nor JSON: while parsing a flow node"),
    ],
    ids=["empty", "list", "key", "comment"],
)  # fmt: skip
def test_a_file_that_is_no_edit(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "edits.yaml"
    path.write_text(text)
    with pytest.raises(OptionError) as error:
        edit(STREET, path, WHERE)
    assert str(error.value).startswith(f"{WHERE}={path}: {told}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        edit(STREET, tmp_path / "no.yaml", WHERE)
    assert str(error.value) == (
        f"{WHERE}={tmp_path / 'no.yaml'}: cannot read the file: No such file or directory."
    )


# -------------------------------------------------------------------------------- what is wrong


QUOTES = (
    "A name must be text: put it in quotes, because YAML converts unquoted yes, no, on, off, "
    "null and numbers."
)


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ({"drop": ["raod"]}, f'drop: there is no class "raod". Did you mean "road"? {KNOWN}'),
        ({"drop": [9]}, "drop: there is no raw id 9. Known: 0-5, 11, 255."),
        ({"drop": "sky"}, "drop: expected a list, as in [sky], got 'sky'."),
        ({"drop": [True]}, f"drop: True is neither a class name nor a raw id. {QUOTES}"),
        (
            {"merge": {"vehicle": ["car", "trck"]}},
            f'merge: vehicle: there is no class "trck". Did you mean "truck"? {KNOWN}',
        ),
        ({"merge": ["car"]}, "merge: expected a mapping, got ['car']."),
        ({"merge": {"x": "car"}}, "merge: x: expected a list, as in [car], got 'car'."),
        ({"merge": {"x": []}}, "merge: x: the list of classes to merge is empty."),
        ({"merge": {3: ["car"]}}, f"merge: the new name is 3. {QUOTES}"),
        ({"rename": {"zzz": "a"}}, f'rename: there is no class "zzz". {KNOWN}'),
        ({"rename": {"sky": False}}, f"rename: the new name of sky is False. {QUOTES}"),
        (
            {"rename": {"sky": "road"}},
            'rename: two classes would be called "road". Use merge to combine them.',
        ),
        (
            {"ignore": ["sky"]},
            "ignore: 'sky' is not a raw id (an integer).",
        ),
        ({"classes": {-1: "a"}}, "classes: -1 is not a raw id (an integer >= 0)."),
        (
            {"ignore": [-1], "merge": {"car": [-1]}},
            "A negative raw id can only be ignored; the label map maps -1 to car.",
        ),
        ({"classes": {0: None}}, f"classes: the name of raw id 0 is None. {QUOTES}"),
        (
            {"classes": {"sky": "a"}},
            "classes: 'sky' is not a raw id (an integer >= 0).",
        ),
        (
            {"palette": {"sky": [1, 2]}},
            'palette: sky: [1, 2] is not a colour: three numbers from 0 to 255, or "#rrggbb".',
        ),
        (
            {"palette": {"sky": None}},
            'palette: sky: None is not a colour: three numbers from 0 to 255, or "#rrggbb"; # '
            "starts a "
            "comment in YAML outside quotes.",
        ),
        ({"palette": {"sea": "#000000"}}, f'palette: there is no class "sea". {KNOWN}'),
        (
            {"drop": ["sky", "road", "car", "truck", "bus"]},
            "A label map needs 2 to 255 classes, got 1: tree. With a single class, add the "
            "background as a second one.",
        ),
    ],
)
def test_what_cannot_be_edited(edits: dict[str, Any], told: str) -> None:
    assert refusal(**edits) == f"{WHERE}: {told}"


def test_a_class_is_merged_once() -> None:
    both = {"vehicle": ["car", "bus"], "heavy": ["truck", "bus"]}
    assert refusal(merge=both) == (
        f'{WHERE}: merge: heavy: there is no class "bus". Known: sky, road, vehicle, truck, tree.'
    )


def test_of_many_classes_twenty_are_told() -> None:
    labels = LabelMap.plain([f"class {k}" for k in range(30)])
    names = ", ".join(f"class {k}" for k in range(20))
    assert refusal(labels, drop=["x"]) == (
        f'{WHERE}: drop: there is no class "x". Known: {names} and 10 more.'
    )
