"""`folder`: labels in colours, of two values, of 16 bits, and edits of the label map."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from folder_tools import build, read_labels, refusal, save
from segacc.data.sample_pair import read_sample
from segacc.errors import DataError

IMAGE = np.zeros((4, 6, 3))
IDS = np.tile([0, 1, 2, 0, 2, 1], (4, 1))
COLORS = np.array([(0, 0, 0), (128, 64, 128), (64, 0, 128)], np.uint8)  # CamVid's
TABLE = "0 0 0\t\tVoid\n128 64 128\tRoad\n64 0 128\tCar\n"
WHERE = "--dataset folder:"


def laid_out(root: Path, *labels: Any) -> Path:
    """Write a training split with these labels, called a, b, ..."""
    for name, label in zip("abcdef", labels, strict=False):
        save(root / f"images/train/{name}.png", IMAGE)
        save(root / f"labels/train/{name}.png", label)
    return root


# --------------------------------------------------------------------------------------- colours


def test_colours_are_classes_in_the_order_of_the_table(tmp_path: Path) -> None:
    laid_out(tmp_path, COLORS[IDS])
    (tmp_path / "label_colors.txt").write_text(TABLE)
    splits = build(tmp_path, colors="label_colors.txt")
    assert splits.labels.names == ("Void", "Road", "Car")
    assert splits.labels.palette == tuple(tuple(map(int, color)) for color in COLORS)
    np.testing.assert_array_equal(read_labels(splits)[0], IDS)
    again = build(tmp_path, colors=str(tmp_path / "label_colors.txt"))
    assert again.labels == splits.labels


@pytest.mark.parametrize(
    ("option", "text", "told"),
    [
        (
            "names",
            "# none yet\n",
            "A label map needs 2 to 255 classes, got none. With a single class",
        ),
        ("names", "a\nb\na\n", "Two classes have the same name: a."),
        ("binary", "a\na\n", "Two classes have the same name: a."),
        (
            "colors",
            "a 1 2 3\n",
            "A label map needs 2 to 255 classes, got 1: a. With a single class",
        ),
    ],
)
def test_classes_that_cannot_be_are_told_with_their_file(
    option: str, text: str, told: str, tmp_path: Path
) -> None:
    laid_out(tmp_path, IDS.clip(0, 1) * 255)
    path = tmp_path / "list.txt"
    path.write_text(text)
    more = {"binary": True, "names": str(path)} if option == "binary" else {option: str(path)}
    assert refusal(tmp_path, **more).startswith(f"{path}: {told}")


def test_a_colour_may_count_for_nothing(tmp_path: Path) -> None:
    laid_out(tmp_path, COLORS[IDS])
    (tmp_path / "colors.txt").write_text(TABLE)
    splits = build(tmp_path, colors="colors.txt", map={"drop": ["Void"]})
    assert splits.labels.names == ("Road", "Car")
    np.testing.assert_array_equal(read_labels(splits)[0], np.where(IDS == 0, 255, IDS - 1))


def test_camvid_in_colours_is_what_its_ids_are(shared: Path, tmp_path: Path) -> None:
    facts = json.loads((shared / "camvid" / "classes.json").read_text())
    palette = np.array([*facts["palette"], facts["ignore_color"]], np.uint8)
    wanted = []
    for number, path in enumerate(sorted((shared / "camvid/annotations/val").iterdir())[::30]):
        ids = np.array(Image.open(path))
        save(tmp_path / f"images/val/{number}.png", np.zeros((*ids.shape, 3)))
        save(tmp_path / f"labels/val/{number}.png", palette[ids])
        wanted.append(np.where(ids == 11, 255, ids))
    splits = build(tmp_path, colors=str(shared / "camvid" / "classes.json"))
    assert splits.labels.names == build(shared / "camvid").labels.names
    assert len(wanted) == 4
    for found, label in zip(read_labels(splits, "validation"), wanted, strict=True):
        np.testing.assert_array_equal(found, label)


def test_a_colour_that_is_not_in_the_table_is_told_with_its_file(tmp_path: Path) -> None:
    pixels = COLORS[IDS]
    pixels[0, :2] = 128, 64, 129
    splits = build(laid_out(tmp_path, pixels), colors=str(table(tmp_path)))
    with pytest.raises(DataError) as error:
        read_labels(splits)
    assert str(error.value) == (
        f"{tmp_path / 'labels/train/a.png'}: colours that are not among the 3 of the colour table: "
        "(128, 64, 129) (2 pixels; nearest is (128, 64, 128), Road). Add them to the colour table; "
        "to ignore a class of the table, use map={drop: [NAME]}."
    )


def table(folder: Path) -> Path:
    (folder / "colors.txt").write_text(TABLE)
    return folder / "colors.txt"


def test_colours_without_a_table_are_refused(tmp_path: Path) -> None:
    laid_out(tmp_path, COLORS[IDS])
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError) as error:
        read_labels(build(tmp_path))
    assert str(error.value) == (
        f"{tmp_path / 'labels/train/a.png'}: the label is a RGB image with 3 channels; expected "
        "one channel of class ids. Name the class of each colour (colors=FILE of --dataset "
        "folder), or export index masks (palette PNGs are read as ids)."
    )


@pytest.mark.parametrize("other", [{"names": "x.txt"}, {"reduce_labels": "true"}])
def test_a_colour_table_names_the_classes(other: dict[str, str], tmp_path: Path) -> None:
    assert refusal(tmp_path, colors="colors.txt", **other) == (
        f"{WHERE} colors also gives the class names; leave out names and reduce_labels."
    )


# ---------------------------------------------------------------------------------------- binary


@pytest.mark.parametrize("value", [1, 7, 255])
def test_binary_labels_hold_0_and_whatever_else(value: int, tmp_path: Path) -> None:
    where = IDS > 0
    splits = build(laid_out(tmp_path, where * 0, where * value), binary="true")
    assert splits.labels.names == ("background", "foreground")
    nothing, found = read_labels(splits)
    assert not nothing.any()
    np.testing.assert_array_equal(found, where)
    np.testing.assert_array_equal(splits.labels.restore(found), where * value)


def test_binary_labels_may_be_colours_or_of_one_bit(tmp_path: Path) -> None:
    where = IDS > 0
    red = build(laid_out(tmp_path / "red", where[..., None] * [200, 0, 0]), binary="true")
    np.testing.assert_array_equal(read_labels(red)[0], where)
    white = build(
        laid_out(tmp_path / "white", where[..., None] * [255, 255, 255], where * 255), binary="true"
    )
    for found in read_labels(white):  # the second is grey
        np.testing.assert_array_equal(found, where)
    bits = laid_out(tmp_path / "bits", where * 0)
    Image.fromarray(where).save(bits / "labels/train/a.png")
    assert Image.open(bits / "labels/train/a.png").mode == "1"
    np.testing.assert_array_equal(read_labels(build(bits, binary="true"))[0], where)


def test_binary_classes_may_have_names(tmp_path: Path) -> None:
    laid_out(tmp_path, (IDS > 0) * 255)
    (tmp_path / "classes.txt").write_text("sound\ncrack\n")
    assert build(tmp_path, binary="true").labels.names == ("sound", "crack")
    (tmp_path / "classes.txt").write_text("crack\n")
    assert refusal(tmp_path, binary="true") == (
        f"{WHERE} binary=true needs two class names, the background's first; "
        f"{tmp_path / 'classes.txt'} has 1."
    )


def test_smooth_edges_are_not_binary(tmp_path: Path) -> None:
    smooth = np.tile([0, 64, 255, 255, 191, 0], (4, 1))
    splits = laid_out(tmp_path, smooth)
    assert refusal(splits, binary="true") == (
        f"{WHERE} binary=true needs labels with 0 and one other value, but "
        f"{tmp_path / 'labels/train/a.png'} has 64, 191, 255 besides 0. If edges are smooth, "
        "export the labels again without anti-aliasing; to ignore a value, add "
        "ignore=VALUE."
    )


def test_a_third_value_may_be_ignored_or_is_found_when_read(tmp_path: Path) -> None:
    laid_out(tmp_path, (IDS > 0) * 1, IDS * 1, np.where(IDS == 2, 255, IDS))
    splits = build(tmp_path, binary="true")
    with pytest.raises(DataError) as error:
        read_labels(splits)
    assert str(error.value).startswith(
        f"{tmp_path / 'labels/train/b.png'}: label values outside the 2 classes: 2 (8 pixels)."
    )
    first, second, third = read_labels(build(tmp_path, binary="true", ignore="2/255"))
    np.testing.assert_array_equal(first, IDS > 0)
    for found in (second, third):
        np.testing.assert_array_equal(found, np.where(IDS == 2, 255, IDS))


def test_binary_labels_without_foreground(tmp_path: Path) -> None:
    laid_out(tmp_path, IDS * 0)
    assert refusal(tmp_path, binary="true") == (
        f"{WHERE} binary=true, but no label has a value other than 0."
    )
    assert refusal(tmp_path, binary="true", colors="x") == (
        f"{WHERE} binary=true detects the values itself; leave out colors and reduce_labels."
    )


# ---------------------------------------------------------------------------------- ids and edits


def test_ids_of_16_bits_get_classes_through_a_map(tmp_path: Path) -> None:
    laid_out(tmp_path, IDS)
    raw = np.array([7, 26001, 65535], np.uint16)[IDS]
    Image.fromarray(raw).save(tmp_path / "labels/train/a.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "map.yaml").write_text("classes: {7: road, 26001: car}\nignore: [65535]\n")
    splits = build(tmp_path, map="map.yaml")
    assert splits.labels.names == ("road", "car")
    found = read_labels(splits)[0]
    np.testing.assert_array_equal(found, np.where(IDS == 2, 255, IDS))
    kept = IDS < 2
    np.testing.assert_array_equal(splits.labels.restore(found[kept][None]), raw[kept][None])


def test_edits_are_typed_or_in_a_file(tmp_path: Path) -> None:
    laid_out(tmp_path, IDS)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    (tmp_path / "edits.yaml").write_text("merge: {ground: [road, car]}\n")
    typed = build(tmp_path, map={"merge": {"ground": ["road", "car"]}})
    assert build(tmp_path, map="edits.yaml").labels == typed.labels
    assert typed.labels.names == ("sky", "ground")
    for sample in typed.splits["train"]:
        label = read_sample(sample, typed.labels)[1].numpy()
        np.testing.assert_array_equal(label, IDS > 0)


def test_edits_that_cannot_be(tmp_path: Path) -> None:
    laid_out(tmp_path, IDS)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    assert refusal(tmp_path, map={"drop": ["raod"]}) == (
        f'{WHERE} map: drop: there is no class "raod". Did you mean "road"? Known: sky, road, car.'
    )
    (tmp_path / "edits.yaml").write_text("drop: [raod]\n")
    assert refusal(tmp_path, map="edits.yaml") == (
        f'{WHERE} map={tmp_path / "edits.yaml"}: drop: there is no class "raod". Did you mean '
        '"road"? Known: sky, road, car.'
    )
