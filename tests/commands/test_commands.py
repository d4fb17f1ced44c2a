"""`evaluate` and `plugins`: what they print, what they write, and that it is right."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli_tools import (
    NAMES,
    Warm,
    assert_refused,
    assert_succeeded,
    metrics,
    segacc,
    write_data,
)
from segacc.evaluation.protocol_options import KINDS, PRESETS
from segacc.registry import load_registry
from segacc.training.optim.optimizers import OPTIMIZERS
from segacc.training.optim.schedule import DECAYS

pytest_plugins = ["cli_fixtures"]

SCORES = (
    *("mean_iou", "mean_accuracy", "overall_accuracy"),
    *("per_category_iou", "per_category_accuracy"),
)


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return content


def evaluate(warm: Warm, model: Path, data: Path, cwd: Path, *flags: str) -> str:
    given = ("--dataset", f"folder:root={data}", "--num-workers", "0", "--output-dir", "out")
    return assert_succeeded(warm("evaluate", model, *given, *flags, cwd=cwd)).stdout


# evaluate


@pytest.mark.slow
def test_evaluate_gives_the_scores_of_the_run_to_the_last_digit(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    stored = json.loads((trained / "best" / "segacc.json").read_text())
    [best] = [row for row in metrics(trained, "eval") if row["step"] == stored["step"]]
    said = evaluate(warm, trained / "best", data, tmp_path)
    found = report(tmp_path / "out")
    assert found["scores"] == {name: best[name] for name in SCORES}
    assert found["scores"]["mean_iou"] > 0.5, "more than the background is recognized"
    lines = said.splitlines()
    assert lines[:3] == [
        f"protocol whole, stored in {trained}/best",
        f"{trained}/best on validation: 3 images, protocol whole, float32",
        "  evaluated at original label size, ignore_index=255, classes absent from labels and "
        "predictions excluded from the mean",
    ]
    low, high = found["intervals"]["mean_iou"]
    told = f"  mean_iou {best['mean_iou']:.4f} ({low:.4f} to {high:.4f})  mean_accuracy "
    assert lines[3].startswith(told)
    assert lines[4].split() == ["class", "IoU", "95", "%", "interval", "accuracy"]
    assert [line.split()[0] for line in lines[5:8]] == list(NAMES)
    low, high = found["intervals"]["per_category_iou"]["disc"]
    assert f"  {low:.4f} to {high:.4f}  " in lines[6]
    assert lines[8:] == [f"  {found['intervals']['what']}", "written to out"]


def test_evaluation_json_carries_what_makes_a_score_comparable(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    dataset = f"folder:root={data}"
    evaluate(warm, trained / "best", data, tmp_path, "--protocol", "whole:short_side=40")
    found = report(tmp_path / "out")
    assert found["protocol"] == "whole:short_side=40"
    assert (found["model"], found["dataset"]) == (str(trained / "best"), dataset)
    assert (found["split"], found["num_images"], found["unreadable"]) == ("validation", 3, [])
    assert (found["precision"], found["processes"]) == ("no", 1)
    assert (found["weights"], found["label_size"]) == ("raw", "original")
    assert {"ignored", "absent_classes", "protocol", "num_images", "precision"} <= set(found)
    evaluate(warm, trained / "best", data, tmp_path, "--split", "train")
    found = report(tmp_path / "out")
    assert (found["split"], found["num_images"]) == ("train", 4)


@pytest.mark.slow
def test_a_carved_split_is_told_with_its_score(warm: Warm, trained: Path, tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", counts={"train": 5})
    evaluate(warm, trained / "best", root, tmp_path, "--split", "train")
    assert report(tmp_path / "out")["carved"] is None
    evaluate(warm, trained / "best", root, tmp_path, "--val-fraction", "0.4", "--seed", "3")
    found = report(tmp_path / "out")
    assert (found["split"], found["num_images"]) == ("validation", 2)
    assert found["carved"] == {"val_fraction": 0.4, "train_split": "train", "seed": 3}


@pytest.mark.parametrize("flags", [("--seed", "3"), ("--train-split", "train[:50]")])
def test_what_only_a_carved_split_heeds_is_not_ignored(
    warm: Warm, trained: Path, data: Path, tmp_path: Path, flags: tuple[str, str]
) -> None:
    assert_refused(
        warm(
            "evaluate", trained / "best", "--dataset", f"folder:root={data}", *flags, cwd=tmp_path
        ),
        f"{flags[0]}: only has an effect with --val-fraction; add that, or leave it out. --split "
        "names the split that is scored.",
    )


@pytest.mark.launch
def test_two_processes_score_as_one(trained: Path, data: Path, tmp_path: Path, warm: Warm) -> None:
    evaluate(warm, trained / "best", data, tmp_path)
    given = ("--dataset", f"folder:root={data}", "--num-workers", "0", "--output-dir", "two")
    done = assert_succeeded(warm("evaluate", trained / "best", *given, cwd=tmp_path, processes=2))
    one, two = report(tmp_path / "out"), report(tmp_path / "two")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["scores"] == one["scores"]
    assert done.stdout.count("mean_iou") == 1


def test_a_class_that_does_not_occur_is_null_in_json(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    root = write_data(tmp_path / "data", counts={"validation": 1})
    label = root / "annotations" / "validation" / "validation0.png"
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(label)
    evaluate(warm, trained / "best", root, tmp_path)
    text = (tmp_path / "out" / "evaluation.json").read_text()
    assert "NaN" not in text
    assert report(tmp_path / "out")["scores"]["per_category_accuracy"]["bar"] is None


def test_other_classes_are_refused(warm: Warm, trained: Path, tmp_path: Path) -> None:
    given = ("--dataset", "nuclei", "--num-workers", "0")
    assert_refused(
        warm("evaluate", trained / "best", *given, cwd=tmp_path),
        "--dataset nuclei: the data set has 2 classes (background, nucleus), but the network "
        "predicts 3 classes (background, disc, bar). Evaluation needs the same classes in the same "
        "order.",
    )
    root = write_data(tmp_path / "data", names=("background", "bar", "disc"))
    done = warm("evaluate", trained / "best", "--dataset", f"folder:root={root}", cwd=tmp_path)
    assert done.returncode == 2 and "(background, bar, disc)" in done.stderr


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        (
            "tiles",
            '--protocol: unknown protocol "tiles". Known: whole, slide, tta, mmseg-ade20k, '
            "mmseg-cityscapes, voc.",
        ),
        (
            "slide",
            '--protocol: the option "crop" is required (SIZE or HEIGHTxWIDTH in pixels > 0).',
        ),
        (
            "slide:crop=64,stride=60x65",
            "--protocol: the stride 60x65 is larger than the crop 64, so pixels between the "
            "windows would have no prediction.",
        ),
        (
            "whole:shortside=4",
            '--protocol: unknown option "shortside". Did you mean "short_side"? Known: '
            "short_side, long_side, antialias, interpolation, threshold, size, pad.",
        ),
        (
            "whole:short_side=0",
            "--protocol: short_side: expected an integer > 0; found '0'.",
        ),
        (
            "whole:short_side=40,size=40",
            "--protocol: short_side and size exclude each other.",
        ),
    ],
)
def test_an_unknown_protocol_is_refused(
    warm: Warm, trained: Path, data: Path, tmp_path: Path, protocol: str, text: str
) -> None:
    given = ("--dataset", f"folder:root={data}", "--protocol", protocol)
    assert_refused(warm("evaluate", trained / "best", *given, cwd=tmp_path), text)
    image = data / "images" / "train" / "train0.png"
    done = warm("predict", trained / "best", image, "--protocol", protocol, cwd=tmp_path)
    assert_refused(done, text)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_no_network_is_refused(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    given = ("--dataset", f"folder:root={data}")
    assert_refused(
        warm("evaluate", data, *given, cwd=tmp_path),
        f"MODEL: {data} is not a model folder: it has no config.json.",
    )
    offers = load_registry().of_kind("architecture")
    known = sorted(kind for offer in offers for kind in offer.record.model_types)
    bare = shutil.copytree(trained / "best", tmp_path / "bare")
    (bare / "preprocessor_config.json").write_text("{")
    done = warm("evaluate", "bare", *given, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("segacc: bare: preprocessor_config.json cannot be read: ")
    side = json.loads((bare / "segacc.json").read_text())
    del side["size_rule"], side["facts"]
    for text, told in {
        json.dumps(side): "facts, size_rule missing: it was written by another version of segacc "
        "or edited by hand. Without this file the folder is loaded as a transformers model.",
        "{": "damaged: Expecting property name enclosed in double quotes: line 1 column 2 (char "
        "1). Copy the folder again.",
    }.items():
        (bare / "segacc.json").write_text(text)
        assert_refused(warm("evaluate", "bare", *given, cwd=tmp_path), f"bare/segacc.json: {told}")
    whole = json.loads((trained / "best" / "segacc.json").read_text())
    for key, value, told in (
        ("labels", {}, "labels cannot be read (KeyError: 'classes')"),
        ("facts", {"crop_size": None}, "facts cannot be read (TypeError: "),
        ("size_rule", {**whole["size_rule"], "of_later": 1}, "size_rule cannot be read (TypeError"),
        ("protocol", 5, "protocol cannot be read (AttributeError: "),
    ):
        (bare / "segacc.json").write_text(json.dumps({**whole, key: value}))
        done = warm("evaluate", "bare", *given, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"segacc: bare/segacc.json: {told}")
    (bare / "config.json").write_text("{}")
    (bare / "segacc.json").unlink()
    assert_refused(
        warm("evaluate", "bare", *given, cwd=tmp_path),
        "bare: a config.json without model_type is not a segmentation model that segacc knows. If "
        "it is an encoder, give an architecture that uses it, as --arch upernet:backbone=NAME. "
        f"Known model types: {', '.join(known)}.",
    )


# plugins


def test_plugins_lists_every_component(tmp_path: Path) -> None:
    done = assert_succeeded(segacc("plugins", cwd=tmp_path, COLUMNS="80"))
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert lines[0] == ["kind", "name", "from", "what", "it", "is"]
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stdout.splitlines()[-1] == "`segacc plugins NAME` shows the options of a component."
    words = {word for line in lines for word in line}
    assert {"segformer", "nuclei", "folder", "flip", "random_scale_crop", "mean_iou"} <= words


@pytest.mark.parametrize("name", ["segformer", "segacc/segformer"])
def test_plugins_name_shows_its_options(warm: Warm, tmp_path: Path, name: str) -> None:
    done = assert_succeeded(warm("plugins", name, cwd=tmp_path, COLUMNS="120"))
    lines = done.stdout.splitlines()
    assert lines[0].startswith("architecture segacc/segformer: hierarchical transformer encoder")
    [row] = [line for line in lines if line.split()[:1] == ["drop_path"]]
    assert "number >= 0 and < 1" in row and " 0.1 " in row and "Stochastic depth rate" in row


def test_plugins_json(tmp_path: Path) -> None:
    content = json.loads(assert_succeeded(segacc("plugins", "--json", cwd=tmp_path)).stdout)
    assert content["failures"] == []
    assert {part["kind"] for part in content["components"]} == {
        *("architecture", "dataset", "augmentation", "loss", "metric"),
        *("optimizer", "schedule", "protocol"),
    }
    [flip] = json.loads(segacc("plugins", "flip", "--json", cwd=tmp_path).stdout)["components"]
    assert flip == {
        "kind": "augmentation",
        "name": "flip",
        "distribution": "segacc",
        "version": "0.1.0",
        "summary": "random horizontal flip",
        "options": [
            {
                "name": "p",
                "type": "number >= 0 and <= 1",
                "default": "0.5",
                "doc": "Probability of a horizontal flip.",
            },
            {
                "name": "until",
                "type": "number > 0 and <= 1",
                "default": "1.0",
                "doc": "Fraction of the run's steps after which it ends, e.g. `until=0.9`.",
            },
        ],
    }


LISTED = {"optimizer": OPTIMIZERS, "schedule": DECAYS, "protocol": (*KINDS, *PRESETS)}


@pytest.mark.parametrize("kind", LISTED)
def test_plugins_lists_what_plugins_cannot_add(warm: Warm, tmp_path: Path, kind: str) -> None:
    said = assert_succeeded(warm("plugins", kind, cwd=tmp_path, COLUMNS="80")).stdout
    assert max(map(len, said.splitlines())) <= 80
    rows = json.loads(warm("plugins", kind, "--json", cwd=tmp_path).stdout)["components"]
    assert sorted(row["name"] for row in rows) == sorted(LISTED[kind])
    for row in rows:
        assert row["kind"] == kind and row["name"] in said.split() and row["summary"]
        assert all(option["doc"] and option["type"] for option in row["options"]), row
    known = {row["name"] for row in rows if kind == "protocol"} | {"adamw", "sgd", "poly"}
    assert all(row["options"] for row in rows if row["name"] in known)


def test_plugins_of_one_kind(warm: Warm, tmp_path: Path) -> None:
    said = assert_succeeded(warm("plugins", "loss", cwd=tmp_path, COLUMNS="80")).stdout.split()
    assert {"dice", "lovasz"} <= set(said) and not {"segformer", "flip", "adamw"} & set(said)
    rows = json.loads(warm("plugins", "loss", "--json", cwd=tmp_path).stdout)["components"]
    assert {row["kind"] for row in rows} == {"loss"} and len(rows) == 9


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "adamw",
            [
                "optimizer adamw: torch.optim.AdamW",
                "betas list of numbers >= 0 and < 1 0.9/0.999 Shares of the past in the means of "
                "the gradient and of its square, as in `0.9/0.95`.",
                "amsgrad true or false false Divide by the largest mean of the squares so far.",
            ],
        ),
        (
            "sgd",
            [
                "optimizer sgd: torch.optim.SGD; default --lr 0.01",
                "momentum number >= 0 and < 1 0.0 Share of the past in the direction.",
            ],
        ),
        (
            "poly",
            [
                "schedule poly: decay as (1 - step / total) ** power",
                "power number > 0 1.0 Exponent of the decay; 1 is linear, 0.9 is usual for "
                "convolutional networks.",
            ],
        ),
        (
            "voc",
            [
                "protocol voc: whole:short_side=512, long_side=2048, antialias=false; add crop "
                "for windows, scales for several views",
                "antialias true or false false Use antialiasing when downscaling, as Pillow and "
                "image processors do; false resizes as OpenCV.",
            ],
        ),
    ],
)
def test_plugins_shows_the_options_of_what_is_typed_like_a_component(
    warm: Warm, tmp_path: Path, name: str, lines: list[str]
) -> None:
    said = assert_succeeded(warm("plugins", name, cwd=tmp_path, COLUMNS="300")).stdout
    found = [" ".join(line.split()) for line in said.splitlines()]
    assert set(lines) <= set(found), said
