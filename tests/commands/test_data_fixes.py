"""What `check-data` suggests, and that it helps."""

import re
import tarfile
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from check_tools import (
    colors,
    foreign_values,
    fractions,
    look,
    of_samples,
    pastes,
    photograph,
    problems,
    smaller,
    texts,
)
from cli_tools import NAMES, write_data
from data_tools import encode, random_sample
from segacc.commands.check_data.check import Findings
from segacc.commands.check_data.fixes import command, fixes, paste, unmended
from segacc.commands.check_data.text import print_report, to_json
from segacc.commands.check_data.verdict import judge
from segacc.hookspecs import Sample


def test_ids_that_start_at_one(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", first=1)
    found = look(f"folder:root={root}")
    assert len(problems(found)) == 2
    assert pastes(found, sure=True)[0] == f"--dataset folder:root={root},reduce_labels=true"
    assert problems(look(f"folder:root={root},reduce_labels=true")) == []
    assert not any("ignore=" in told for told in pastes(found))


def test_one_id_too_many_is_ignored_or_leaves_a_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_data(tmp_path / "d", names=NAMES[:2])
    ignore, shift = (f"folder:root={root},{one}" for one in ("ignore=2", "reduce_labels=true"))
    found = look(f"folder:root={root}")  # 0 is most of the pixels, and 2 is in all labels
    assert pastes(found, sure=False)[0] == f"--dataset {ignore}"
    assert not any(shift in one for one in pastes(found))
    for path in root.glob("annotations/*/*.png"):  # only one label has a 2
        label = np.array(Image.open(path))
        Image.fromarray(np.where((label == 2) & (path.stem != "train0"), 0, label)).save(path)
    found = look(f"folder:root={root}")
    assert pastes(found, sure=False)[:2] == [f"--dataset {ignore}", f"--dataset {shift}"]
    assert problems(look(ignore)) == problems(look(shift)) == []
    typed = command(found, fixes(found)) or ""
    assert typed.startswith(f"segacc train --dataset {ignore} --") and "reduce" not in typed
    assert heading(found, capsys) == "suggested command (assuming that 2 should be ignored):"


@pytest.mark.parametrize("kept", ["", ",exif=stored"])
def test_labels_of_images_that_exif_rotates(kept: str, tmp_path: Path) -> None:
    root = write_data(tmp_path / "d")
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in root.glob("images/*/*.png"):
        with Image.open(path) as picture:
            picture.save(path, exif=exif)
    for path in root.glob("annotations/*/*.png") if kept else ():
        with Image.open(path) as label:
            label.transpose(Image.Transpose.ROTATE_270).save(path)
    found = look(f"folder:root={root}{kept}")
    fit = f"folder:root={root},exif={'upright' if kept else 'stored'}"
    assert pastes(found, sure=False)[0] == f"--dataset {fit}"
    assert unmended(judge(found), fixes(found)) == [] == problems(look(fit))
    assert f"--dataset {fit} " in (command(found, fixes(found)) or "")


def test_twelve_bits_of_sixteen(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d")
    for path in root.glob("images/*/*.png"):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        Image.fromarray(grey << 4).save(path)
    assert f"--dataset folder:root={root},bits=12" in pastes(
        look(f"folder:root={root}"), sure=False
    )


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_negative_ids_can_be_ignored_as_suggested(dtype: Any, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    root = write_data(tmp_path / "d")
    for number, path in enumerate(sorted(root.glob("annotations/*/*.png"))):
        label = np.array(Image.open(path)).astype(dtype)
        label[:4] = -1 if number else -100
        tifffile.imwrite(path.with_suffix(".tif"), label)
        path.unlink()
    found = look(f"folder:root={root}")
    assert pastes(found, sure=True)[0] == f"--dataset folder:root={root},ignore=-100/-1"
    cured = look(f"folder:root={root},ignore=-100/-1")
    assert problems(cured) == [] and cured.splits["train"].pixels[255] == 4 * 4 * 64
    assert cured.splits["train"].ignored(cured.data.labels) == "8.33 % (raw ids -100, -1)"
    assert problems(look(f"folder:root={root},map={{ignore: [-1, -100]}}")) == []


@pytest.mark.parametrize(
    ("names", "ignore", "text"),
    [
        (
            (*NAMES[:2], "Void"),
            "",
            "the class Void is trained and scored, though its name means `no label`. To ignore its "
            'pixels, add map={drop: ["Void"]} to the options of the data set',
        ),
        (
            (*NAMES[:2], "rest"),
            ",ignore=2",
            "the class rest has no pixels, as its raw id is ignored, but the network predicts it. "
            'To drop it, add map={drop: ["rest"]} to the options of the data set',
        ),
    ],
)
def test_classes_for_pixels_without_a_label(
    names: tuple[str, ...], ignore: str, text: str, tmp_path: Path
) -> None:
    root = write_data(tmp_path / "d", names=names)
    typed = f"folder:root={root}{ignore}"
    found = look(typed)
    assert texts(found).count(text) == 1
    drop = typed + ',map={"drop": ["' + names[2] + '"]}'
    assert f"--dataset '{drop}'" in pastes(found, sure=False)
    dropped = look(drop)
    assert dropped.data.labels.names == NAMES[:2]
    assert not any(f"class {names[2]}" in one for one in texts(dropped))
    assert not any("to drop" in fix.why for fix in fixes(dropped))


def test_ignored_ids_are_added_to_those_that_are_typed(tmp_path: Path) -> None:
    root = write_data(tmp_path / "my data")
    foreign_values(root / "annotations/train/train1.png")
    foreign_values(root / "annotations/validation/validation1.png")
    typed = f"folder:root={root},ignore=30"
    found = look(typed)
    cured = f"folder:root={root},ignore=30/7/9"
    assert pastes(found, sure=True)[0] == f"--dataset '{cured}'"
    assert problems(look(cured)) == []


def test_colours_and_photographs_are_not_ignored_away(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d")
    photograph(root / "annotations/train/train1.png")
    assert not any("ignore=" in told for told in pastes(look(f"folder:root={root}")))
    colors(root / "annotations/train/train0.png")
    told = pastes(look(f"folder:root={root},names={root}/classes.txt"), sure=False)
    assert f"--dataset folder:root={root},colors=FILE" in told


def test_a_table_of_colours_is_suggested_for_colours_only(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 2, "validation": 1})
    fractions(root / "annotations/train/train0.png")
    found = look(f"folder:root={root}")
    assert [one.text for one in unmended(judge(found), fixes(found))] != []
    assert not any("colors=" in told for told in pastes(found))
    for path in root.glob("annotations/*/*.png"):
        colors(path)
    table = tmp_path / "colors.txt"
    table.write_text("a 0 0 0\nb 1 1 1\n")  # without (2, 2, 2): a table is there already
    found = look(f"folder:root={root},colors={table}")
    assert not any("colors=FILE" in told for told in pastes(found))
    assert {fault.kind for fault in found.splits["train"].faults} == {"label"}


@pytest.mark.parametrize("value", [255, 200])
def test_binary_masks(tmp_path: Path, value: int) -> None:
    root = write_data(tmp_path / "d", names=("background", "thing"))
    for path in root.glob("annotations/*/*.png"):
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 1, value, 0).astype(np.uint8)).save(path)
    found = look(f"folder:root={root}")
    assert pastes(found, sure=True)[0] == f"--dataset folder:root={root},binary=true"
    assert texts(found)[0 if value == 255 else 2] == (
        "train has a single class, background: there is nothing to learn"
    )
    cured = look(f"folder:root={root},binary=true")
    assert problems(cured) == [] and cured.splits["train"].images[1] == 4
    assert not any("binary" in told for told in pastes(cured))


def test_unreadable_files_can_be_passed_over(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d")
    for name in ("train0", "train2"):
        (root / f"annotations/train/{name}.png").unlink()
    (root / "images/validation/validation0.png").write_bytes(b"")
    assert "--skip-unreadable 2" in pastes(look(f"folder:root={root}"), sure=True)


def test_rare_classes_and_small_images(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 24, "validation": 1}, size=(40, 100))
    for number in range(1, 24):
        path = root / f"annotations/train/train{number}.png"
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 1, 0, label)).save(path)
    found = look(f"folder:root={root}")
    train = found.splits["train"]
    times = train.pixels[0] / train.pixels[1]
    assert times > 20
    assert {paste(found.data.dataset, [c]): (c.why, c.sure) for c in fixes(found)} == {
        "--crop-size 32x96": (
            "a crop of 512x512 is larger than the images (median 40x100) and would be padded",
            True,
        ),
        "--class-weights enet": (f"background has {times:.0f} times the pixels of disc", True),
        "--rare-class-sampling 0.01": (
            "fewer than 5% of the images contain disc: sample these more often",
            False,
        ),
    }
    assert "--crop-size 32x96" not in pastes(look(f"folder:root={root}", crop_size=(32, 64)))


