"""Bad data stops a run with the file's name, what was found and the cure, before a step with it."""

import json
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli_tools import (
    NAMES,
    Done,
    Warm,
    assert_succeeded,
    draw,
    metrics,
    segacc,
    write_data,
)
from run_tools import build
from segacc.data.quick_check import LOOK
from segacc.data.samples import evenly_spaced
from segacc.errors import DataError
from segacc.loop import train

pytest_plugins = ["cli_fixtures"]

FLAGS = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", "48x64"),
    *("--aug", "flip", "--log-every", "1", "--output-dir", "run"),
)
LABEL, IMAGE = "annotations/train/train1.png", "images/train/train1.png"
UNREADABLE = " To skip up to N such files, add --skip-unreadable N."


def foreign_values(path: Path) -> None:
    label = np.array(Image.open(path))
    label[0, :5] = 7
    label[1, :2] = 9
    Image.fromarray(label).save(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:70])


def smaller(path: Path) -> None:
    Image.open(path).resize((32, 24), Image.Resampling.NEAREST).save(path)


def colors(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def photograph(path: Path) -> None:
    Image.fromarray(draw((1, 1), (48, 64))[0]).convert("L").save(path)


CASES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a label value outside the map": (
        LABEL,
        foreign_values,
        "label values outside the 3 classes: 7 (5 pixels), 9 (2 pixels). Allowed raw ids: 0-2, "
        "255. If these pixels should be ignored, add ignore=7/9; otherwise name the "
        "missing classes.",
    ),
    "a photograph as label": (LABEL, photograph, "labels must hold ids, not colours."),
    "a missing label": (
        LABEL,
        Path.unlink,
        "the label is missing; each image needs a label with the same name.",
    ),
    "a label that is no picture": (
        LABEL,
        lambda path: path.write_text("hello"),
        "the label cannot be read: not an image of a known format.",
    ),
    "a truncated label": (
        LABEL,
        truncate,
        "the label cannot be read: image file is truncated.",
    ),
    "a truncated image": (
        IMAGE,
        truncate,
        "the image cannot be read: image file is truncated.",
    ),
    "an empty image": (
        IMAGE,
        lambda path: path.write_bytes(b""),
        "the image cannot be read: it is empty.",
    ),
    "a label of another size": (
        LABEL,
        smaller,
        "the label is 24x32 pixels, its image 48x64 (height x width). They must be of one size: "
        "export the label again, or resize it with nearest neighbour.",
    ),
    "a label in colours": (
        LABEL,
        colors,
        "the label is a RGB image with 3 channels; expected one channel of class ids. Name the "
        "class of each colour (colors=FILE of --dataset folder), or export index masks (palette "
        "PNGs are read as ids).",
    ),
}


def spoilt(folder: Path, file: str, spoil: Callable[[Path], Any]) -> tuple[Path, Path]:
    """Write a data set and spoil one file of it; return both."""
    root = write_data(folder / "data")
    spoil(root / file)
    return root, root / file


