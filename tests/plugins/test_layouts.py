"""`--dataset PATH`: the layout and the classes of a folder are found, or two commands are told."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from check_tools import chosen, look
from cli_tools import TINY, Warm, assert_refused, assert_succeeded, metrics
from layout_tools import (
    COUNTS,
    FLAT,
    LAYOUTS,
    cities,
    in_colors,
    mask,
    matlab,
    pictures,
    via,
    voc,
    write,
)
from segacc import Recognized
from segacc.commands.check_data.text import would_stop
from segacc.commands.check_data.verdict import judge
from segacc.data.sample_pair import read_sample
from segacc.data.samples import build_splits
from segacc.errors import SegaccError
from segacc.registry import Offer, choose, load_registry

pytest_plugins = ["cli_fixtures"]

IMAGES, MASKS = "images/{split}/{name}.jpg", "masks/{split}/{name}.png"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder ./mine."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def refusal(typed: str = "./mine") -> str:
    with pytest.raises(SegaccError) as error:
        chosen(typed)
    return str(error.value)


def text(typed: str = "./mine") -> str:
    return chosen(typed).text.removeprefix("folder:root=./mine,")


# ------------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_found_and_has_no_faults(layout: str, mine: Path) -> None:
    fill, options = LAYOUTS[layout]
    fill(mine)
    data = chosen("./mine")
    assert data.text == f"folder:root=./mine,{options}"
    assert data.found is not None
    assert data.found.val_fraction == (0.2 if layout in FLAT else None)
    found = look("./mine", val_fraction=data.found.val_fraction)
    assert not would_stop(judge(found))
    counts = {name: facts.read for name, facts in found.splits.items()}
    assert (
        counts == {"train": 6, "validation": 2} if layout in FLAT else {"train": 5, "validation": 3}
    )
    assert [len(facts.faults) for facts in found.splits.values()] == [0, 0]


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"binary"}))
def test_every_image_has_its_own_label(layout: str, mine: Path) -> None:
    LAYOUTS[layout][0](mine)
    splits = build_splits(chosen("./mine"))
    known = {name: ids for _, name, _, ids in pictures()}
    known |= {name.replace("val", "valid"): ids for name, ids in known.items()}
    known |= {f"{name[0]}{name[-3:]}": ids for name, ids in known.items()}
    seen = 0
    for samples in splits.splits.values():
        for one in samples:
            name = one.id.partition("_jpg.rf")[0]
            np.testing.assert_array_equal(read_sample(one, splits.labels)[1].numpy(), known[name])
            assert Path(str(one.image)) != Path(str(one.label))
            seen += 1
    assert seen == sum(COUNTS.values())


@pytest.mark.parametrize(
    "typed", ["./mine", "mine", "mine/", "{path}", "../{above}/mine", "./mine:exif=upright"]
)
def test_a_path_is_typed_in_many_ways(typed: str, mine: Path) -> None:
    write(mine, IMAGES, MASKS)
    given = typed.format(path=mine, above=mine.parent.name)
    name, _, more = given.partition(":")
    options = "images=images,labels=masks,names=classes.txt" + (f",{more}" if more else "")
    assert chosen(given).text == f"folder:root={name},{options}"
    assert chosen(given).note == f"{name} is read as {chosen(given).text} (5 train, 3 validation)"


def test_a_folder_with_a_comma_is_quoted(mine: Path) -> None:
    write(mine / "a, b", IMAGES, MASKS)
    data = chosen("./mine/a, b")
    assert data.text.startswith('folder:root="./mine/a, b",images=images,')
    assert build_splits(chosen(data.text)) == build_splits(data)


def test_the_home_folder_is_expanded(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(mine, IMAGES, MASKS)
    monkeypatch.setenv("HOME", str(mine.parent))
    assert len(build_splits(chosen("~/mine")).splits["train"]) == 5


def test_a_data_set_of_the_same_name_is_meant_by_its_name(mine: Path) -> None:
    write(mine.parent / "nuclei", IMAGES, MASKS)
    assert chosen("nuclei").text == "nuclei"
    assert chosen("./nuclei").text.startswith("folder:root=./nuclei,")


def test_what_was_found_can_be_typed(mine: Path) -> None:
    for number, (fill, _) in enumerate(LAYOUTS.values()):
        fill(mine / str(number))
        found = chosen(f"./mine/{number}")
        again = chosen(found.text)
        assert again.found is None
        assert build_splits(again) == build_splits(found)


def test_a_test_split_without_labels_is_left_out(mine: Path) -> None:
    write(mine, IMAGES, MASKS)
    write(mine, IMAGES, IMAGES, counts={"test": 2})
    assert chosen("./mine").note.endswith("(5 train, 3 validation)")


def test_suffixes_on_both_sides(mine: Path) -> None:
    write(mine, "{split}/{name}_sat.jpg", "{split}/{name}_mask.png")
    assert text() == (
        "images=SPLIT,labels=SPLIT,image_suffix=_sat,label_suffix=_mask,names=classes.txt"
    )


def test_one_list_is_the_training_split(mine: Path) -> None:
    write(mine, "a/{name}.jpg", "b/{name}.png")
    rows = [f"a/{name}.jpg;b/{name}.png" for _, name, _, _ in pictures()]
    (mine / "all.csv").write_text("\n".join(["file;mask", *rows]))
    assert text() == "train=all.csv,names=classes.txt"
    assert chosen("./mine").found.val_fraction == 0.2


def test_data_sets_of_known_classes_are_found_without_a_class_list(mine: Path) -> None:
    for name, fill in {"voc": voc, "cityscapes": cities}.items():
        fill(mine / name)
        (mine / name / "classes.txt").unlink()
        assert chosen(f"./mine/{name}").text == f"{name}:root=./mine/{name}"


def test_ten_thousand_files_take_less_than_a_second(mine: Path) -> None:
    write(mine, IMAGES, MASKS)
    for number in range(5000):
        for path in ("images/train/{}.jpg", "masks/train/{}.png"):
            (mine / path.format(number)).touch()
    started = time.process_time()
    chosen("./mine")
    assert time.process_time() - started < 1


def test_a_plugin_may_read_a_folder_of_its_own(mine: Path) -> None:
    write(mine, IMAGES, MASKS)
    registry = load_registry()
    folder = registry.find("dataset", "folder", "here")

    def recognize(given: str, typed: Mapping[str, Any], where: str) -> Recognized | None:
        own = Path(given, "ours.txt").is_file()
        return Recognized("ours", {"root": given, "labels": "masks"}) if own else None

    ours = replace(folder, name="ours", recognize=recognize)
    registry.offers.append(Offer("dataset", ours, "segacc-ours", "1"))
    assert choose(registry, "dataset", "./mine", "here").name == "folder"
    (mine / "ours.txt").touch()
    data = choose(registry, "dataset", "./mine:ignore=2", "here")
    assert (data.name, data.text) == ("ours", "ours:root=./mine,labels=masks,ignore=2")
    assert data.note == f"./mine is read as {data.text}"


# ----------------------------------------------------------------------------------- refusals


def test_two_label_folders_are_told_with_a_command_for_each(mine: Path) -> None:
    write(mine, IMAGES, MASKS)
    write(mine, IMAGES, "labels/{split}/{name}.png", change=lambda ids: 2 - ids)
    assert refusal() == (
        "--dataset: ./mine can be read in 2 ways. Choose with `--dataset ./mine:labels=labels` or "
        "`--dataset ./mine:labels=masks`."
    )
    assert text("./mine:labels=masks") == "images=images,labels=masks,names=classes.txt"
    found = build_splits(chosen("./mine:labels=labels")).splits["train"][0]
    assert "labels" in Path(found.label).parts


def test_several_annotators_are_told_with_a_command_for_each(mine: Path) -> None:
    for person in ("anna", "ben"):
        write(mine, IMAGES, f"masks/{{split}}/{person}/{{name}}.png")
    assert refusal() == (
        "--dataset: ./mine can be read in 2 ways. Choose with `--dataset ./mine:annotator=anna` or "
        "`--dataset ./mine:annotator=ben`."
    )
    assert chosen("./mine:annotator=ben").note.endswith("(5 train, 3 validation)")


def test_an_id_above_the_names_has_two_readings(mine: Path) -> None:
    write(mine, IMAGES, MASKS, text="ground\ndisc\n")
    head = (
        "--dataset: mine/classes.txt has 2 names, for the ids 0 to 1, but the labels also contain "
        "the id 2 (shares of the pixels: {}). If 2 means `not labelled`, write `--dataset "
        "./mine:ignore=2`."
    )
    tail = " If 2 is a class, add its name to classes.txt."
    # 0 is most of all labels, and 2 is in all of them
    assert refusal() == head.format("0: 82.5 %, 1: 6.0 %, 2: 11.5 %") + tail
    for path in sorted(mine.glob("masks/*/*.png"))[1:]:  # 2 is rare, as a class may be
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 2, 0, label)).save(path)
    zero = " If 0 does, and the classes start at 1, write `--dataset ./mine:reduce_labels=true`."
    assert refusal() == head.format("0: 92.6 %, 1: 6.0 %, 2: 1.3 %") + zero + tail
    for edit in ("ignore=2", "reduce_labels=true"):
        assert text(f"./mine:{edit}").endswith(f"names=classes.txt,{edit}")
        assert not would_stop(judge(look(f"./mine:{edit}")))


@pytest.mark.parametrize(
    ("fill", "told"),
    [
        (via, "polygons in JSON, as VIA writes them (via.json)"),
        (matlab, "MATLAB files (labels/train/train_000.mat)"),
    ],
    ids=["via", "matlab"],
)
def test_labels_that_must_be_converted_are_named(
    fill: Callable[[Path], Any], told: str, mine: Path
) -> None:
    fill(mine)
    before = sorted(mine.rglob("*"))
    assert refusal() == (
        f"--dataset: the labels in ./mine are {told}, which are not read. Convert them to one PNG "
        "per image, of the size of the image, whose pixel values are class ids, and put these into "
        "labels/ beside images/."
    )
    assert sorted(mine.rglob("*")) == before


@pytest.mark.parametrize(
    ("files", "named", "layout"),
    [
        ((IMAGES, "masks/{split}/{name}.jpg"), "masks/SPLIT", "images=images,labels=masks"),
        (
            ("{split}/{name}.jpg", "{split}/{name}_mask.jpg"),
            "train_000_mask.jpg",
            "images=SPLIT,labels=SPLIT,label_suffix=_mask",
        ),
    ],
    ids=["folders", "beside the images"],
)
def test_binary_masks_may_be_jpeg_files(
    files: tuple[str, str], named: str, layout: str, mine: Path
) -> None:
    write(mine, *files, text="", change=mask)
    assert refusal() == (
        "--dataset: the labels in ./mine are images of a format that may be lossy "
        f"({named}), which alters class ids. If they are JPEG masks of 0 and 255, write `--dataset "
        "./mine:binary=true`, which reads values from 128 on as the foreground; else convert them "
        "to one PNG per image, of the size of the image, whose pixel values are class ids, and put "
        "these into labels/ beside images/."
    )
    assert text("./mine:binary=true") == f"{layout},binary=true"
    assert not would_stop(judge(look("./mine:binary=true")))
    splits = build_splits(chosen("./mine:binary=true"))
    wrong = total = 0
    known = {name: ids > 0 for _, name, _, ids in pictures()}
    for one in (one for samples in splits.splits.values() for one in samples):
        found = read_sample(one, splits.labels)[1].numpy()
        file = np.array(Image.open(Path(str(one.label))))
        np.testing.assert_array_equal(found, file >= 128)
        wrong, total = wrong + int((found != known[one.id]).sum()), total + found.size
    assert len(np.unique(file)) > 2 and wrong < total / 100  # JPEG has altered the values


def test_a_folder_of_something_else(mine: Path) -> None:
    assert "It contains no files. Expected" in refusal()
    write(mine, "depth/{name}.png", "thermal/{name}.png")
    assert refusal() == (
        "--dataset: no images with labels of corresponding names were found in ./mine. It contains "
        "./ with 1 file (.txt), depth/ with 8 files (.png), thermal/ with 8 files (.png). Expected "
        "are for example images/train/NAME.jpg and labels/train/NAME.png, or NAME.jpg and "
        "NAME_mask.png in one folder, or train.csv with lines of `IMAGE,LABEL`; docs/data.md lists "
        "the layouts."
    )


def test_one_mask_per_object_is_named(mine: Path) -> None:
    write(mine, "stage1_train/{case}/images/{case}.png", "stage1_train/{case}/masks/0.png")
    start = (
        "--dataset: ./mine has a folder for each image, such as "
        "stage1_train/t000/images/t000.png with 1 file in stage1_train/t000/masks/, "
    )
    assert refusal() == (
        f"{start}which is read with lists only. Write train.csv with lines of `IMAGE,LABEL`, such "
        "as `stage1_train/t000/images/t000.png,stage1_train/t000/masks/0.png`."
    )
    write(mine, "stage1_train/{case}/images/{case}.png", "stage1_train/{case}/masks/1.png")
    assert refusal() == start.replace("1 file", "2 files") + (
        "which is not read. Merge the masks of each image into one PNG of its size, whose pixel "
        "values are class ids, e.g. with numpy.maximum.reduce, and write it as labels/NAME.png "
        "beside images/NAME.png."
    )
    folders = [f"stage1_train/{name[0]}{name[-3:]}" for _, name, _, _ in pictures()]
    rows = [f"{one}/images/{Path(one).name}.png,{one}/masks/0.png" for one in folders]
    (mine / "train.csv").write_text("\n".join(rows))
    assert text() == "train=train.csv,names=classes.txt"


def test_a_label_may_be_missing_in_the_folder_of_an_image(mine: Path) -> None:
    write(mine, "{case}/image.jpg", "{case}/mask.png")
    (mine / "t000" / "mask.png").unlink()
    (mine / "v000" / "image.jpg").unlink()
    (mine / "v001" / "image.jpg").rename(mine / "preview.jpg")
    found = look("./mine:binary=false", val_fraction=0.2)
    assert [fault.kind for facts in found.splits.values() for fault in facts.faults] == [
        "missing label"
    ]


def test_tables_are_left_to_another_data_set(mine: Path) -> None:
    (mine / "train.parquet").touch()
    assert refusal() == (
        "--dataset: ./mine contains tables; read them with `--dataset hub:path=./mine`."
    )


def test_a_path_that_is_not_there(mine: Path) -> None:
    assert refusal("./other") == (
        f"--dataset: ./other is not a folder (looked in {mine.parent / 'other'})."
    )
    assert refusal("data/other").endswith("yolo; there is no folder data/other either.")
    assert refusal("./mine:root=x") == ("--dataset: the folder is given twice: ./mine and root=x.")


# ------------------------------------------------------------------------------------- classes


def test_a_list_of_files_is_no_class_list(mine: Path) -> None:
    write(mine, IMAGES, MASKS, classes="class_names.txt")
    (mine / "names.txt").write_text("images/train/train_000.jpg\n")
    (mine / "classes.csv").write_text("masks/train/train_000.png\n")
    assert text().endswith("names=class_names.txt")


def test_two_names_fit_a_binary_mask(mine: Path) -> None:
    write(mine, IMAGES, MASKS, text="ground\nthing\n", change=mask)
    assert text() == "images=images,labels=masks,names=classes.txt,binary=true"
    assert build_splits(chosen("./mine")).labels.names == ("ground", "thing")


def test_ids_are_read_beside_a_table_of_colours(mine: Path) -> None:
    table = "name,r,g,b\nground,9,9,9\ndisc,1,2,3\nbar,5,6,7\n"
    write(mine, IMAGES, MASKS, classes="class_dict.csv", text=table)
    assert text().endswith("colors=class_dict.csv")
    assert not would_stop(judge(look("./mine")))


def test_typed_classes_are_not_searched_for(mine: Path) -> None:
    write(mine, IMAGES, MASKS, classes="a.txt")
    assert text("./mine:names=a.txt") == "images=images,labels=masks,names=a.txt"


LISTED = (
    "--dataset: ./mine has no class list; the values of 8 labels and their shares of the pixels "
    "are 0: 82.5 %, 1: 6.0 %, 2: 11.5 %. Write mine/classes.txt with a class name per line, that "
    "of id 0 first, or let `segacc check-data --dataset ./mine --write-classes` write it with the "
    "names class_0, class_1, ..., which you may edit. Then `segacc --dataset ./mine` trains."
)


def test_a_class_list_is_written_when_asked_for(mine: Path, warm: Warm) -> None:
    write(mine, IMAGES, MASKS, text="")
    assert_refused(warm("check-data", "--dataset", "./mine", cwd=mine.parent), LISTED)
    assert not (mine / "classes.txt").exists()
    asked = "check-data", "--dataset", "./mine", "--write-classes"
    assert_succeeded(warm(*asked, cwd=mine.parent))
    assert (mine / "classes.txt").read_text() == "class_0\nclass_1\nclass_2\n"
    assert_refused(
        warm(*asked, cwd=mine.parent),
        "--write-classes: nothing is written, since folder:root=./mine,images=images,labels=masks,"
        "names=classes.txt has class names, or is not given by its path, as in --dataset "
        "data/mine. Leave this out.",
    )
    (mine / "classes.txt").unlink()
    write(mine, IMAGES, MASKS, text="", change=in_colors)
    assert_succeeded(warm(*asked, cwd=mine.parent))
    assert (mine / "class_dict.csv").read_text().splitlines()[:2] == [
        "name,r,g,b",
        "class_0,64,0,128",
    ]


def test_numbered_objects_are_no_classes(mine: Path) -> None:
    many = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    write(mine, IMAGES, MASKS, text="")
    for path in mine.glob("masks/*/*.png"):
        Image.fromarray(many).save(path)
    assert "too many values for class ids" in refusal()


# ------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("layout", ["one folder with the same names", "cities", "roboflow"])
def test_the_first_command_trains(layout: str, mine: Path, warm: Warm) -> None:
    fill, options = LAYOUTS[layout]
    fill(mine)
    given = "--dataset", "./mine", *TINY, "--output-dir", "run"
    done = assert_succeeded(warm(*given, cwd=mine.parent))
    whole = f"folder:root=./mine,{options}"
    counts = "8 train" if layout in FLAT else "5 train, 3 validation"
    assert f"./mine is read as {whole} ({counts})\n" in done.stdout
    held = "held out 2 of 8 samples of train as validation (--val-fraction 0.2, seed 0)\n"
    assert (held in done.stdout) == (layout in FLAT)
    run = mine.parent / "run"
    assert metrics(run, "eval")[-1]["step"] == 2
    scored = "evaluate", "run/best", "--dataset", "./mine"
    if layout in FLAT:
        assert_refused(
            warm(*scored, cwd=mine.parent),
            '--split: the data set has no split "validation"; it has train. The run of this '
            "model held out its validation split: add --val-fraction 0.2 --seed 0.",
        )
        scored = *scored, "--val-fraction", "0.2"
    done = assert_succeeded(warm(*scored, cwd=mine.parent))
    assert f"./mine is read as {whole} ({counts})\n" in done.stdout
    again = ["--resume", "run", "--max-steps", "3"]
    assert_succeeded(warm(*again, cwd=mine.parent))
    assert metrics(run, "eval")[-1]["step"] == 3