@pytest.mark.parametrize(
    ("mode", "cure"), [("L", "--num-channels 1"), ("RGBA", "--num-channels 4")]
)
def test_channels(mode: str, cure: str) -> None:
    samples = []
    for number in range(3):
        sample = random_sample(number)
        assert isinstance(sample.image, bytes)
        with Image.open(BytesIO(sample.image)) as picture:
            samples.append(Sample(encode(picture.convert(mode)), sample.label, sample.id))
    assert cure in pastes(of_samples({"train": samples}), sure=False)
    wanted = of_samples({"train": samples}, num_channels=int(cure[-1]))
    assert [f.text for f in problems(wanted) if f.split] == []


def test_too_many_channels_were_asked_for() -> None:
    found = of_samples({"train": [random_sample(n) for n in range(3)]}, num_channels=4)
    assert problems(found)[-1].text == (
        "3 images of train are invalid; the first: the image has 3 channels "
        "(mode RGB); --num-channels 4 requires four"
    )
    assert "--num-channels 3" in pastes(found, sure=True)


def test_the_command_keeps_what_was_typed_of_the_run(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 6})
    given = {"train_split": "train[:5]", "val_fraction": 0.4, "seed": 3, "aug": ("flip", "rotate")}
    found = look(f"folder:root={root}", **given)
    assert command(found, fixes(found)) == (
        f"segacc train --dataset folder:root={root} --crop-size 32x64 "
        "--train-split 'train[:5]' --val-fraction 0.4 --seed 3 --aug flip --aug rotate"
    )
    assert command(found, []) is None


