"""`segacc compare`: what it says, what it refuses, and that it does without torch."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segacc
from cli_tools import Warm, assert_refused, assert_succeeded, python
from score_tools import Pair, counted, pairs, scores_of
from segacc.commands.evaluate.bootstrap import differences
from segacc.commands.evaluate.command import EvaluationResult
from segacc.commands.evaluate.compare import compare, comparison_figure
from segacc.commands.evaluate.per_image import PerImage
from segacc.commands.evaluate.sides import differing, read_side
from segacc.evaluation.scores import Terms

pytest_plugins = ["cli_fixtures"]

K = 6


def write(folder: Path, images: PerImage, **changes: Any) -> Path:
    """Write what `segacc evaluate` leaves of these images, as far as a comparison reads it."""
    folder.mkdir()
    images.write(folder / "per_image.parquet")
    terms = vars(Terms(protocol="whole", num_images=len(images)))
    told = {"dataset": "folder:root=a", "split": "validation", "carved": None, **terms, **changes}
    (folder / "evaluation.json").write_text(json.dumps(told))
    return folder


def drawn(seed: int, right: float, *, count: int = 40) -> dict[str, Pair]:
    return pairs(count, K, seed=seed, right=right)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder of three evaluations of the same images: a, one that is better, one as good."""
    for name, seed, right in (("a", 1, 0.5), ("better", 2, 0.7), ("same", 3, 0.5)):
        write(tmp_path / name, counted(drawn(seed, right), K))
    return tmp_path


def test_the_better_one_is_told(warm: Warm, two: Path) -> None:
    done = assert_succeeded(warm("compare", "a", "better", cwd=two))
    found = json.loads((two / "comparison/compare.json").read_text())
    mine, theirs = drawn(1, 0.5), drawn(2, 0.7)
    for side, images in (("a", mine), ("b", theirs)):
        mean, by_class = scores_of(list(images.values()), K)
        assert found["mean_iou"][side] == pytest.approx(mean, abs=1e-12)
        rows = found["per_category_iou"].values()
        assert [row[side] for row in rows][:-1] == pytest.approx(by_class[:-1], abs=1e-12)
    assert found["per_category_iou"]["c5"] == {
        **{"a": None, "b": None, "difference": None, "interval": None, "better": None}
    }
    low, high = found["mean_iou"]["interval"]
    assert (low, high) == differences([counted(mine, K)], [counted(theirs, K)]).mean_iou
    value = found["mean_iou"]["b"] - found["mean_iou"]["a"]
    assert 0 < low < value < high and found["mean_iou"]["better"] == "B"
    lines = done.stdout.splitlines()
    assert found["terms"] == [lines[2]] and lines[2].startswith("protocol whole, float32; ")
    assert lines[2].endswith("classes absent from labels and predictions excluded from the mean")
    assert [*lines[:2], lines[3]] == [
        "A a",
        "B better",
        "  class            A         B     B - A       95 % interval    better",
    ]
    assert lines[4].split() == [
        *("mean_iou", f"{found['mean_iou']['a']:.4f}", f"{found['mean_iou']['b']:.4f}"),
        *(f"{value:+.4f}", f"{low:+.4f}", "to", f"{high:+.4f}", "B"),
    ]
    assert lines[10].split() == ["c5", "-", "-", "-", "-", "-"]
    assert lines[11:] == [
        "95 % intervals: bootstrap of 40 images, 1000 resamples, seed 0; training randomness is "
        "not included; "
        "both sides on the same resamples",
        "5 of 5 classes differ; 0.25 expected by chance",
        f"B is better at 95 %: mean_iou B - A = {value:+.4f} ({low:+.4f} to {high:+.4f}) on 40 "
        "images",
        "written to comparison/compare.json, comparison/compare.png",
    ]
    assert found["verdict"] == lines[13]


def test_the_other_way_round_a_is_better(two: Path) -> None:
    found = compare(
        read_side(two / "better", "A"), read_side(two / "a", "B"), resamples=500, seed=1
    )
    assert found.verdict().startswith("A is better at 95 %: mean_iou B - A = -0.")


def test_no_difference_is_said(warm: Warm, two: Path) -> None:
    for other in ("same", "a"):
        done = assert_succeeded(warm("compare", "a", other, "--output-dir", "out", cwd=two))
        assert "\nno difference at 95 %: mean_iou B - A = " in done.stdout
        assert json.loads((two / "out/compare.json").read_text())["mean_iou"]["better"] is None
    assert "B - A = +0.0000 (+0.0000 to +0.0000)" in done.stdout


