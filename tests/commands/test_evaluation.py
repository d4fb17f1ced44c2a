"""What `segacc evaluate` leaves, that `--verify` can fail, and where the protocol comes from."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli_tools import Warm, assert_refused, assert_succeeded, write_data
from plugin_tools import pip_install, write_distribution
from segacc.commands.evaluate.command import check
from segacc.commands.evaluate.per_image import PerImage
from segacc.registry import choose, load_registry
from segacc.settings.sources import Layer

pytest_plugins = ["cli_fixtures"]

WRONG = """
from dataclasses import dataclass
import segacc
from segacc.plugins.metrics.overlap import MeanIou

@dataclass(frozen=True)
class Options:
    pass

class Wrong(MeanIou):
    def update(self, predictions, labels):
        super().update(predictions, labels.where(labels != 255, 0))

    def compute(self):
        return {**super().compute(), "half": 0.5}

    def write(self, folder):
        (folder / "counts.txt").write_text(str(int(self.state["confusion"].sum())))

@segacc.hookimpl
def segacc_metrics():
    return [
        segacc.Metric(
            name="wrong", summary="counts ignored pixels as class 0", options=Options,
            build=lambda options, facts: Wrong(facts), writes=True,
        )
    ]
"""


def told(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return content


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set with a fifth of its labels ignored, and one image ignored altogether."""
    root = write_data(tmp_path_factory.mktemp("spoiled"), counts={"validation": 5})
    for number, path in enumerate(sorted((root / "annotations/validation").iterdir())):
        label = np.array(Image.open(path))
        label[:, : 64 if number == 3 else 13] = 255
        Image.fromarray(label).save(path)
    return root


def given(root: Path, *more: str) -> tuple[str, ...]:
    return ("--dataset", f"folder:root={root}", "--num-workers", "0", *more)