def test_what_no_option_mends_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_data(tmp_path / "d")
    foreign_values(root / "annotations/train/train1.png")
    (root / "annotations/train/train2.png").unlink()
    mended = look(f"folder:root={root}")
    assert unmended(judge(mended), fixes(mended)) == []
    assert heading(mended, capsys) == "suggested command:"
    smaller(root / "annotations/train/train0.png")
    found = look(f"folder:root={root}")
    (left,) = unmended(judge(found), fixes(found))
    assert left.text.startswith("1 label of train differs in size from its image")
    assert heading(found, capsys) == "suggested command (no option fixes 1 problem):"
    assert to_json(found, judge(found), fixes(found), [])["unmended"] == [left.text]
    typed = command(found, fixes(found))
    assert typed is not None and f"folder:root={root},ignore=7/9 --skip-unreadable 1" in typed


def heading(found: Findings, capsys: pytest.CaptureFixture[str]) -> str:
    """Print a report; return the line above the whole command."""
    print_report(Console(soft_wrap=True), found, judge(found), fixes(found), [])
    lines = capsys.readouterr().out.splitlines()
    return next(line for line in lines if line.startswith("suggested command"))


def test_a_split_that_is_missing_is_mended() -> None:
    found = of_samples({"train": [random_sample(k) for k in range(2)], "test": [random_sample(7)]})
    assert len(problems(found)) == 1
    assert unmended(judge(found), fixes(found)) == []
    assert unmended(judge(found), []) == problems(found)


def test_streams_that_nobody_has_counted(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    with tarfile.open(tmp_path / "train-0.tar", "w") as shard:
        for number in range(3):
            sample = random_sample(number)
            for suffix, content in (("jpg", sample.image), ("png", sample.label)):
                assert isinstance(content, bytes)
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                shard.addfile(member, BytesIO(content))
    typed = f"shards:train={tmp_path}/train-{{0..0}}.tar"
    found = look(typed)
    assert pastes(found, sure=True)[0] == f"--dataset '{typed},num_samples=3'"
    assert pastes(found, sure=False)[:2] == [
        f"--dataset '{typed},validation=SHARDS'",
        "--eval-split train",
    ]
    assert "--max-steps N" in pastes(look(typed, sample=2), sure=False)


def test_a_terminal_breaks_findings_between_words_and_commands_nowhere(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", counts={"train": 4, "test": 2})
    (root / "images/validation").mkdir()
    found, file = look(f"folder:root={root}"), StringIO()
    console = Console(file=file, width=80, soft_wrap=True, force_terminal=True, no_color=True)
    print_report(console, found, judge(found), fixes(found), [])
    said = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    text = judge(found)[0].text
    assert f"problem: {text}" not in said and f"problem: {text}" in " ".join(said.split())
    assert f"  {command(found, fixes(found))}\n" in said
