"""The grammar of components, the decoding of options, and the full text of each error."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le
from pydantic import PositiveInt

from segacc.errors import OptionError, did_you_mean
from segacc.settings.options import OptionDoc, Size, decode, describe, parse_component


@dataclass(frozen=True, kw_only=True)
class BaseOptions:
    """What the options below share."""

    weight: Annotated[float, Gt(0)] = 1.0
    """Factor of this term."""


@dataclass(frozen=True, kw_only=True)
class Options(BaseOptions):
    """One field of each type that the built-ins use."""

    root: Path
    """The folder."""
    variant: Literal["b0", "b1"] = "b0"
    """Size of the network,
    in two lines."""
    ratio: Annotated[float, Ge(0), Le(1)] = 0.5
    """A share, 0..1."""
    depth: PositiveInt = 3
    border: bool = False
    """True or false."""
    ignore: tuple[int, ...] = ()
    """Raw ids."""
    crop_size: Size = (256, 256)
    """In pixels."""
    names: Path | None = None
    tags: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class NoOptions:
    """Nothing to set."""


def parsed(text: Any) -> tuple[str, Mapping[str, Any]]:
    component = parse_component(text, "--aug")
    assert component.where == "--aug"
    return component.name, component.values


def decoded(**values: Any) -> Options:
    return decode(Options, {"root": "data", **values}, "--dataset folder")


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("flip", "flip", {}),
        ("  flip  ", "flip", {}),
        ("flip:", "flip", {}),
        ("flip:p=0.5", "flip", {"p": "0.5"}),
        ("jitter:brightness=0.25,hue=0.1", "jitter", {"brightness": "0.25", "hue": "0.1"}),
        ("jitter: brightness = 0.25 , hue=0.1,", "jitter", {"brightness": "0.25", "hue": "0.1"}),
        ("segformer:drop-path=0", "segformer", {"drop_path": "0"}),
        ("segacc-example/dice:weight=2", "segacc-example/dice", {"weight": "2"}),
        ("folder:root=C:/my data/x", "folder", {"root": "C:/my data/x"}),
        ("folder:root=hf://a/b=c", "folder", {"root": "hf://a/b=c"}),
        ("folder:root=", "folder", {"root": ""}),
        ("folder:root='a,b',ignore=1", "folder", {"root": "a,b", "ignore": "1"}),
        ('folder:root="it\'s, here"', "folder", {"root": "it's, here"}),
        ("folder:root=/it's/here,ignore=1", "folder", {"root": "/it's/here", "ignore": "1"}),
        ("folder:root=a]b[c,ignore=1", "folder", {"root": "a]b[c", "ignore": "1"}),
        ("folder:ignore=[0, 11],border=true", "folder", {"ignore": [0, 11], "border": "true"}),
        ("folder:ignore=[0, '1,]'],p=1", "folder", {"ignore": [0, "1,]"], "p": "1"}),
        ("x:map={a: [1, 2], b: 3},y=[]", "x", {"map": {"a": [1, 2], "b": 3}, "y": []}),
        ("folder:ignore=0/11", "folder", {"ignore": "0/11"}),
        ("folder:root=[2024] scans,p=1", "folder", {"root": "[2024] scans", "p": "1"}),
        ("folder:root='a' b,p=1", "folder", {"root": "'a' b", "p": "1"}),
        ("folder:ignore=[010, 7]", "folder", {"ignore": [10, 7]}),
    ],
)
def test_the_grammar(text: str, name: str, values: dict[str, Any]) -> None:
    assert parsed(text) == (name, values)


def test_a_mapping_says_the_same_as_a_text() -> None:
    given = {"name": "segformer", "variant": "b1", "drop-path": 0.1}
    assert parsed(given) == ("segformer", {"variant": "b1", "drop_path": 0.1})
    assert given["name"] == "segformer", "what the caller gave is left alone"
    assert parsed({"name": "flip"}) == ("flip", {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "--aug: expected a name such as `segformer:variant=b0`, got ''."),
        ("  ", "--aug: expected a name such as `segformer:variant=b0`, got '  '."),
        (5, "--aug: expected a name such as `segformer:variant=b0`, got 5."),
        (None, "--aug: expected a name such as `segformer:variant=b0`, got None."),
        (
            "folder:root=a,b",
            "--aug: cannot read 'b' in 'folder:root=a,b'. Options are written "
            "`name:key=value,key=value`; a value with commas goes in quotes or brackets.",
        ),
        (
            "flip:=1",
            "--aug: cannot read '=1' in 'flip:=1'. Options are written "
            "`name:key=value,key=value`; a value with commas goes in quotes or brackets.",
        ),
        ("f:p=1,p=2", "--aug: the option 'p' is given twice in 'f:p=1,p=2'."),
        ("f:a-b=1,a_b=2", "--aug: the option 'a_b' is given twice in 'f:a-b=1,a_b=2'."),
        ("f:x=[1,2,y=3", "--aug: x: a quote or bracket in '[1,2,y=3' is not closed."),
        ("f:x='a,y=3", '--aug: x: a quote or bracket in "\'a,y=3" is not closed.'),
        (
            {"variant": "b0", "x": 1},
            "--aug: a mapping needs the key `name`, as in {name: segformer, variant: b0}; "
            "found the keys variant, x.",
        ),
        (
            {},
            "--aug: a mapping needs the key `name`, as in {name: segformer, variant: b0}; "
            "found the keys none.",
        ),
    ],
)
def test_what_does_not_follow_the_grammar(given: Any, message: str) -> None:
    with pytest.raises(OptionError) as error:
        parse_component(given, "--aug")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("root", "data/x", Path("data/x")),
        ("names", "names.txt", Path("names.txt")),
        ("names", None, None),
        ("variant", "b1", "b1"),
        ("ratio", "0.25", 0.25),
        ("ratio", 1, 1.0),
        ("ratio", "1e-3", 0.001),
        ("depth", "7", 7),
        ("depth", 7, 7),
        ("border", "true", True),
        ("border", "True", True),
        ("border", "yes", True),
        ("border", "1", True),
        ("border", "off", False),
        ("border", False, False),
        ("ignore", "11", (11,)),
        ("ignore", "0/11", (0, 11)),
        ("ignore", [0, 11], (0, 11)),
        ("ignore", 255, (255,)),
        ("root", "~/x", Path.home() / "x"),
        ("ignore", [], ()),
        ("tags", "a/b c", ("a", "b c")),
        ("crop_size", "256", (256, 256)),
        ("crop_size", 256, (256, 256)),
        ("crop_size", "320x416", (320, 416)),
        ("crop_size", "320X416", (320, 416)),
        ("crop_size", [320, 416], (320, 416)),
        ("crop_size", [320], (320, 320)),
        ("crop_size", (320, 416), (320, 416)),
    ],
)
def test_a_value_becomes_what_its_type_says(key: str, given: Any, value: Any) -> None:
    result = getattr(decoded(**{key: given}), key)
    assert result == value
    assert type(result) is type(value)


def test_what_is_not_given_has_its_default() -> None:
    assert decoded() == Options(root=Path("data"))
    assert decode(NoOptions, {}, "--metric mean_iou") == NoOptions()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"vairant": "b1"},
            'unknown option "vairant". Did you mean "variant"? Known: weight, root, variant, '
            "ratio, depth, border, ignore, crop_size, names, tags.",
        ),
        (
            {"zzz": "b1"},
            'unknown option "zzz". Known: weight, root, variant, '
            "ratio, depth, border, ignore, crop_size, names, tags.",
        ),
        (
            {"variant": "b9"},
            "variant: expected one of b0, b1; found 'b9'.",
        ),
        (
            {"ratio": "1.5"},
            "ratio: expected a number >= 0 and <= 1; found '1.5'.",
        ),
        (
            {"weight": 0},
            "weight: expected a number > 0; found 0.",
        ),
        (
            {"weight": "nan"},
            "weight: expected a number > 0; found 'nan'.",
        ),
        (
            {"ratio": "half"},
            "ratio: expected a number >= 0 and <= 1; found 'half'.",
        ),
        (
            {"depth": "2.5"},
            "depth: expected an integer > 0; found '2.5'.",
        ),
        ({"depth": 0}, "depth: expected an integer > 0; found 0."),
        (
            {"border": "maybe"},
            "border: expected true or false; found 'maybe'.",
        ),
        (
            {"ignore": "0/x"},
            "ignore: expected a list of integers; found 'x'.",
        ),
        ({"ignore": True}, "ignore: expected a list of integers; found True."),
        (
            {"depth": 10**200},
            f"depth: expected an integer > 0; found 1{'0' * 76}..., which is larger than "
            "9007199254740992.",
        ),
        (
            {"crop_size": "0"},
            "crop_size: expected SIZE or HEIGHTxWIDTH in pixels > 0; found '0'.",
        ),
        (
            {"crop_size": [1, 2, 3]},
            "crop_size: expected SIZE or HEIGHTxWIDTH in pixels > 0; found [1, 2, 3].",
        ),
        (
            {"depth": 0, "border": 5},
            "depth: expected an integer > 0; found 0. border: expected true or false; found 5.",
        ),
    ],
)
def test_a_wrong_value_is_told_in_one_paragraph(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        decoded(**values)
    assert str(error.value) == f"--dataset folder: {message}"
    hidden = error.value.__suppress_context__ or error.value.__context__ is None
    assert hidden, "pydantic's own traceback is not for users"


def test_what_must_be_given() -> None:
    with pytest.raises(OptionError) as error:
        decode(Options, {}, "--dataset folder")
    assert str(error.value) == '--dataset folder: the option "root" is required (path).'


def test_a_component_without_options() -> None:
    with pytest.raises(OptionError) as error:
        decode(NoOptions, {"weight": "1"}, "--metric mean_iou")
    assert str(error.value) == ('--metric mean_iou: unknown option "weight". It has no options.')


def test_did_you_mean() -> None:
    assert did_you_mean("segfomer", ["unet", "segformer"]) == 'Did you mean "segformer"? '
    assert did_you_mean("dinov3", ["dinov2", "dinov3_vit"]) == 'Did you mean "dinov3_vit"? '
    assert did_you_mean("zzz", ["unet", "segformer"]) == ""
    assert did_you_mean("x", []) == ""


def test_describe_tells_type_default_and_docstring() -> None:
    assert describe(Options) == [
        OptionDoc("weight", "number > 0", 1.0, "Factor of this term."),
        OptionDoc("root", "path", "required", "The folder."),
        OptionDoc("variant", "one of b0, b1", "b0", "Size of the network, in two lines."),
        OptionDoc("ratio", "number >= 0 and <= 1", 0.5, "A share, 0..1."),
        OptionDoc("depth", "integer > 0", 3, ""),
        OptionDoc("border", "true or false", False, "True or false."),
        OptionDoc("ignore", "list of integers", (), "Raw ids."),
        OptionDoc("crop_size", "SIZE or HEIGHTxWIDTH in pixels > 0", (256, 256), "In pixels."),
        OptionDoc("names", "path", None, ""),
        OptionDoc("tags", "list of text", (), ""),
    ]
    assert describe(NoOptions) == []


def test_a_union_is_told_once() -> None:
    @dataclass(frozen=True)
    class Named:
        arch: str | dict[str, Any] = "segformer"
        aug: tuple[str | dict[str, Any], ...] = ()
        steps: PositiveInt | None = None

    assert [doc.type for doc in describe(Named)] == [
        "text or mapping",
        "list of text or mapping",
        "integer > 0",
    ]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Options whose first one must be given."""

    root: str
    """Where."""
    depth: int = 0
    """How far."""


def test_a_first_value_without_a_key_is_the_option_that_must_be_given() -> None:
    named = parse_component("folder:../a b/c,depth=2", "--dataset")
    assert decode(Placed, named.values, named.where) == Placed(root="../a b/c", depth=2)
    twice = parse_component("folder:here,root=there", "--dataset")
    with pytest.raises(OptionError) as error:
        decode(Placed, twice.values, twice.where)
    assert str(error.value) == "--dataset: \"root\" is given twice: 'here' and 'there'."
