"""`hub`: columns, ids, class names and the forms of a label, from parquet that `datasets` wrote."""

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from data_tools import encode
from dataset_hub_data import (
    NAMES,
    build,
    check,
    embedded,
    ids_of,
    label_png,
    pairs,
    parquet,
    picture,
    refusal,
)
from segacc.data.decode import read_image, read_label
from segacc.errors import DataError, OptionError, UnreadableError
from segacc.hookspecs import Sample
from segacc.plugins.datasets import nuclei

pytest_plugins = ["dataset_hub_fixtures"]
pytestmark = pytest.mark.usefixtures("hub_cache")

NUCLEI = Path(nuclei.__file__).parent / "data" / "nuclei"


# ------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize("border", [False, True])
def test_nuclei_are_what_the_package_itself_reads(border: bool, tmp_path: Path) -> None:
    expected = nuclei.build_nuclei(nuclei.NucleiOptions(border=border))
    (tmp_path / "names.txt").write_text("\n".join(expected.labels.names))
    label = {"label": "annotation_border"} if border else {}
    splits = build(path=str(NUCLEI), names=str(tmp_path / "names.txt"), **label)
    assert splits.labels.classes == expected.labels.classes
    assert list(splits.splits) == ["train", "validation"]
    for name, samples in expected.splits.items():
        assert list(splits.splits[name]) == list(samples)


def test_the_shared_nuclei_by_a_pattern(shared: Path, hub_names: str) -> None:
    splits = build(path=str(shared / "nuclei_dsb2018" / "*.parquet"), names=hub_names)
    expected = nuclei.build_nuclei(nuclei.NucleiOptions())
    assert {name: [one.id for one in samples] for name, samples in splits.splits.items()} == {
        name: [one.id for one in samples] for name, samples in expected.splits.items()
    }


@pytest.mark.parametrize("border", [False, True])
def test_names_of_each_column_beside_the_data(shared: Path, border: bool) -> None:
    column = {"label": "annotation_border"} if border else {}
    found = build(path=str(shared / "nuclei_dsb2018"), **column).labels
    wanted = nuclei.build_nuclei(nuclei.NucleiOptions(border=border)).labels
    assert (found.names, found.classes) == (wanted.names, wanted.classes)
    facts = json.loads((shared / "nuclei_dsb2018" / "classes.json").read_text())
    told = facts["annotation_border" if border else "annotation"]
    assert [list(color) for color in found.palette] == told["palette"]


def test_a_names_file_beside_the_data_of_another_form(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    parquet(folder / "train.parquet", pairs(1))
    (folder / "classes.json").write_text('{"dataset": {"id2label": {"0": "a", "1": "b"}}}')
    assert refusal(path=str(folder)) == (
        f"{folder}/classes.json: not a list of class names (invalid literal for int() with base "
        "10: 'dataset'). Expected is a text file with one name per line, or JSON such as "
        '{"id2label": {"0": "road", "1": "sky"}}. It is next to the data; use names=FILE of '
        "--dataset hub to override it."
    )


def test_nothing_is_decoded_or_encoded_again(hub_names: str, tmp_path: Path) -> None:
    jpeg, label = encode(picture(0), "JPEG", quality=60), label_png(0)
    values = {"image": [embedded(jpeg, "a.jpg")], "label": [embedded(label, "a.png")]}
    file = parquet(tmp_path / "data" / "train.parquet", values)
    (sample,) = build(path=str(file), names=hub_names).splits["train"]
    assert sample == Sample(jpeg, label, "a")


def test_samples_can_be_sent_to_a_worker_and_end(hub_names: str, tmp_path: Path) -> None:
    file = parquet(tmp_path / "data" / "train.parquet", pairs(9))
    splits = build(path=str(file), names=hub_names)
    samples = pickle.loads(pickle.dumps(splits.splits["train"]))
    check(samples, splits.labels, range(9))
    check(samples[2:8:3], splits.labels, [2, 5])
    assert samples[-1].id == "8" and len(list(samples)) == 9
    with pytest.raises(IndexError):
        samples[9]


def test_loading_is_quiet_and_leaves_datasets_as_it_was(
    hub_names: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = parquet(tmp_path / "data" / "train.parquet", pairs(2))
    datasets.logging.set_verbosity_info()
    datasets.enable_progress_bars()
    before = {name: value for name, value in vars(datasets.config).items() if name.isupper()}
    try:
        capfd.readouterr()
        assert len(build(path=str(file), names=hub_names).splits["train"]) == 2
        assert capfd.readouterr() == ("", "")
        assert datasets.logging.get_verbosity() == datasets.logging.INFO
        assert not datasets.are_progress_bars_disabled()
    finally:
        datasets.logging.set_verbosity_warning()
    assert before == {
        name: value for name, value in vars(datasets.config).items() if name.isupper()
    }


# --------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("image", "label"),
        ("pixel_values", "labels"),
        ("img", "mask"),
        ("Image", "segmentation_mask"),
        ("photograph", "annotation"),
        ("image", "my_own_classes"),
    ],
)
def test_columns_are_found(image: str, label: str, hub_names: str, tmp_path: Path) -> None:
    values = {
        "note": ["x", "y"],
        "label_count": [1, 2],
        **pairs(2, image=image, label=label),
    }
    text = {"note": datasets.Value("string"), "label_count": datasets.Value("int64")}
    file = parquet(tmp_path / "data" / "train.parquet", values, **text)
    splits = build(path=str(file), names=hub_names)
    check(splits.splits["train"], splits.labels, [0, 1])