@pytest.mark.slow
def test_seed_and_resamples_are_heeded(warm: Warm, two: Path) -> None:
    found = []
    for flags in ((), ("--seed", "0"), ("--seed", "1"), ("--resamples", "300")):
        assert_succeeded(warm("compare", "a", "same", *flags, cwd=two))
        found.append(json.loads((two / "comparison/compare.json").read_text()))
    ends = [one["mean_iou"]["interval"] for one in found]
    assert ends[0] == ends[1] and ends[0] != ends[2] and ends[0] != ends[3]
    assert [one["resamples"] for one in found] == [1000, 1000, 1000, 300]


def test_several_runs_on_each_side(warm: Warm, two: Path) -> None:
    done = assert_succeeded(warm("compare", "a", "same", "--with", "better", cwd=two))
    found = json.loads((two / "comparison/compare.json").read_text())
    a = [counted(drawn(seed, 0.5), K) for seed in (1, 3)]
    wanted = differences(a, [counted(drawn(2, 0.7), K)])
    assert found["mean_iou"]["interval"] == list(wanted.mean_iou or ())
    each = [scores_of(list(drawn(seed, 0.5).values()), K)[0] for seed in (1, 3)]
    assert list(found["runs"]["a"].values()) == pytest.approx(each, abs=1e-12)
    assert found["mean_iou"]["a"] == pytest.approx(np.mean(each), abs=1e-11)
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "A 2 runs: a, same",
        "B better",
        f"mean_iou of the runs of A: {each[0]:.4f}  {each[1]:.4f}",
    ]
    assert lines[-2].startswith("B is better at 95 %") and lines[-2].endswith("runs 2 and 1")


GROUPS = {
    ("a",): "compare: expected A and B, found 1 path. Several runs on a side are separated "
    "by --with, as in `segacc compare A1 A2 --with B1 B2`.",
    ("a", "same", "better"): "compare: expected A and B, found 3 paths. Several runs on a "
    "side are separated by --with, as in `segacc compare A1 A2 --with B1 B2`.",
    ("a", "--with", "same", "other"): "B: same and other differ in protocol: whole and slide. The "
    "runs of a side differ in their seed only: evaluate them in the same way.",
}


@pytest.mark.parametrize("typed", GROUPS, ids=" ".join)
def test_what_is_no_group_is_refused(warm: Warm, two: Path, typed: tuple[str, ...]) -> None:
    write(two / "other", counted(drawn(4, 0.5), K), protocol="slide")
    assert_refused(warm("compare", *typed, cwd=two), GROUPS[typed])
    done = warm("compare", "a", "a", "--with", "same", cwd=two)
    assert_refused(done, f"A: {two / 'a'} is given twice; give each run once.")


def test_what_is_not_alike_is_told(warm: Warm, two: Path) -> None:
    images = drawn(3, 0.5)
    del images["image 000"]
    changes = {"protocol": "slide:crop=64,stride=43", "weights": "ema"}
    changes |= {"carved": {"val_fraction": 0.2, "train_split": "train", "seed": 3}}
    write(two / "b", counted(images, K), **changes)
    done = assert_succeeded(warm("compare", "a", "b", cwd=two))
    assert done.stdout.splitlines()[2:6] == [
        "different held-out split: A none, B 20 % of train (seed 3); this affects the difference "
        "of the scores",
        "different protocol: A whole, B slide:crop=64,stride=43; this affects the difference of "
        "the scores",
        "different weights: A raw, B ema; this affects the difference of the scores",
        "images in only one evaluation are left out: 1 of A, 0 of B",
    ]
    found = json.loads((two / "comparison/compare.json").read_text())
    assert found["num_images"] == 39 and found["notes"] == done.stdout.splitlines()[2:6]
    mine = drawn(1, 0.5)
    del mine["image 000"]
    assert found["mean_iou"]["a"] == pytest.approx(scores_of(list(mine.values()), K)[0], abs=1e-12)


def test_a_picture_shows_each_difference(warm: Warm, two: Path) -> None:
    assert_succeeded(warm("compare", "a", "better", cwd=two))
    with Image.open(two / "comparison/compare.png") as shown:
        assert shown.width > 600 and len(np.unique(np.asarray(shown))) > 10
    found = compare(
        read_side(two / "a", "A"), read_side(two / "better", "B"), resamples=200, seed=0
    )
    figure = comparison_figure(found)
    [axes] = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[-1] == "mean_iou" and set(names[:-1]) == {f"c{k}" for k in range(5)}
    bars = [tuple(line.get_xdata()) for line in axes.lines[:-2:2]]  # the last two lie behind
    assert bars[-1] == found.mean_iou.interval and len(bars) == len(names)
    values = [found.per_category_iou[name].value for name in names[:-1]]
    assert values == sorted(values)


