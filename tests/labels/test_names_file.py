"""Files of class names, and tables of the colours that labels have for them."""

import json
from pathlib import Path
from typing import Any

import pytest

from segacc.errors import DataError
from segacc.labels import NamesFile, read_colors, read_names


def test_names_of_camvid(shared: Path) -> None:
    found = read_names(shared / "camvid" / "classes.json")
    assert (found.names[0], found.names[-1], len(found.names)) == ("Sky", "Bicyclist", 11)
    assert (found.ignored, found.reduce_labels) == ((11,), False)
    assert found.palette[:2] == [(128, 128, 128), (128, 0, 0)]
    assert len(found.palette) == 11


def test_names_of_ade20k(shared: Path) -> None:
    found = read_names(shared / "ade20k_sample" / "classes.json")
    assert (found.names[0], found.names[-1], len(found.names)) == ("wall", "flag", 150)
    assert found.reduce_labels


def test_names_of_comma10k(shared: Path) -> None:
    found = read_names(shared / "comma10k_mini" / "classes.json")
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
            NamesFile(["sky", "road"], [(1, 2, 3), (4, 5, 6)], (0,), True),
        ),
        ("c.json", '[{"id": 1, "name": "b"}, {"id": 0, "name": "a"}]', NamesFile(["a", "b"])),
        ("c.json", '[{"name": "b"}, {"name": "a"}]', NamesFile(["b", "a"])),
        ("c.json", '{"1": {"name": "b"}, "0": {"id": 0, "name": "a"}}', NamesFile(["a", "b"])),
        (
            "c.json",
            '[{"id": 1, "name": "b", "color": "#010203"}, {"id": 0, "name": "a", "color": [4, 5, '
            "6]}]",
            NamesFile(["a", "b"], [(4, 5, 6), (1, 2, 3)]),
        ),
        ("c.yaml", "names: [{id: 1, name: b}, {id: 0, name: a}]\n", NamesFile(["a", "b"])),
        ("c.yaml", "- b\n- a\n", NamesFile(["b", "a"])),
    ],
)
def test_files_of_names(file: str, text: str, expected: NamesFile, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    assert read_names(tmp_path / file) == expected


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("sky\nroad\n", encoding="utf-8-sig")
    assert read_names(tmp_path / "names.txt").names == ["sky", "road"]


RIGHT = (
    "Expected is a text file with one name per line, or "
    'JSON such as {"id2label": {"0": "road", "1": "sky"}}.'
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ('{"1": "a", "2": "b"}', "ids must be 0..1 without gaps, found 1, 2"),
        ('{"0": "a", "2": "b"}', "ids must be 0..1 without gaps, found 0, 2"),
        ('{"road": 0}', "invalid literal for int() with base 10: 'road'"),
        ("5", "argument of type 'int' is not"),
        (
            '[{"id": 2, "name": "c"}, {"id": 0, "name": "a"}]',
            "ids must be 0..1 without gaps, found 0, 2",
        ),
        (
            '[{"id": 0, "name": "c"}, {"id": 0, "name": "a"}]',
            "ids must be 0..1 without gaps, found 0, 0",
        ),
        ('[{"id": 0, "name": "c"}, "a"]', 'some of its classes have an "id", others have none'),
        (
            '{"0": "a", "1": null}',
            'null is no class name: expected a text, or an object with a "name"',
        ),
        (
            '[{"label": "a"}]',
            '{"label": "a"} is no class name: expected a text, or an object with a "name"',
        ),
        ('{"0": {"id": 1, "name": "a"}}', "the class with the key 0 has the id 1"),
        (
            '{"id2label": ["a"], "palette": [[1, 2]]}',
            '[1, 2] is not a colour: three numbers from 0 to 255, or "#rrggbb"',
        ),
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


@pytest.mark.parametrize(
    "text", ["names: [no, '1.0']\nnc: 2\n", "names: {0: no, 1: 1.0}\n", "{0: no, 1: 1.0}\n"]
)
def test_names_in_yaml_are_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    assert read_names(tmp_path / "data.yaml").names == ["no", "1.0"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize(("read", "what"), [(read_names, "class names"), (read_colors, "colour")])
def test_another_encoding_is_refused(read: Any, what: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("grün 1 2 3\nsky 2 3 4\n".encode(encoding))
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) == (
        f"{path}: cannot read the {what.replace('colour', 'colour table')}: it is not UTF-8; if it "
        "is a text file, save it in UTF-8."
    )


# --------------------------------------------------------------------------------- colour tables


STREET = NamesFile(
    ["Road", "Sign Symbol"],
    [(128, 64, 128), (192, 128, 128)],
    colors={(128, 64, 128): 0, (192, 128, 128): 1},
)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("label_colors.txt", "128 64 128\tRoad\n192 128 128\t\tSign Symbol\n"),  # CamVid's own
        ("class_dict.csv", "name,r,g,b\nRoad,128,64,128\nSign Symbol,192,128,128\n"),
        ("table.csv", '\ufeffR;G;B;Class\r\n128;64;128;Road\r\n192; 128;128;"Sign Symbol"\r\n'),
        ("table.txt", "# a comment\n\nRoad 128 64 128\n  Sign Symbol   192 128 128\n"),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nRoad:128,64,128::\nSign Symbol:192,128,128::\n",
        ),
        ("table.json", '{"Road": [128, 64, 128], "Sign Symbol": "#c08080"}'),
        (
            "table.json",
            '[{"name": "Road", "color": "#804080"}, '
            '{"name": "Sign Symbol", "color": [192, 128, 128]}]',
        ),
        (
            "table.json",
            '[{"id": 8, "name": "Sign Symbol", "color": [192, 128, 128]}, '
            '{"id": 7, "name": "Road", "color": "#804080"}]',
        ),
        (
            "classes.json",
            '{"id2label": {"0": "Road", "1": "Sign Symbol"}, '
            '"palette": [[128, 64, 128], [192, 128, 128]]}',
        ),
    ],
)
def test_forms_of_a_colour_table(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    assert read_colors(tmp_path / file) == STREET


def test_a_class_may_have_several_colours(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("1 1 1 a\n2 2 2 b\n3 3 3 a\n")
    found = read_colors(tmp_path / "t.txt")
    assert (found.names, found.palette) == (["a", "b"], [(1, 1, 1), (2, 2, 2)])
    assert found.colors == {(1, 1, 1): 0, (2, 2, 2): 1, (3, 3, 3): 0}


def test_the_colours_of_camvid_are_those_of_its_classes(shared: Path) -> None:
    found = read_colors(shared / "camvid" / "classes.json")
    assert (len(found.names), found.ignored) == (11, (11,))
    assert found.colors[(128, 64, 128)] == found.names.index("Road")
    assert found.colors[(0, 0, 0)] == 11
    assert len(found.colors) == 12


def test_colours_of_reduced_labels_start_at_raw_id_1(tmp_path: Path) -> None:
    facts = {"id2label": ["a", "b"], "palette": ["#000001", "#000002"], "reduce_labels": True}
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({**facts, "ignore_color": [0, 0, 0]}))
    assert read_colors(path).colors == {(0, 0, 1): 1, (0, 0, 2): 2, (0, 0, 0): 0}
    facts |= {"reduce_labels": False, "ignore_index": -100}  # a colour has an id from 0 on
    path.write_text(json.dumps({**facts, "ignore_color": [0, 0, 0]}))
    found = read_colors(path)
    assert (found.ignored, found.colors[0, 0, 0]) == ((-100,), 255)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("t.txt", "", "it is empty"),
        ("t.txt", "road\nsky\n", "line 1 is 'road'"),
        ("t.csv", "name,b,g,r\na,1,2,3\n", "line 1 is 'name,b,g,r'"),
        ("t.txt", "1 2 3 a\n4 5 6\n", "line 2 is '4 5 6'"),
        ("t.txt", "1 0 0 0\n", "line 1 is '1 0 0 0'"),
        ("t.csv", "0,road,1,2,3\n", "line 1 is '0,road,1,2,3'"),
        (
            "t.csv",
            "road,1,2,300\n",
            '[1, 2, 300] is not a colour: three numbers from 0 to 255, or "#rrggbb"',
        ),
        ("t.csv", "road,1,2,3\nsky,1,2,3\n", "road and sky have the same colour (1, 2, 3)"),
        (
            "t.json",
            "{",
            "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (
            "t.json",
            '{"road": "red"}',
            "'red' is not a colour: three numbers from 0 to 255, or \"#rrggbb\"",
        ),
        ("t.json", '{"id2label": ["a", "b"]}', "its palette has 0 colours, 2 names"),
        (
            "t.json",
            '{"id2label": ["a"], "palette": ["#000000"], "ignore_color": [0, 0, 0]}',
            "a and ignore_color have the same colour (0, 0, 0)",
        ),
    ],
)
def test_what_is_no_colour_table(file: str, text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_colors(path)
    assert str(error.value) == (
        f"{path}: not a table of colours ({reason}). Expected are lines such as `road,128,64,128` "
        'or `128 64 128 road`, or JSON such as {"road": [128, 64, 128], "sky": "#4682b4"}.'
    )


def test_a_colour_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_colors(tmp_path / "t.txt")
    assert str(error.value) == (
        f"{tmp_path / 't.txt'}: cannot read the colour table: No such file or directory."
    )


@pytest.mark.parametrize(
    "text",
    [
        "sky\nroad\n",
        "0 sky\n1 road\n",
        "0: sky\n1: road\n",
        "1, road\n0, sky\n",
        "Pixel Value, Class\n0, sky\n1, road\n",
        "0\tsky\n1\troad\n",
        "0. sky\n1. road\n",
        "1) road\n0) sky\n",
        "0 - sky\n1 - road\n",
        "0 -> sky\n1 -> road\n",
        "0=sky\n1=road\n",
        "sky: 0\nroad: 1\n",
        "name,id\nroad,1\nsky,0\n",
        "id name\n0 sky\n1 road\n",
        ',name\n0,"sky"\n1,"road"\n',
        "name\nsky\nroad\n",
        "# two classes\nsky\nroad\n",
        '"sky",\n"road",\n',
    ],
)
def test_numbers_and_headings_are_no_part_of_the_names(tmp_path: Path, text: str) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(text)
    assert read_names(path).names == ["sky", "road"]


@pytest.mark.parametrize(
    "text",
    [
        *("1, sky\n2, road\n", "0, sky\nroad\n", "sky,1\nroad,2\n", "a,b\n0, sky\nroad\n"),
        *("sky:1,2,3::\nroad:2,3,4::\n", "id,name,color\n0,sky,red\n1,road,blue\n"),
        "sky,1,2,3\nroad,2,3,4\n",
    ],
)
def test_names_beside_doubtful_numbers_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(DataError, match="not a list of class names"):
        read_names(path)