def complaint(done: Done) -> str:
    """Return the one paragraph of a run that was stopped."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("segacc: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("segacc: ").strip()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("case", CASES)
def test_the_first_batch_stops_the_run(warm: Warm, tmp_path: Path, case: str, workers: int) -> None:
    file, spoil, text = CASES[case]
    root, path = spoilt(tmp_path, file, spoil)
    batch = ("--batch-size", "4", "--max-steps", "1", "--num-workers", workers)
    found = complaint(warm(*FLAGS, "--dataset", f"folder:root={root}", *batch, cwd=tmp_path))
    assert found.startswith(f"{path}: ") and found.endswith(text + UNREADABLE), found
    assert not (tmp_path / "run").exists(), "found by the look before the first step"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_later_batch_stops_the_run_after_the_good_ones(
    warm: Warm, tmp_path: Path, workers: int
) -> None:
    root = write_data(tmp_path / "data", counts={"train": 40, "validation": 1})
    order = np.random.default_rng((0, 0)).permutation(40).tolist()
    place, path = unseen(root, order, range(2, 40))
    foreign_values(path)
    batch = ("--batch-size", "1", "--max-steps", "40", "--num-workers", workers)
    run = segacc if workers else warm  # a process of its own must end, too, workers or not
    found = complaint(run(*FLAGS, "--dataset", f"folder:root={root}", *batch, cwd=tmp_path))
    assert found.startswith(f"{path}: label values outside")
    steps = [row["step"] for row in metrics(tmp_path / "run", "train")]
    assert steps == list(range(1, place + 1))


def unseen(root: Path, order: list[int], places: Iterable[int]) -> tuple[int, Path]:
    """Return the first place in the order whose sample the look before a run passes over."""
    with_labels = sorted((root / "annotations" / "train").iterdir())
    names = sorted(path.name for path in with_labels)
    looked = evenly_spaced(len(names), LOOK)
    place = next(place for place in places if order[place] not in looked)
    return place, root / "annotations" / "train" / names[order[place]]


@pytest.mark.parametrize(
    ("counts", "flags", "text"),
    [
        (
            {"train": 0, "validation": 1},
            [],
            "{root}/images/train: the split is empty: no file name ends with ",
        ),
        (
            {"train": 1, "validation": 0},
            [],
            "{root}/images/validation: the split is empty: no file name ends with ",
        ),
        (
            {"train": 1},
            [],
            'the default of --eval-split: the data set has no split "validation"; it has train.',
        ),
        (
            {"train": 1},
            ["--eval-split", "trian"],
            '--eval-split: the data set has no split "trian"; it has train.',
        ),
    ],
)
def test_an_empty_or_missing_split_stops_the_run(
    warm: Warm, tmp_path: Path, counts: dict[str, int], flags: list[str], text: str
) -> None:
    root = write_data(tmp_path / "data", counts=counts)
    done = warm(*FLAGS, "--dataset", f"folder:root={root}", *flags, cwd=tmp_path)
    assert complaint(done).startswith(text.format(root=root))
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


def test_images_of_different_sizes_need_a_crop(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    write_data(tmp_path / "other", size=(64, 64))
    for kind in ("images", "annotations"):
        (tmp_path / "other" / kind / "train" / "train1.png").replace(
            root / kind / "train" / "train1.png"
        )
    flags = [*FLAGS, "--dataset", f"folder:root={root}", "--max-steps", "1", "--num-workers", "0"]
    flags[flags.index("flip")] = "none"
    assert complaint(warm(*flags, "--batch-size", "4", cwd=tmp_path)) == (
        "--aug: the images of a batch have different sizes after augmentation: (48, 64), "
        "(64, 64). Add `--aug random_scale_crop` last, or use batch_size 1."
    )
    done = warm(*flags, "--batch-size", "1", "--overwrite", cwd=tmp_path)
    assert "finished at step 1/1" in assert_succeeded(done).stdout


@pytest.mark.slow
def test_bad_validation_data_stops_the_run_and_evaluate(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    root, path = spoilt(tmp_path, "annotations/validation/validation1.png", foreign_values)
    given = ("--dataset", f"folder:root={root}", "--num-workers", "0")
    batch = ("--batch-size", "4", "--max-steps", "1")
    found = complaint(warm(*FLAGS, *given, *batch, cwd=tmp_path))
    assert found.startswith(f"{path}: label values outside")
    assert not (tmp_path / "run").exists()
    done = warm("evaluate", trained / "best", *given, "--output-dir", "out", cwd=tmp_path)
    assert complaint(done) == found
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_unreadable_files_are_counted_and_passed_over(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    root = write_data(tmp_path / "data")
    missing = root / LABEL
    missing.unlink()
    broken = root / "images" / "validation" / "validation2.png"
    truncate(broken)
    given = ("--dataset", f"folder:root={root}", "--num-workers", "0")
    batch = ("--batch-size", "2", "--max-steps", "4", "--eval-every", "2")
    done = assert_succeeded(warm(*FLAGS, *given, *batch, "--skip-unreadable", "1", cwd=tmp_path))
    assert done.stderr.splitlines() == [
        f"skipped, 1 of 1 allowed: {missing}: the label is missing; each image needs a label "
        "with the same name.",
        f"skipped, 1 of 1 allowed: {broken}: the image cannot be read: image file is truncated.",
    ], "once each, however often they are met; training and scoring count for themselves"
    rows = metrics(tmp_path / "run", "train")
    images = sorted(row["valid_pixels"] / (48 * 64) for row in rows)
    assert images == [1, 1, 2, 2], "an unreadable image has no valid pixel"

    assert [row["num_images"] for row in metrics(tmp_path / "run", "eval")] == [2, 2]

    skip = ("--skip-unreadable", "1", "--output-dir", "out")
    done = warm("evaluate", trained / "best", *given, *skip, cwd=tmp_path)
    assert "3 images, 1 unreadable" in assert_succeeded(done).stdout
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (report["num_images"], len(report["unreadable"])) == (2, 1)
    assert report["unreadable"][0].startswith(str(broken))


@pytest.mark.slow
def test_a_resumed_run_counts_on(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    first, second = (root / f"annotations/train/{name}.png" for name in ("train1", "train3"))
    given = ("--dataset", f"folder:root={root}", "--num-workers", "0", "--skip-unreadable", "1")
    label = first.read_bytes()
    first.unlink()
    done = warm(*FLAGS, *given, "--batch-size", "4", "--max-steps", "1", cwd=tmp_path)
    why = "the label is missing; each image needs a label with the same name."
    assert assert_succeeded(done).stderr == f"skipped, 1 of 1 allowed: {first}: {why}\n"
    done = warm("--resume", "run", "--max-steps", "2", cwd=tmp_path)
    assert assert_succeeded(done).stderr == "", "it was told before"
    first.write_bytes(label)
    second.unlink()
    again = ("--resume", "run", "--max-steps", "3", "--resume-anyway")  # other files are there
    found = complaint(warm(*again, cwd=tmp_path))
    assert found == (
        f"{second}: {why}{UNREADABLE.rstrip('.')} (1 are allowed by --skip-unreadable). The run is "
        "saved at step 2; once this is fixed, `segacc train --resume "
        f"{tmp_path}/run` continues it."
    )


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_resumed_run_stops_at_the_same_file_again(tmp_path: Path, allowed: int) -> None:
    """The checkpoint that is saved after the error does not count the file as told."""
    root = write_data(tmp_path / "data", counts={"train": 40, "validation": 1})
    order = np.random.default_rng((0, 0)).permutation(40).tolist()
    place, path = unseen(root, order, range(2, 40))
    lost = [path] + [unseen(root, order, range(place + 1, 40))[1]] * allowed
    for one in lost:
        one.unlink()
    given = {"dataset": f"folder:root={root}", "batch_size": 1, "crop_size": (48, 64)}
    given |= {"max_steps": 40, "eval_split": "validation", "skip_unreadable": allowed}
    saved = []
    for settings in (given, {"resume": tmp_path / "run"}):
        run = build(tmp_path, **settings)
        with pytest.raises(DataError, match=f"^{lost[-1]}: the label is missing"):
            deque(train(run), maxlen=0)
        run.lock.release()
        saved.append(run.progress.saved)
    assert saved == [saved[0]] * 2 and 2 <= saved[0] < 40


def test_one_unreadable_file_too_many_stops_the_run(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    for name in ("train1", "train3"):
        (root / "annotations" / "train" / f"{name}.png").unlink()
    given = ("--dataset", f"folder:root={root}", "--num-workers", "0", "--skip-unreadable", "1")
    done = warm(*FLAGS, *given, "--batch-size", "4", "--max-steps", "1", cwd=tmp_path)
    first, second = (root / f"annotations/train/{name}.png" for name in ("train1", "train3"))
    why = "the label is missing; each image needs a label with the same name."
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"skipped, 1 of 1 allowed: {first}: {why}",
        f"segacc: {second}: {why}{UNREADABLE.rstrip('.')} (1 are allowed by --skip-unreadable).",
    ]
    assert metrics(tmp_path / "run", "train") == []


FAULTS = {
    "annotations/train/train0.png": foreign_values,
    "annotations/train/train1.png": smaller,
    "annotations/train/train2.png": colors,
    "images/validation/validation0.png": truncate,
}


def test_faulty_samples_are_passed_over_whatever_the_fault(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    for name, spoil in FAULTS.items():
        spoil(root / name)
    given = ("--dataset", f"folder:root={root}", "--num-workers", "0", "--skip-unreadable", "3")
    steps = ("--batch-size", "4", "--max-steps", "2")
    done = assert_succeeded(warm(*FLAGS, *given, *steps, cwd=tmp_path))
    told = [line.split(" allowed: ")[1].partition(": ")[0] for line in done.stderr.splitlines()]
    assert sorted(told) == [str(root / name) for name in FAULTS]
    rows = metrics(tmp_path / "run", "train")
    assert [row["valid_pixels"] for row in rows] == [48 * 64] * 2, "of the one that is left"


@pytest.mark.slow
@pytest.mark.launch
def test_bad_data_on_one_process_stops_both_and_is_told_once(warm: Warm, tmp_path: Path) -> None:
    order = np.random.default_rng((0, 0)).permutation(40).tolist()
    root = write_data(tmp_path / "data", counts={"train": 40, "validation": 1})
    place, path = unseen(root, order, range(1, 40, 2))  # of process 1
    foreign_values(path)
    given = ("--dataset", f"folder:root={root}", "--num-workers", "0")
    steps = ("--batch-size", "1", "--max-steps", "20")
    done = warm(*FLAGS, *given, *steps, cwd=tmp_path, processes=2)
    assert done.returncode != 0
    assert done.stderr.count(f"segacc: {path}: label values outside the 3 classes: 7 (5 pi") == 1
    assert done.stderr.count("label values outside") == 1
    assert "2 processes on cpu" in done.stdout
    assert len(metrics(tmp_path / "run", "train")) == place // 2


def test_class_names_are_needed(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", names=NAMES[:1])
    given = ("--dataset", f"folder:root={root}")
    assert complaint(warm(*FLAGS, *given, cwd=tmp_path)) == (
        f"{root}/classes.txt: A label map needs 2 to 255 classes, got 1: background. With a single "
        "class, add the background as a second one."
    )
    (root / "classes.txt").write_text("background\ndisc\ndisc\n")
    found = complaint(warm(*FLAGS, *given, cwd=tmp_path))
    assert found == f"{root}/classes.txt: Two classes have the same name: disc."
    (root / "classes.txt").unlink()
    assert complaint(warm(*FLAGS, *given, cwd=tmp_path)) == (
        f"--dataset folder: no class names. Put classes.json or classes.txt into {root}, or add "
        "names=FILE (a text file with one class name per line), colors=FILE if labels "
        "contain colours, or binary=true if they contain 0 and one other value."
    )