GIVE = (
    "give an output folder of `segacc evaluate`, or a run folder, model folder or checkpoint that "
    "was evaluated."
)
REFUSED = {
    ("a", "none"): f"B: none has no evaluation.json; {GIVE}",
    ("a", "model"): "B: model was not evaluated; run `segacc evaluate model` first. An evaluation "
    "with --output-dir DIR is given as DIR.",
    ("a", "run"): "B: run/best was not evaluated; run `segacc evaluate run/best` first. An "
    "evaluation with --output-dir DIR is given as DIR.",
    ("a", "bare"): f"B: bare has no per_image.parquet; {GIVE}",
    ("a", "classes"): "a has 6 classes (c0, c1, c2, c3, c4, c5), but classes has 5 classes (c0, "
    "c1, c2, c3, c4). A comparison needs the same classes in the same order.",
    ("a", "ids"): "a and ids have 0 images in common, of 40 and 3: A has image 000, image 001, "
    "image 002, image 003 and 36 more; B has x, y, z. Score both networks on the same split.",
    ("a", "labels"): "a and labels have different labels for 1 of the 40 common images, such as "
    "image 007: each class must have the same number of labelled pixels. Evaluate both networks on "
    "the same files, with the same label map.",
    ("a", "a", "--output-dir", "a/evaluation.json"): "--output-dir: cannot create "
    "a/evaluation.json: a/evaluation.json is a file.",
}


@pytest.mark.parametrize("typed", REFUSED, ids=" ".join)
def test_what_cannot_be_compared_is_refused(warm: Warm, two: Path, typed: tuple[str, ...]) -> None:
    images = drawn(1, 0.5)
    for model in ("model", "run/best"):
        (two / model).mkdir(parents=True)
        (two / model / "config.json").write_text("{}")
    write(two / "bare", counted(images, K))
    (two / "bare/per_image.parquet").unlink()
    write(two / "classes", counted(drawn(1, 0.5), K - 1))
    renamed = dict(zip("xyz", images.values(), strict=False))
    write(two / "ids", counted(renamed, K))
    said, label = images["image 007"]
    changed = label.copy()
    changed.flat[0] = 1 if label.flat[0] != 1 else 0
    write(two / "labels", counted({**images, "image 007": (said, changed)}, K))
    assert_refused(warm("compare", *typed, cwd=two), REFUSED[typed])
    assert not (two / "comparison").exists()


def test_labels_that_nobody_has_are_refused(warm: Warm, tmp_path: Path) -> None:
    nothing = np.full((3, 3), 255, np.uint8)
    images = {name: (np.zeros_like(nothing), nothing) for name in "ab"}
    for side in "ab":
        write(tmp_path / side, counted(images, K))
    assert_refused(
        warm("compare", "a", "b", cwd=tmp_path), "a and b: no pixel of the images is labelled."
    )


LOADED = """
import sys
from segacc.__main__ import main
sys.argv = ["segacc", *sys.argv[1:]]
code = main()
sys.stderr.write(f"LOADED {code} {sorted({name.split('.')[0] for name in sys.modules})}")
"""


def test_no_torch_is_imported(two: Path) -> None:
    done = python("-c", LOADED, "compare", "a", "better", cwd=two)
    report = re.search(r"LOADED (\d+) \[(.*)\]", done.stderr)
    assert report and report[1] == "0", done.stderr
    loaded = {name.strip("'") for name in report[2].split(", ")}
    heavy = {"torch", "torchvision", "transformers", "datasets", "accelerate", "scipy"}
    assert "segacc" in loaded and not loaded & heavy


RESOLVED = {"images": "images", "labels": "annotations", "name": "folder", "root": "data/mine"}
TYPED = "folder:root=data/mine,labels=annotations,images=images"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({**RESOLVED, "root": "data/mine/"}, 0),
        (TYPED.replace("data", "./data"), 0),
        (TYPED.replace("mine", "foggy"), 1),
        ({**RESOLVED, "name": "yolo"}, 1),
        (f"{TYPED},binary=true", 1),
    ],
)
def test_a_data_set_is_the_same_however_it_was_typed(
    tmp_path: Path, other: object, told: int
) -> None:
    sides = [
        read_side(write(tmp_path / name, counted(drawn(1, 0.5), K), dataset=dataset), name)
        for name, dataset in (("a", RESOLVED), ("b", other))
    ]
    notes = compare(*sides, resamples=10, seed=0).notes()
    assert ["different dataset" in note for note in notes] == [True] * told
    assert len(differing(*sides)) == told


def test_a_result_of_evaluate_is_compared(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two)
    fields = [one.name for one in dataclasses.fields(EvaluationResult)]
    result = EvaluationResult(**{**dict.fromkeys(fields), "folder": two / "a"})
    typed = segacc.compare("a", "better", resamples=100)
    for a in (result, [result]):
        found = segacc.compare(a, "better", resamples=100)
        assert found.a.folder == two / "a" and found.verdict() == typed.verdict()
