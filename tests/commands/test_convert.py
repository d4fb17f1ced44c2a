"""`segacc convert`: data sets to the files of annotation tools, and back to index PNGs."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import segacc
from cli_tools import NAMES, Warm, assert_refused, assert_succeeded, write_data
from segacc import DataSplits, LabelMap, Sample
from segacc.commands.convert.command import write_all
from segacc.commands.convert.images import Names
from segacc.errors import DataError, OptionError
from segacc.settings.commands import ConvertConfig

pytest_plugins = ["cli_fixtures"]

EXACT: dict[str, dict[str, Any]] = {
    "coco": {"shapes": "masks"},
    "cvat": {"shapes": "masks"},
    "labelme": {"tolerance": 0},
    "labelstudio": {"tolerance": 0},
    "yolo": {"tolerance": 0},
}
"""Settings by which a format loses no pixel."""


def pixels(root: Path, kind: str = "annotations") -> dict[str, Any]:
    """Read the PNGs of a data set by split and stem."""
    found = sorted((root / kind).glob("*/*"))
    return {f"{one.parent.name}/{one.stem}": np.array(Image.open(one)) for one in found}


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a data set with ignored pixels, whose background is not its first class."""
    root = write_data(
        tmp_path_factory.mktemp("partly") / "data", names=("sky", "Background", "bar")
    )
    for path in (root / "annotations").glob("*/*.png"):
        label = np.array(Image.open(path))
        label[30:34, 5:40] = 255
        Image.fromarray(label).save(path)
    return root


@pytest.mark.parametrize("kind", EXACT)
def test_there_and_back_no_pixel_changes(data: Path, tmp_path: Path, kind: str) -> None:
    there = segacc.convert(data, tmp_path / "there", format=kind, **EXACT[kind])
    told = f"7 images (4 train, 3 validation) of 2 classes written to {tmp_path}/there; "
    assert there.text.startswith(told) and there.classes == NAMES[1:]
    back = segacc.convert(str(there.folder), tmp_path / "back")
    assert back.classes == NAMES and back.num_images == there.num_images
    for part in ("annotations", "images"):
        wanted = pixels(data, part)
        for name, found in pixels(back.folder, part).items():
            assert np.array_equal(found, wanted[name]), name
    told_names = json.loads((back.folder / "classes.json").read_text())["id2label"]
    assert list(told_names.values()) == list(NAMES)


@pytest.mark.parametrize("kind", EXACT)
def test_ignored_pixels_stay_ignored_and_no_class_is_shifted(
    partly: Path, tmp_path: Path, kind: str
) -> None:
    there = segacc.convert(partly, tmp_path / "there", format=kind, **EXACT[kind])
    assert there.classes == ("sky", "bar", "__ignore__")
    told = 'ignored pixels are written as the class "__ignore__", the last one'
    assert there.notes[-1] == told
    back = segacc.convert(str(there.folder), tmp_path / "back")
    assert back.classes == ("background", "sky", "bar")  # readers put the background first
    wanted = np.array([1, 0, 2, *range(3, 256)])
    labels = pixels(back.folder)
    assert labels and all(255 in label for label in labels.values())
    for name, label in labels.items():
        assert np.array_equal(label, wanted[pixels(partly)[name]])