def test_columns_are_told(hub_names: str, tmp_path: Path) -> None:
    values = {**pairs(2, image="a", label="b"), "mask": pairs(2, first=5)["label"]}
    file = parquet(tmp_path / "data" / "train.parquet", values)
    splits = build(path=str(file), names=hub_names, image="a", label="b")
    check(splits.splits["train"], splits.labels, [0, 1])
    assert refusal(path=str(file), names=hub_names) == (
        "--dataset hub: several columns may be the image; add image=a or image=b. The columns are "
        "a (Image), b (Image), mask (Image)."
    )


def test_several_labels(hub_names: str, tmp_path: Path) -> None:
    values = {**pairs(1, label="annotation"), "mask": pairs(1)["label"]}
    file = parquet(tmp_path / "data" / "train.parquet", values)
    assert refusal(path=str(file), names=hub_names) == (
        "--dataset hub: several columns may be the label; add label=annotation or label=mask. The "
        "columns are image (Image), annotation (Image), mask (Image)."
    )


def test_a_data_set_of_another_task(hub_names: str, tmp_path: Path) -> None:
    values = {"image": pairs(1)["image"], "label": [0], "box": [[1, 2]]}
    box = datasets.List(datasets.Value("int32"))
    file = parquet(
        tmp_path / "data" / "train.parquet",
        values,
        label=datasets.ClassLabel(names=["cat", "dog"]),
        box=box,
    )
    columns = "The columns are image (Image), label (ClassLabel), box (list of int32)."
    assert refusal(path=str(file), names=hub_names) == (
        "--dataset hub: no column looks like the label; add label=COLUMN if one of them is. "
        + columns
    )
    assert refusal(OptionError, path=str(file), names=hub_names, label="label") == (
        "--dataset hub: label=label: the column contains ClassLabel, which is not an image, nor "
        f"integers in two dimensions. {columns}"
    )
    assert refusal(OptionError, path=str(file), names=hub_names, image="box") == (
        f"--dataset hub: image=box: the column contains list of int32, which is not an image. "
        f"{columns}"
    )
    assert refusal(OptionError, path=str(file), names=hub_names, label="labels") == (
        '--dataset hub: label=labels: there is no such column. Did you mean "label"? ' + columns
    )
    assert refusal(OptionError, path=str(file), names=hub_names, label="image", image="image") == (
        "--dataset hub: image=image,label=image: the two must differ."
    )


# ------------------------------------------------------------------------------- forms of a label


def with_labels(tmp_path: Path, cells: Sequence[Any], **features: Any) -> Path:
    values = {"image": pairs(len(cells))["image"], "label": cells}
    return parquet(tmp_path / "data" / "train.parquet", values, **features)


@pytest.mark.parametrize(
    "feature",
    [
        datasets.Array2D((6, 8), "uint8"),
        datasets.Array2D((None, 8), "int32"),
        datasets.Array2D((6, 8), "int64"),
        datasets.List(datasets.List(datasets.Value("int64"))),
        datasets.List(datasets.List(datasets.Value("uint8"), length=8)),
        datasets.LargeList(datasets.LargeList(datasets.Value("int16"))),
    ],
    ids=str,
)
def test_labels_may_be_integers_in_two_dimensions(
    feature: Any, hub_names: str, tmp_path: Path
) -> None:
    file = with_labels(tmp_path, [ids_of(k).tolist() for k in range(3)], label=feature)
    splits = build(path=str(file), names=hub_names)
    check(splits.splits["train"], splits.labels, range(3))
    again = pickle.loads(pickle.dumps(splits.splits["train"]))
    check(again, splits.labels, range(3))


