"""What `check-data` makes of splits: those of a run, others, and labels that belong to none."""

from pathlib import Path

import pytest
from PIL import Image

from check_tools import foreign_values, look, pastes, problems, texts
from cli_tools import write_data
from segacc.commands.check_data.verdict import Finding, judge
from segacc.errors import OptionError
from voc_data import sbd, voc


def test_a_run_needs_its_splits(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 4, "test": 2})
    found = look(f"folder:root={root}")
    text = '--eval-split: the data set has no split "validation"; it has train, test.'
    assert problems(found) == [Finding("problem", "", text, kind="split")]
    assert list(found.splits) == ["train", "test"]
    assert pastes(found)[:2] == ["--val-fraction 0.2", "--eval-split test"]
    for cure in ({"val_fraction": 0.25}, {"eval_split": "test"}):
        assert problems(look(f"folder:root={root}", **cure)) == []
    carved = look(f"folder:root={root}", val_fraction=0.25)
    assert {name: facts.read for name, facts in carved.splits.items()} == {
        "train": 3,
        "validation": 1,
        "test": 2,
    }
    assert list(carved.data.notes) == [
        "held out 1 of 4 samples of train as validation (--val-fraction 0.25, seed 0)"
    ]
    sliced = look(f"folder:root={root}", train_split="train[:2]", eval_split="train[2:]")
    assert {name: facts.ids for name, facts in sliced.splits.items()} == {
        "train[:2]": ["train0", "train1"],
        "train[2:]": ["train2", "train3"],
        "test": ["test0", "test1"],
    }
    with pytest.raises(OptionError, match="cannot read"):
        look(f"folder:root={root}", train_split="train[2")


def test_val_means_validation(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 4, "validation": 2})
    found = look(f"folder:root={root}", eval_split="val[:1]")
    assert problems(found) == [] and list(found.splits) == ["train", "validation[:1]"]


def test_what_a_run_does_not_read_does_not_stop_it(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 4, "validation": 2, "test": 2})
    foreign_values(root / "annotations/test/test1.png")
    text = "1 label of test has values without a class: 7 (5 pixels), 9 (2 pixels)"
    file = str(root / "annotations/test/test1.png")
    found = look(f"folder:root={root}")
    assert judge(found) == [Finding("warning", "test", text, (file,), "values")]
    scored = look(f"folder:root={root}", eval_split="test")
    assert problems(scored) == [Finding("problem", "test", text, (file,), "values")]


def test_labels_that_lists_leave_out_are_no_strays(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 5, "validation": 2})
    (tmp_path / "half.txt").write_text("train0\ntrain3\n")
    some = look(f"folder:root={root},train={tmp_path}/half.txt")
    assert some.splits["train"].ids == ["train0", "train3"] and some.data.strays == []
    lone = root / "annotations/train/train9.png"
    lone.write_bytes((root / "annotations/train/train0.png").read_bytes())
    assert look(f"folder:root={root},train={tmp_path}/half.txt").data.strays == [str(lone)]
    assert "1 label without an image" in texts(look(f"folder:root={root}"))


def test_the_second_label_of_an_image_is_no_stray(tmp_path: Path) -> None:
    sbd(voc(tmp_path / "voc"), "2007_000032\n2008_000001\n")
    found = look(f"voc:root={tmp_path}/voc,augmented=true")
    assert set(found.splits) >= {"train", "validation"} and found.data.strays == []


def test_a_label_is_not_its_own_image(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 3, "validation": 1})
    together = tmp_path / "x"
    together.mkdir()
    for number in range(3):
        label = root / f"annotations/train/train{number}.png"
        (together / f"{number}.png").write_bytes(label.read_bytes())
        image = Image.open(root / f"images/train/train{number}.png")
        if number < 2:
            image.save(together / f"{number}.jpg")
    (together / "classes.txt").write_text("background\ndisc\nbar\n")
    (together / "train.txt").write_text("0.jpg 0.png\n1.jpg 1.png\n")
    (together / "val.txt").write_text("1.jpg 1.png\n")
    found = look(f"folder:root={together},train=train.txt,validation=val.txt")
    assert found.data.strays == [str(together / "2.png")]
