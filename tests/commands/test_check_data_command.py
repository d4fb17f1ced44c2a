"""`segacc check-data` as a user runs it: tables, JSON, exit codes, what can be pasted."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from check_tools import LABEL, foreign_values, truncate
from cli_tools import NAMES, TINY, Done, Warm, assert_refused, assert_succeeded, python, write_data

pytest_plugins = ["cli_fixtures"]


def as_json(done: Done) -> Any:
    assert done.stderr == "", done.stderr
    return json.loads(done.stdout)


def table_rows(stdout: str) -> dict[str, list[str]]:
    """Read the rows of the tables: their first words, and the cells."""
    rows = [line.split("  ") for line in stdout.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return {row[0]: row[1:] for row in cells if len(row) > 2}


def test_good_data(warm: Warm, data: Path, tmp_path: Path) -> None:
    done = assert_succeeded(warm("check-data", "--dataset", f"folder:root={data}", cwd=tmp_path))
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert lines[0] == f"folder:root={data}"
    assert lines[-2:] == [
        "written to data-check/data_check.png",
        "no problem found",
    ]
    with Image.open(tmp_path / "data-check" / "data_check.png") as sheet:
        assert sheet.width == 1240
    assert [path.name for path in tmp_path.iterdir()] == ["data-check"]


def test_json_and_tables_tell_the_same_numbers(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", names=(*NAMES, "tree"))
    label = np.array(Image.open(root / LABEL))
    label[:20] = 255
    Image.fromarray(label).save(root / LABEL)
    (root / "annotations/train/stray.png").write_bytes(b"x")
    given = ("check-data", "--dataset", f"folder:root={root}", "--output-dir", "out")
    told = as_json(warm(*given, "--json", cwd=tmp_path))
    shown = assert_succeeded(warm(*given, cwd=tmp_path))
    rows = table_rows(shown.stdout)
    assert told["classes"] == [*NAMES, "tree"] and list(told["splits"]) == ["train", "validation"]
    for place, split in enumerate(("train", "validation")):
        facts = told["splits"][split]
        total = sum(facts["pixels"].values())
        for raw, name in enumerate(told["classes"]):
            pixels, images = facts["pixels"][name], facts["images"][name]
            cells = [f"{100 * pixels / total:.3f} %", str(images)] if pixels else ["-", "0"]
            assert rows[name][0] == str(raw)
            assert rows[name][1 + 2 * place : 3 + 2 * place] == cells
        assert rows["samples"][place] == str(facts["samples"])
        assert rows["read"][place] == str(facts["read"])
        assert rows["image size"][place] == "x".join(map(str, facts["sizes"]["median"]))
        assert rows["image modes"][place] == next(iter(facts["image_modes"]))
        assert rows["labels"][place] == next(iter(facts["label_kinds"]))
        assert rows["classes"][place] == f"{4 - len(facts['absent'])} of 4"
        ids = " (raw id 255)" if facts["ignored_share"] else ""
        assert rows["ignored pixels"][place] == f"{100 * facts['ignored_share']:.2f} %{ids}"
        assert rows["mean"][place] == " ".join(f"{one:.3f}" for one in facts["mean"])
    assert told["splits"]["train"]["ignored_pixels"] == 20 * 64
    for finding in told["findings"]:
        assert f"{finding['level']}: {finding['text']}" in shown.stdout.splitlines()
    for cure in told["cures"]:
        assert f"  {cure['why']}:\n    {cure['paste']}\n" in shown.stdout
    assert [finding["level"] for finding in told["findings"]] == ["warning"] * 3
    assert told["would_stop"] is False and told["pictures"] == ["out/data_check.png"]
    assert f"\n  {told['command']}\n" in shown.stdout


def test_what_would_stop_a_run(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 9, "validation": 2})
    labels = root / "annotations" / "train"
    for number in range(7):
        (labels / f"train{number}.png").unlink()
    foreign_values(labels / "train8.png")
    truncate(root / "images/validation/validation1.png")
    done = warm("check-data", "--dataset", f"folder:root={root}", cwd=tmp_path)
    assert table_rows(done.stdout)["read"] == ["9, faults in 8 files", "2, faults in 1 file"]
    assert (done.returncode, done.stderr) == (1, "")
    found = done.stdout.split("problem: ")
    assert found[1].splitlines() == [
        "7 labels of train are missing",
        *(f"  {labels}/train{number}.png" for number in range(5)),
        "  ... and 2 more",
    ]
    assert found[2].splitlines() == [
        "1 label of train has values without a class: 7 (5 pixels), 9 (2 pixels)",
        f"  {labels}/train8.png",
    ]
    assert found[3].splitlines()[:2] == [
        "1 image of validation cannot be read: image file is truncated",
        f"  {root}/images/validation/validation1.png",
    ]
    assert done.stdout.splitlines()[-1] == "training would fail: 3 problems"
    told = warm("check-data", "--dataset", f"folder:root={root}", "--json", cwd=tmp_path)
    assert told.returncode == 1
    faults = as_json(told)["splits"]["train"]["faults"]
    assert [fault["kind"] for fault in faults] == [*["missing label"] * 7, "values"]
    assert faults[-1]["values"] == {"7": 5, "9": 2}
    assert faults[0]["text"] == (
        f"{labels}/train0.png: the label is missing; each image needs a label with the same name."
    )


@pytest.mark.slow
def test_the_suggested_command_trains(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "my data")
    foreign_values(root / LABEL)
    (root / "annotations/validation/validation1.png").unlink()
    given = ("check-data", "--dataset", f"folder:root={root}", "--crop-size", "64")
    told = json.loads(warm(*given, "--json", cwd=tmp_path).stdout)
    words = shlex.split(told["command"])
    assert words[:2] == ["segacc", "train"]
    assert words[2:] == [
        *("--dataset", f"folder:root={root},ignore=7/9"),
        *("--skip-unreadable", "1", "--crop-size", "32x64"),
    ]
    tiny = [word for word in TINY if word not in ("--crop-size", "64")]
    run = warm(*words[1:], *tiny, cwd=tmp_path)
    assert "finished at step 2/2" in assert_succeeded(run).stdout


def test_a_sample_and_no_worker(warm: Warm, data: Path, tmp_path: Path) -> None:
    flags = ("--sample", "2", "--num-workers", "0", "--json", "--output-dir", "out")
    done = warm("check-data", "--dataset", f"folder:root={data}", *flags, cwd=tmp_path)
    splits = as_json(done)["splits"]
    assert {name: (one["read"], one["samples"]) for name, one in splits.items()} == {
        "train": (2, 4),
        "validation": (2, 3),
    }


def test_the_data_set_of_the_package_needs_no_folder(warm: Warm, tmp_path: Path) -> None:
    done = warm("check-data", "--dataset", "nuclei", "--json", cwd=tmp_path)
    told = as_json(done)
    assert done.returncode == 0 and told["twins"] == []
    assert {name: one["read"] for name, one in told["splits"].items()} == {
        "train": 166,
        "validation": 39,
    }
    sizes = told["splits"]["train"]["sizes"]
    assert (sizes["min"], sizes["max"]) == ([256, 256], [360, 360])


def test_a_sheet_of_augmented_samples(warm: Warm, data: Path, tmp_path: Path) -> None:
    flags = ("--show-augmented", "--augment", "light", "--crop-size", "48x64")
    done = warm("check-data", "--dataset", f"folder:root={data}", *flags, cwd=tmp_path)
    assert "written to data-check/augmented.png" in assert_succeeded(done).stdout
    with Image.open(tmp_path / "data-check" / "augmented.png") as sheet:
        assert sheet.width == 1240 and sheet.height > 400


def test_a_bar_on_a_terminal(warm: Warm, data: Path, tmp_path: Path) -> None:
    given = ("check-data", "--dataset", f"folder:root={data}")
    done = assert_succeeded(warm.on_terminal(*given, cwd=tmp_path))
    assert "reading" in done.stderr and "7/7" in done.stderr
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "--dataset must be given, as in `--dataset folder:root=data/camvid`."),
        (
            ["--dataset", "nuclei", "--seed", "1"],
            "--seed: only has an effect with --val-fraction or --show-augmented; add one, or leave "
            "it out.",
        ),
        (
            ["--dataset", "nuclei", "--aug", "flip"],
            "--aug: only has an effect with --show-augmented; add that, or leave it out.",
        ),
        (
            ["--dataset", "nuclei", "--show-augmented", "--aug", "flip", "--augment", "light"],
            "--aug and --augment exclude each other; give one.",
        ),
        (
            ["--dataset", "nuclei", "--sample", "0"],
            "--sample: expected an integer > 0; found '0'.",
        ),
        (
            ["--dataset", "folder:root=gone"],
            "--dataset folder: root=gone is not a folder (looked in {here}/gone).",
        ),
        (
            ["--dataset", "nuclei", "--val-fraction", "0.5"],
            '--val-fraction: the data set has a split "validation", so none can be held out from '
            '"train"; leave out the fraction.',
        ),
    ],
)
def test_what_is_refused(warm: Warm, tmp_path: Path, flags: list[str], text: str) -> None:
    assert_refused(warm("check-data", *flags, cwd=tmp_path), text.format(here=tmp_path))


def test_torch_is_left_alone(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from segacc.__main__ import main\n"
        f"sys.argv = ['segacc', 'check-data', '--dataset', 'folder:root={data}']\n"
        "code = main()\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules], code)\n"
    )
    assert python("-c", code, cwd=tmp_path).stdout.splitlines()[-1] == "[] 0"


def test_camvid(warm: Warm, shared: Path, tmp_path: Path) -> None:
    given = ("--dataset", f"folder:root={shared / 'camvid'}", "--sample", "24", "--json")
    done = warm("check-data", *given, cwd=tmp_path)
    told = as_json(done)
    assert (done.returncode, told["would_stop"]) == (0, False)
    assert [facts["absent"] for facts in told["splits"].values()] == [[], []]
    assert not [one for one in told["twins"] if one["splits"][0] != one["splits"][1]]


def test_of_many_classes_those_that_occur_nowhere_are_counted(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", names=(*NAMES, *(f"other{n}" for n in range(40))))
    done = assert_succeeded(
        warm("check-data", "--dataset", f"folder:root={root}", "--sample", "2", cwd=tmp_path)
    )
    assert "40 of the 43 classes occur in no split" in done.stdout.splitlines()
    assert set(NAMES) <= table_rows(done.stdout).keys() and "other1" not in table_rows(done.stdout)
    told = "no problem found in the samples that were read"
    assert done.stdout.splitlines()[-1].startswith(told)


def test_a_picture_of_others_is_not_replaced(warm: Warm, data: Path, tmp_path: Path) -> None:
    given = ("check-data", "--dataset", f"folder:root={data}", "--num-workers", "0")
    own = tmp_path / "data_check.png"
    own.write_text("mine")
    done = warm(*given, "--output-dir", ".", cwd=tmp_path)
    assert done.returncode == 2 and "data_check.png would be overwritten" in done.stderr
    assert own.read_text() == "mine"
    own.unlink()
    for _ in range(2):
        assert warm(*given, "--output-dir", ".", cwd=tmp_path).returncode != 2
    assert own.read_bytes().startswith(b"\x89PNG")