def test_integers_are_encoded_without_loss(tmp_path: Path) -> None:
    arrays = [
        np.array([[0, 1], [254, 255], [3, 4]]),
        np.array([[0, 256], [65535, 7], [300, 8]]),
        np.array([[0, -1], [70000, 7], [2**31 - 1, -(2**31)]]),
    ]
    two = datasets.List(datasets.List(datasets.Value("int64")))
    (tmp_path / "names.txt").write_text("a\nb")
    file = with_labels(tmp_path, [array.tolist() for array in arrays], label=two)
    samples = build(path=str(file), names=str(tmp_path / "names.txt")).splits["train"]
    decoded = [Image.open(io.BytesIO(sample.label)) for sample in samples]
    for one, array in zip(decoded, arrays, strict=True):
        np.testing.assert_array_equal(np.asarray(one), array)
    assert [one.format for one in decoded] == ["PNG", "PNG", "TIFF"]
    assert [np.asarray(one).dtype.itemsize for one in decoded] == [1, 2, 4]


def test_booleans_are_two_classes(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("background\nwall")
    cells = [(ids_of(0) == 1).tolist()]
    two = datasets.List(datasets.List(datasets.Value("bool")))
    splits = build(
        path=str(with_labels(tmp_path, cells, label=two)), names=str(tmp_path / "names.txt")
    )
    label = read_label(splits.splits["train"][0].label, splits.labels, "x")
    np.testing.assert_array_equal(label.numpy(), ids_of(0) == 1)


def test_ids_outside_the_map_are_named(hub_names: str, tmp_path: Path) -> None:
    cells = [[[0, 1, 2], [2, -1, -1]], [[0, 1, 2], [2, 70000, 1]]]
    two = datasets.List(datasets.List(datasets.Value("int32")))
    splits = build(path=str(with_labels(tmp_path, cells, label=two)), names=hub_names)
    for sample, bad in zip(
        splits.splits["train"], ("-1 (2 pixels)", "70000 (1 pixel)"), strict=True
    ):
        with pytest.raises(DataError) as error:
            read_label(sample.label, splits.labels, "sample")
        start = f"sample: label values outside the 3 classes: {bad}. Allowed raw ids: 0-2, 255. "
        assert str(error.value).startswith(start)


def test_rows_without_a_label_are_found_when_they_are_read(hub_names: str, tmp_path: Path) -> None:
    cells = [[[0, 1], [1, 2]], None, [[0, 1], [1]], [], [[0, None], [1, 1]], [[], []]]
    two = datasets.List(datasets.List(datasets.Value("int32")))
    splits = build(path=str(with_labels(tmp_path, cells, label=two)), names=hub_names)
    samples = splits.splits["train"]
    assert read_label(samples[0].label, splits.labels, "x").tolist() == [[0, 1], [1, 2]]
    for sample, cell in zip(samples[1:], cells[1:], strict=True):
        with pytest.raises(UnreadableError) as error:
            read_label(sample.label, splits.labels, f"sample {sample.id}")
        empty = not cell or not any(cell)
        why = "it is empty" if empty else "not an image of a known format"
        assert str(error.value) == f"sample {sample.id}: the label cannot be read: {why}."


def test_pictures_of_no_bytes_are_found_when_they_are_read(hub_names: str, tmp_path: Path) -> None:
    values = {
        "image": [None, embedded(encode(picture(1)))],
        "label": [embedded(label_png(0)), None],
    }
    splits = build(path=str(parquet(tmp_path / "data" / "train.parquet", values)), names=hub_names)
    first, second = splits.splits["train"]
    with pytest.raises(UnreadableError, match="the image cannot be read: it is empty"):
        read_image(first.image, "x")
    with pytest.raises(UnreadableError, match="the label cannot be read: it is empty"):
        read_label(second.label, splits.labels, "x")
    assert read_label(first.label, splits.labels, "x").shape == (6, 8)


def test_palette_and_16_bit_labels_are_read_as_ids(tmp_path: Path) -> None:
    raw = ids_of(0)
    palette = Image.fromarray(raw.astype(np.uint8))
    palette.putpalette([0, 0, 0, 250, 10, 10, 10, 250, 10])
    assert palette.mode == "P"
    wide = raw * 300  # 0, 300, 600
    cells = [embedded(encode(palette)), embedded(encode(wide))]
    (tmp_path / "names.txt").write_text("a\nb\nc")
    file = with_labels(tmp_path, cells)
    splits = build(path=str(file), names=str(tmp_path / "names.txt"))
    label = read_label(splits.splits["train"][0].label, splits.labels, "x")
    np.testing.assert_array_equal(label.numpy(), raw)
    classes = {"classes": {0: "a", 300: "b", 600: "c"}}
    edited = build(path=str(file), names=str(tmp_path / "names.txt"), map=classes)
    label = read_label(edited.splits["train"][1].label, edited.labels, "x")
    np.testing.assert_array_equal(label.numpy(), raw)


def test_encoded_pictures_need_no_image_feature(hub_names: str, tmp_path: Path) -> None:
    """Parquet that other tools wrote: bytes, or bytes and path in a struct."""
    binary = datasets.Value("binary")
    values = {
        "image": [encode(picture(k)) for k in range(2)],
        "label": [{"bytes": label_png(k), "path": f"{k}.png"} for k in range(2)],
    }
    struct = {"bytes": binary, "path": datasets.Value("string")}
    file = parquet(tmp_path / "data" / "train.parquet", values, image=binary, label=struct)
    splits = build(path=str(file), names=hub_names)
    check(splits.splits["train"], splits.labels, [0, 1])
    assert [sample.id for sample in splits.splits["train"]] == ["0", "1"]


@pytest.mark.parametrize("absolute", [False, True])
def test_cells_may_be_paths(absolute: bool, hub_names: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for folder in ("pictures", "labels"):
        (data / folder).mkdir(parents=True)
    for k in range(2):
        (data / "pictures" / f"p{k}.png").write_bytes(encode(picture(k)))
        (data / "labels" / f"p{k}.png").write_bytes(label_png(k))
    start = data if absolute else Path()
    values = {
        "where": [str(start / "pictures" / f"p{k}.png") for k in range(2)],
        "label": [{"bytes": None, "path": str(start / "labels" / f"p{k}.png")} for k in range(2)],
    }
    text = datasets.Value("string")
    struct = {"bytes": datasets.Value("binary"), "path": text}
    file = parquet(data / "lists" / "train.parquet", values, where=text, label=struct)
    splits = build(path=str(data), names=hub_names, image="where")
    check(splits.splits["train"], splits.labels, [0, 1])
    assert [sample.id for sample in splits.splits["train"]] == ["p0", "p1"]
    (data / "labels" / "p1.png").unlink()
    gone = build(path=str(data), names=hub_names, image="where").splits["train"][1]
    assert isinstance(gone.label, Path) and gone.label.name == "p1.png"
    with pytest.raises(UnreadableError):
        read_label(gone.label, splits.labels, "x")
    assert file.is_file()


# ------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("column", "given", "expected"),
    [
        ("id", [7, 8, 9], ["7", "8", "9"]),
        ("image_id", ["c", "b", "a"], ["c", "b", "a"]),
        ("file_name", ["x/1.png", "y/1.png", "z.png"], ["x/1.png", "y/1.png", "z.png"]),
        ("id", ["a", "a", "b"], ["p0", "p1", "p2"]),
        ("image_id", [1, None, 2], ["p0", "p1", "p2"]),
        ("other", ["a", "b", "c"], ["p0", "p1", "p2"]),
    ],
)
def test_ids_come_from_a_column_or_the_paths(
    column: str, given: list[Any], expected: list[str], hub_names: str, tmp_path: Path
) -> None:
    values = {
        "image": [embedded(encode(picture(k)), f"some/p{k}.png") for k in range(3)],
        "label": pairs(3)["label"],
        column: given,
    }
    kind = datasets.Value("int64" if isinstance(given[0], int) else "string")
    file = parquet(tmp_path / "data" / "train.parquet", values, **{column: kind})
    assert [one.id for one in build(path=str(file), names=hub_names).splits["train"]] == expected


@pytest.mark.parametrize("path", [None, "image.png", ""])
def test_ids_are_row_numbers_where_nothing_tells_rows_apart(
    path: str | None, hub_names: str, tmp_path: Path
) -> None:
    values = {
        "image": [embedded(encode(picture(k)), path) for k in range(3)],
        "label": pairs(3)["label"],
    }
    file = parquet(tmp_path / "data" / "train.parquet", values)
    assert [one.id for one in build(path=str(file), names=hub_names).splits["train"]] == [
        "0",
        "1",
        "2",
    ]


# ----------------------------------------------------------------------------------- class names


def test_names_of_a_list_of_classes(tmp_path: Path) -> None:
    """As `classes_in_image`; the scene of a picture names no pixels."""
    values = {**pairs(2), "scene": [0, 1], "classes_in_image": [[0, 1], [2]]}
    scenes = datasets.ClassLabel(names=["street", "kitchen"])
    classes = datasets.List(datasets.ClassLabel(names=list(NAMES)))
    file = parquet(
        tmp_path / "data" / "train.parquet", values, scene=scenes, classes_in_image=classes
    )
    splits = build(path=str(file))
    assert splits.labels.names == NAMES
    check(splits.splits["train"], splits.labels, [0, 1])
    # A file that was typed goes before, one that lies there does not.
    (tmp_path / "data" / "id2label.json").write_text('{"0": "a", "1": "b", "2": "c"}')
    assert build(path=str(file)).labels.names == NAMES
    typed = build(path=str(file), names=str(tmp_path / "data" / "id2label.json"))
    assert typed.labels.names == ("a", "b", "c")


def test_names_of_the_labels_themselves(tmp_path: Path) -> None:
    two = datasets.List(datasets.List(datasets.ClassLabel(names=list(NAMES))))
    splits = build(path=str(with_labels(tmp_path, [ids_of(0).tolist()], label=two)))
    assert splits.labels.names == NAMES
    check(splits.splits["train"], splits.labels, [0])


def test_names_from_a_file_beside_the_data(tmp_path: Path) -> None:
    file = parquet(tmp_path / "data" / "train.parquet", pairs(2))
    content = {"id2label": dict(enumerate(NAMES)), "ignore_index": 2, "palette": [[1, 2, 3]] * 3}
    (file.parent / "id2label.json").write_text(json.dumps(content))
    for path in (file, file.parent, file.parent / "*.parquet"):
        labels = build(path=str(path)).labels
        assert labels.names == NAMES and labels.palette == ((1, 2, 3),) * 3
        assert labels.classes == {0: 0, 1: 1, 2: 255, 255: 255}


def test_no_names_at_all(tmp_path: Path) -> None:
    ways = (
        'Add names=FILE (a text file with one per line, or JSON such as {"0": "road", "1": '
        '"sky"}), or '
        "put it next to the data as classes.json or id2label.json or classes.txt."
    )
    file = parquet(tmp_path / "data" / "train.parquet", pairs(1))
    assert refusal(path=str(file)) == (f"--dataset hub: path={file} has no class names. {ways}")
    scenes = datasets.ClassLabel(names=["street", "kitchen"])
    file = parquet(
        tmp_path / "more" / "train.parquet",
        {**pairs(1), "scene_category": [1]},
        scene_category=scenes,
    )
    assert refusal(path=str(file)) == (
        f"--dataset hub: path={file} has no class names (scene_category: not names of pixels). "
        f"{ways}"
    )


def test_the_label_map_is_changed_by_options(hub_names: str, tmp_path: Path) -> None:
    file = str(parquet(tmp_path / "data" / "train.parquet", pairs(1)))
    ignoring = build(path=file, names=hub_names, ignore="1/7").labels
    assert ignoring.classes == {0: 0, 1: 255, 2: 2, 7: 255, 255: 255}
    reduced = build(path=file, names=hub_names, reduce_labels="true").labels
    assert reduced.classes == {0: 255, 1: 0, 2: 1, 3: 2, 255: 255}
    (tmp_path / "map.yaml").write_text("merge: {nature: [sky, tree]}\n")
    for edits in ({"merge": {"nature": ["sky", "tree"]}}, str(tmp_path / "map.yaml")):
        splits = build(path=file, names=hub_names, map=edits)
        assert sorted(splits.labels.names) == ["nature", "road"]
        label = read_label(splits.splits["train"][0].label, splits.labels, "x").numpy()
        expected = splits.labels.names.index("road")
        np.testing.assert_array_equal(label == expected, ids_of(0) == 1)
    assert refusal(OptionError, path=file, names=hub_names, map={"drop": ["river"]}).startswith(
        "--dataset hub: map: "
    )