@pytest.mark.slow
def test_the_folder_lies_in_the_model(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(trained / "best", tmp_path / "model")
    done = assert_succeeded(warm("evaluate", model, *given(data), cwd=tmp_path))
    assert done.stdout.splitlines()[-1] == f"written to {model}/evaluation"
    files = sorted(path for path in (model / "evaluation").rglob("*") if path.is_file())
    names = [str(path.relative_to(model / "evaluation")) for path in files]
    assert names[:2] == ["evaluation.json", "per_image.parquet"]
    assert [name[:21] for name in names[2:]] == [
        f"pictures/worst/0{rank}-iou" for rank in (1, 2, 3)
    ]
    found, images = (
        told(model / "evaluation"),
        PerImage.read(model / "evaluation/per_image.parquet"),
    )
    assert images.names == ("background", "disc", "bar") and len(images) == 3
    worst = min(images, key=lambda image: image.mean_iou)
    assert names[2] == f"pictures/worst/01-iou-{worst.mean_iou:.4f}-{worst.id}.png"
    hit, labelled, predicted = images.total().T
    iou = hit / (labelled + predicted - hit)
    assert found["scores"]["mean_iou"] == pytest.approx(iou.mean(), abs=1e-12)
    low, high = found["intervals"]["mean_iou"]
    assert low <= found["scores"]["mean_iou"] <= high and "verified" not in found
    assert_succeeded(warm("evaluate", model, *given(data), cwd=tmp_path))  # and once more


@pytest.mark.slow
def test_files_of_metrics_are_those_of_this_evaluation(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "out", trained / "best"
    (tmp_path / "out").mkdir()
    (out / "confusion.txt").write_text("mine")
    with_files = {
        ("mean_iou", "confusion", "calibration"): [
            "calibration.csv",
            "confusion.csv",
            "confusion.png",
        ],
        ("mean_iou", "calibration:bins=5"): ["calibration.csv"],
        ("mean_iou",): [],
    }
    for metrics, files in with_files.items():
        flags = [part for one in metrics for part in ("--metric", one)]
        assert_succeeded(
            warm("evaluate", model, *given(data, *flags, "--output-dir", "out"), cwd=tmp_path)
        )
        assert told(out)["files"] == files
        assert sorted(path.name for path in out.glob("c*")) == sorted([*files, "confusion.txt"])
        if "calibration:bins=5" in metrics:
            assert len((out / "calibration.csv").read_text().splitlines()) == 6


def test_metrics_that_give_the_same_scores_are_refused_before_the_work(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    for others, text in {
        ("calibration", "calibration"): "--metric: calibration is given twice.",
        ("calibration", "calibration:bins=5"): (
            "--metric: two metrics have the score ece, mce; leave one of them out."
        ),
    }.items():
        flags = [part for one in others for part in ("--metric", one)]
        done = warm("evaluate", trained / "best", *given(data, *flags), cwd=tmp_path)
        assert_refused(done, text)


def test_a_folder_that_cannot_be_written_asks_for_another(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(trained / "best", tmp_path / "model")
    (model / "evaluation").touch()
    assert_refused(
        warm("evaluate", "model", *given(data), cwd=tmp_path),
        "MODEL: cannot create model/evaluation: model/evaluation is a file. Give "
        "another folder with --output-dir DIR.",
    )


def test_where_the_protocol_comes_from(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(trained / "best", tmp_path / "model")
    stored = json.loads((model / "segacc.json").read_text())
    (model / "segacc.json").write_text(json.dumps({**stored, "protocol": "whole:pad=32"}))
    out = ("--output-dir", "out")
    for flags, line in {
        (): "protocol whole:pad=32, stored in model",
        ("--protocol", "slide:crop=48"): "protocol slide:crop=48,stride=32, from --protocol",
    }.items():
        done = assert_succeeded(warm("evaluate", "model", *given(data, *flags, *out), cwd=tmp_path))
        assert done.stdout.splitlines()[0] == line
        found = told(tmp_path / "out")
        assert f"protocol {found['protocol']}, {found['protocol_source']}" == line


def test_a_data_set_is_stored_as_training_stores_it(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    """However it was typed, the content of evaluation.json is that of config.yaml."""
    chosen = choose(load_registry(), "dataset", str(data), "--dataset").found
    for typed in (str(data), f"{data}/"):
        layer = Layer({"dataset": typed, "output_dir": tmp_path / "out"}, "command line")
        values = check(str(trained), layer).config.dataset
        assert chosen and {**values, "root": typed} == {**chosen.values, "root": typed}


@pytest.mark.parametrize(
    ("command", "more"), [("evaluate", ()), ("benchmark", ()), ("export", ("--format", "pt2"))]
)
def test_a_run_seen_from_another_folder_asks_for_its_data(
    warm: Warm, trained: Path, tmp_path: Path, command: str, more: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "best").symlink_to(trained / "best")
    (run / "config.yaml").write_text("dataset: folder:root=data/mine\n")
    assert_refused(
        warm(command, ".", *more, cwd=run),
        f"config.yaml: dataset: root=data/mine does not exist (looked in {run}/data/mine). A "
        "relative path of a run begins at the folder in which its training was started: start "
        "this command there, or give the data set with --dataset.",
    )


@pytest.mark.slow
def test_a_folder_of_transformers_says_how_it_is_seen(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(trained / "best", tmp_path / "model")
    (model / "segacc.json").unlink()
    run = ("evaluate", "model", *given(data, "--output-dir", "out"))
    line = "protocol whole, chosen to fit the network, as model stores none"
    assert assert_succeeded(warm(*run, cwd=tmp_path)).stdout.splitlines()[0] == line
    path = model / "preprocessor_config.json"
    sized = {"do_resize": True, "size": {"height": 40, "width": 56}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **sized}))
    line = "protocol whole:size=40x56, from the image processor in model"
    assert assert_succeeded(warm(*run, cwd=tmp_path)).stdout.splitlines()[0] == line


@pytest.mark.parametrize(
    ("protocol", "end"),
    [
        ("whole", "a second prediction differs in 0.0000 % of the pixels"),
        ("whole:pad=32", "a second prediction differs in 0.0000 % of the pixels"),
        ("whole:short_side=40,pad=32", "a second prediction differs in "),
        ("slide:crop=32", "predictions were not checked"),
    ],
)
def test_verify_agrees(
    warm: Warm, trained: Path, spoiled: Path, tmp_path: Path, protocol: str, end: str
) -> None:
    flags = ("--verify", "4", "--protocol", protocol, "--output-dir", "out")
    done = assert_succeeded(
        warm("evaluate", trained / "best", *given(spoiled, *flags), cwd=tmp_path)
    )
    assert done.stdout.splitlines()[-1].startswith(
        "verified on 4 images: labels, counts, mean_iou, mean_accuracy, overall_accuracy, "
        "per_category_iou, per_category_accuracy agree with the reference implementation; " + end
    )
    found = told(tmp_path / "out")["verified"]
    assert (found["agrees"], found["num_images"], found["complaints"]) == (True, 4, [])


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a metric that counts what it must not."""
    folder = tmp_path_factory.mktemp("wrong")
    return pip_install(folder / "site", write_distribution(folder, "segacc-wrong", WRONG))


@pytest.mark.skipif(sys.platform == "darwin", reason="plugins of a test need a fork")
def test_verify_finds_a_wrong_metric(
    warm: Warm, trained: Path, spoiled: Path, wrong: Path, tmp_path: Path
) -> None:
    flags = ("--verify", "2", "--metric", "wrong", "--output-dir", "out")
    run = ("evaluate", trained / "best", *given(spoiled, *flags))
    done = warm(*run, cwd=tmp_path, site=wrong)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    start = (
        "segacc evaluate --verify: on 2 images the scores differ from the reference "
        "implementation: "
        "mean_iou of all 5 images is 0."
    )
    assert done.stderr.startswith(start)
    assert "; overall_accuracy of all 5 images is 0." in done.stderr
    found = told(tmp_path / "out")
    assert (found["verified"]["agrees"], found["verified"]["unchecked"]) == (False, ["half"])
    assert (tmp_path / "out/counts.txt").read_text() == str(5 * 48 * 64), "a metric writes files"


@pytest.mark.slow
@pytest.mark.launch
def test_two_processes_leave_the_same(
    warm: Warm, trained: Path, spoiled: Path, tmp_path: Path
) -> None:
    run = ("evaluate", trained / "best", *given(spoiled, "--verify", "3"))
    assert_succeeded(warm(*run, "--output-dir", "one", cwd=tmp_path))
    done = assert_succeeded(warm(*run, "--output-dir", "two", cwd=tmp_path, processes=2))
    assert done.stdout.count("verified on 3 images") == 1
    one, two = (told(tmp_path / name) for name in ("one", "two"))
    assert (one["processes"], two["processes"], one["num_images"]) == (1, 2, 5)
    for key in ("scores", "intervals", "verified"):
        assert one[key] == two[key]
    files = [sorted((tmp_path / name).rglob("*.p*")) for name in ("one", "two")]
    assert len(files[0]) == 5, "the parquet and four pictures: one image has no valid pixel"
    for mine, other in zip(*files, strict=True):
        assert (mine.name, mine.read_bytes()) == (other.name, other.read_bytes())


def test_a_run_that_goes_on_remembers_on_what_it_was_scored(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run / "last")
    assert_succeeded(warm("--resume", run, cwd=tmp_path))  # nothing is left but to save it
    stored = json.loads((run / "last/segacc.json").read_text())
    assert stored["terms"]["num_images"] == 3 and stored["scores"]
    assert "3 images, protocol whole, evaluated at original label size" in (
        " ".join((run / "last/README.md").read_text().split())
    )