def test_index_pngs_hold_classes_and_not_raw_ids(warm: Warm, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", first=1)
    source = f"folder:root={data},reduce_labels=true"
    assert_succeeded(warm("convert", source, "out", "--split", "val", cwd=tmp_path))
    raw, found = pixels(data), pixels(tmp_path / "out")
    assert sorted(found) == [f"validation/validation{k}" for k in range(3)]
    assert all(np.array_equal(found[name], raw[name] - 1) for name in found)
    with Image.open(tmp_path / "out/annotations/validation/validation0.png") as picture:
        colors = np.array(picture.convert("RGB"))
    palette = np.array(json.loads((tmp_path / "out/classes.json").read_text())["palette"])
    assert np.array_equal(colors, palette[found["validation/validation0"]])
    done = warm("check-data", "--dataset", tmp_path / "out", cwd=tmp_path)
    assert "unreadable" not in done.stdout and "3 validation" in done.stdout + done.stderr


def test_polygons_of_the_package_s_images_keep_their_classes(tmp_path: Path) -> None:
    splits = ["train[:3]", "validation[:2]"]
    plain = segacc.convert("nuclei", tmp_path / "plain", split=splits)
    for kind in ("coco", "yolo"):
        there = segacc.convert(plain.folder, tmp_path / kind, format=kind)
        found = pixels(segacc.convert(there.folder, tmp_path / f"back-{kind}").folder)
        for name, label in pixels(plain.folder).items():
            one, other = label == 1, found[name] == 1
            assert (one & other).sum() >= 0.99 * (one | other).sum()


def test_images_are_copied_or_linked(warm: Warm, data: Path, tmp_path: Path) -> None:
    for how in ("copy", "link"):
        flags = ("--images", how, "--format", "coco")
        assert_succeeded(warm("convert", data, how, *flags, cwd=tmp_path))
        mine = tmp_path / how / "images/train/train0.png"
        original = data / "images/train/train0.png"
        assert mine.read_bytes() == original.read_bytes()
        assert mine.samefile(original) is (how == "link")


def test_a_stream_is_converted(warm: Warm, data: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for k in range(3):
            for kind, end in (("images", "png"), ("annotations", "label.png")):
                tar.add(data / kind / "train" / f"train{k}.png", f"train{k}.{end}")
    source = f"shards:train={tmp_path}/0.tar,names={data}/classes.txt"
    source += ",image=png,label=label.png"
    done = warm("convert", source, "out", "--format", "labelme", cwd=tmp_path)
    assert "3 images (3 train) of 2 classes written to out" in assert_succeeded(done).stderr
    told = json.loads((tmp_path / "out/train/0_train2.json").read_text())
    assert told["imagePath"] == "0_train2.png"
    images = pixels(data, "images")
    with Image.open(tmp_path / "out/train/0_train2.png") as copy:
        assert np.array_equal(copy, images["train/train2"])


def test_the_function_returns_what_was_written(data: Path, tmp_path: Path) -> None:
    found = segacc.convert(
        str(data), tmp_path / "out", format="labelstudio", image_url="https://x/", split=["train"]
    )
    assert found.num_images == {"train": 4} and found.classes == ("disc", "bar")
    assert str(found) == found.text and found.folder == tmp_path / "out"
    tasks = json.loads((tmp_path / "out/train/tasks.json").read_text())
    assert tasks[0]["data"]["image"] == "https://x/train/images/train0.png"
    with pytest.raises(OptionError) as error:
        segacc.convert(str(data), tmp_path / "new", tolerance=1)
    assert str(error.value) == (
        "segacc.convert: tolerance: only has an effect on outlines; add format with coco, yolo, "
        "labelme or another format of a tool, or leave it out."
    )


REFUSED = [
    (
        ("--shapes", "masks"),
        "--shapes: only has an effect on outlines; add --format with coco, yolo, labelme or "
        "another format of a tool, or leave it out.",
    ),
    (
        ("--format", "yolo", "--shapes", "masks"),
        "--shapes masks: the label files of YOLO have polygons only. Leave it out; --tolerance 0 "
        "gives exact polygons.",
    ),
    (
        ("--format", "coco", "--shapes", "masks", "--tolerance", "1"),
        "--tolerance: masks are always exact. Leave it out, or choose other --shapes.",
    ),
    (
        ("--format", "coco", "--image-url", "https://x/"),
        "--image-url: only has an effect with --format labelstudio, whose files have URLs of "
        "images. Leave it out.",
    ),
    (
        ("--split", "test"),
        '--split: the data set has no split "test"; it has train, validation.',
    ),
    (
        ("--split", "train[:2]", "--split", "train"),
        "--split train: the split train is given twice.",
    ),
    (("--tolerance", "-1"), "--tolerance: expected a number >= 0; found '-1'."),
]


@pytest.mark.parametrize(("flags", "text"), REFUSED)
def test_settings_without_effect_are_refused(
    warm: Warm, data: Path, tmp_path: Path, flags: tuple[str, ...], text: str
) -> None:
    assert_refused(warm("convert", data, "out", *flags, cwd=tmp_path), text)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(warm: Warm, data: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    (tmp_path / "empty").mkdir()
    text = "TARGET: full exists, and nothing is overwritten. Give the path of a new folder, or "
    assert_refused(warm("convert", data, "full", cwd=tmp_path), f"{text}remove this one.")
    assert_succeeded(warm("convert", data, "empty", cwd=tmp_path))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["empty", "full"]


def spoil_size(data: Path) -> str:
    path = data / "annotations/validation/validation2.png"
    Image.new("L", (10, 12)).save(path)
    return (
        f"{path}: the label is 12x10 pixels, its image 48x64 (height x width). They must be of one "
        "size: export the label again, or resize it with nearest neighbour."
    )


def spoil_values(data: Path) -> str:
    path = data / "annotations/validation/validation2.png"
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(path)
    return (
        f"{path}: label values outside the 3 classes: 7 (3072 pixels). Allowed raw ids: 0-2, 255. "
        "If these pixels should be ignored, add ignore=7; otherwise name the missing classes."
    )


def spoil_header(data: Path) -> str:
    path = data / "images/validation/validation2.png"
    path.write_bytes(b"no picture")
    return f"{path}: the image cannot be read: its header is damaged."


@pytest.mark.parametrize("spoil", [spoil_size, spoil_values, spoil_header])
def test_a_bad_file_stops_it_and_leaves_nothing(warm: Warm, tmp_path: Path, spoil: Any) -> None:
    data = write_data(tmp_path / "data")
    text = spoil(data)
    done = warm("convert", f"folder:root={data}", "out", "--format", "coco", cwd=tmp_path)
    assert_refused(done, text)
    assert [one.name for one in tmp_path.iterdir()] == ["data"]


def test_ids_become_names_of_files_and_clashes_are_refused() -> None:
    names, none = Names(), Path("none.png")
    wanted = {"x": "x.png", "b/.x": "b_.x.png", ".y": "y.png", 'c:"*': "c_.png"}
    assert {one: names.of(Sample(none, none, one)) for one in wanted} == wanted
    names.of(Sample(none, none, "a/x"))
    with pytest.raises(DataError) as error:
        names.of(Sample(Path("A_x.jpg"), none, "A_x"))
    assert str(error.value) == (
        "The samples a/x and A_x would both be written as A_x; rename the image of one, or "
        "convert them to different folders."
    )
    with pytest.raises(DataError) as error:
        names.of(Sample(none, none, "x"))
    assert str(error.value) == (
        "The two samples with the id x would both be written as x; rename the image of one, or "
        "convert them to different folders."
    )


@pytest.mark.parametrize("split", ["../evil", "/tmp/x", "..", "a\\b", ""])
def test_a_split_whose_name_is_no_folder_s_is_refused(tmp_path: Path, split: str) -> None:
    labels = LabelMap.plain(("a", "b"))
    sample = Sample(b"", b"", "x")
    with pytest.raises(DataError, match="cannot be written, since a folder cannot have this name"):
        write_all(
            DataSplits({split: [sample]}, labels),
            {split: [sample]},
            tmp_path / "out",
            ConvertConfig(),
            Console(quiet=True),
        )
    assert not list(tmp_path.iterdir())


def test_labels_for_images_as_stored_are_refused(warm: Warm, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", counts={"train": 2})
    path = data / "images/train/train1.png"
    with Image.open(path) as picture:
        exif = picture.getexif()
        exif[0x0112] = 3
        picture.save(path, exif=exif)
    segacc.convert(data, tmp_path / "upright")
    done = warm("convert", f"folder:root={data},exif=stored", "stored", cwd=tmp_path)
    assert_refused(
        done,
        f"{path}: its EXIF orientation is 3, by which annotation tools rotate it, but with "
        "exif=stored its label is for the image as it is stored. Remove the orientation from the "
        "file first, e.g. with `exiftool -Orientation= FILE`.",
    )
