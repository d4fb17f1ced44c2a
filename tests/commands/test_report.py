"""`segacc report`: one HTML file that shows runs, without a network and without torch."""

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import segacc
from cli_tools import (
    Warm,
    assert_refused,
    assert_succeeded,
    metrics,
    python,
)
from segacc.commands.report.run import read_run
from segacc.errors import SegaccError
from segacc.training.folders import RunLock

pytest_plugins = ["cli_fixtures"]


@pytest.fixture(scope="module")
def evaluated(trained: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trained run that `segacc evaluate` scored."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("report") / "run"))
    flags = ("--num-workers", 0, "--metric", "mean_iou", "--metric", "confusion")
    assert_succeeded(warm("evaluate", run, *flags, cwd=run.parent))
    return run


def data_of(page: str) -> dict[str, Any]:
    """Return the numbers and images in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def words_of(page: str) -> str:
    """Return the text of a page."""
    body = page[page.index("<main") : page.index("</main>")]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_page_shows_what_the_run_folder_holds(evaluated: Path, tmp_path: Path) -> None:
    path = segacc.report(evaluated, output=tmp_path / "out" / "page.html", num_images=2)
    assert path == tmp_path / "out" / "page.html"
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 1e6
    report = json.loads((evaluated / "best/evaluation/evaluation.json").read_text())
    low, high = report["intervals"]["mean_iou"]
    text = words_of(page)
    for told in (
        f"{report['scores']['mean_iou']:.4f} mean_iou 95 % interval {low:.4f} to {high:.4f}",
        "Architecture segformer:variant=tiny",
        "Scored on 3 images of validation",
        "Protocol whole",
        "Steps 40 of 40, best at",
        f"segacc train --config {evaluated}/config.yaml --output-dir {evaluated}-again",
        "Settings that differ from the defaults.",
        "crop_size 48x64 none --crop-size",
    ):
        assert told in text, told
    for name, score in report["scores"]["per_category_iou"].items():
        assert re.search(rf"{name} [\d.]+ % {score:.3f} \d\.\d\d.\d\.\d\d", text), name
    data = data_of(page)
    assert [len(one["images"]) for one in data["images"]] == [2]
    logged = [[row["step"], row["loss"]] for row in metrics(evaluated, "train")]
    drawn = data["charts"][0]["tabs"][0]["lines"][0]["points"]
    assert drawn == [[step, pytest.approx(loss, rel=1e-5)] for step, loss in logged]
    assert "nan" not in text.lower().split()


def test_nothing_is_loaded_from_elsewhere(evaluated: Path, tmp_path: Path) -> None:
    page = segacc.report(evaluated, output=tmp_path / "page.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"'\s]*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|<script[^>]+src|<link(?![^>]+href=\"data:,\")", page)


def test_a_run_that_was_not_evaluated_says_how(trained: Path, warm: Warm, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "plain run"))
    done = assert_succeeded(warm("report", "plain run", cwd=tmp_path))
    size = (tmp_path / "report.html").stat().st_size / 1e6
    assert done.stdout == (
        "plain run: `segacc evaluate 'plain run'` adds intervals and the worst images\n"
        f"1 run written to report.html ({size:.1f} MB)\n"
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = words_of(page)
    assert text.count("segacc evaluate 'plain run'") == 4
    assert "--metric mean_iou --metric confusion" in text
    assert "Examples of the last validation, step 00000040" in text
    assert [len(one["images"]) for one in data_of(page)["images"]] == [3]
    (run / "metrics.jsonl").unlink()  # as before the first logged step
    shutil.rmtree(run / "best")
    text = words_of(segacc.report(run, output=tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "mean_iou not scored yet" in text and "No step is logged yet." in text


def test_a_run_that_is_training_says_so(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "environment.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a line that is being written
    lock = RunLock(run)
    lock.claim()
    try:
        path = segacc.report(run, output=tmp_path / "page.html")
    finally:
        lock.release()
    text = words_of(path.read_text(encoding="utf-8"))
    assert "training now, step 40 of 40" in text
    assert "training now" not in words_of(segacc.report(run, output=path).read_text("utf-8"))


def test_the_classes_of_another_metric_are_counted(evaluated: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(evaluated, tmp_path / "run"))
    path = run / "best/evaluation/evaluation.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps({**report, "scores": {"mean_dice": 0.5}}))
    found, wanted = (read_run(one, "RUN", name="run") for one in (run, evaluated))
    assert [one.value for one in found.classes] == pytest.approx(
        [one.value for one in wanted.classes]
    )
    assert found.score and (found.score.name, found.score.value) == ("mean_dice", 0.5)


def test_several_runs_are_compared(evaluated: Path, trained: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(trained, tmp_path / "run"))
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("lr: 0.03 ", "lr: 0.5 "))
    page = segacc.report([evaluated, other], output=tmp_path / "page.html").read_text("utf-8")
    text = words_of(page)
    assert f"Setting {evaluated} {other} lr 0.03 0.5 Repeat" in text
    assert [line["run"] for line in data_of(page)["charts"][2]["tabs"][0]["lines"]] == [0, 1]


def test_it_needs_no_torch(evaluated: Path, tmp_path: Path) -> None:
    code = "import sys, segacc; segacc.report(sys.argv[1]); print(sorted(sys.modules))"
    done = assert_succeeded(python("-c", code, evaluated, cwd=tmp_path))
    assert (tmp_path / "report.html").is_file()
    loaded = set(re.findall(r"'([\w.]+)'", done.stdout))
    assert "jinja2" in loaded and not loaded & {"torch", "matplotlib", "transformers", "accelerate"}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (
            ("gone",),
            "RUN: gone does not exist; give the run folder, the --output-dir of a training.",
        ),
        (
            ("run/best",),
            "RUN: run/best is not a run folder: it has no config.yaml. Did you mean {run}?",
        ),
        (
            (".",),
            "RUN: . is not a run folder: it has no config.yaml. Did you mean run?",
        ),
        (("run", "./run"), "RUN: {run} is given twice; give each run folder once."),
        (
            ("run", "--output", "own.html"),
            "--output: own.html exists and is not a report of segacc, so it is not replaced. Give "
            "another name.",
        ),
        (
            ("run", "--output", "run"),
            "--output: run is a folder; give a file: run/report.html",
        ),
    ],
)
def test_bad_input_is_one_paragraph(
    warm: Warm, trained: Path, tmp_path: Path, given: tuple[str, ...], complaint: str
) -> None:
    (tmp_path / "run").symlink_to(trained)
    told = complaint.replace("{run}", str(trained))
    (tmp_path / "own.html").write_text("<!doctype html>\nmy own page")
    assert_refused(warm("report", *given, cwd=tmp_path), told)
    assert (tmp_path / "own.html").read_text() == "<!doctype html>\nmy own page"


def test_a_damaged_file_is_named(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "best/evaluation").mkdir()
    (run / "best/evaluation/evaluation.json").write_text("{")
    (run / "best/evaluation/per_image.parquet").write_text("")
    with pytest.raises(SegaccError, match=r"run/best/evaluation/evaluation.json: not JSON: "):
        segacc.report(run, output=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
