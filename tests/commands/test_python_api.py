"""The Python API: what the command line does, as functions that return records."""

import dataclasses
import inspect
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

import segacc
from cli_tools import Warm, assert_succeeded, metrics, python
from segacc import TrainConfig
from segacc.commands.fit import UNUSED, _layer
from segacc.registry import load_registry
from segacc.settings.commands import CheckConfig, CompareConfig, EvaluateConfig, PredictConfig
from segacc.settings.recipes import read_recipe
from segacc.settings.sources import Layer, as_keywords
from segacc.training.events import Evaluated, Event, StepDone
from segacc.training.plan import make_plan

pytest_plugins = ["cli_fixtures"]

SMALL: dict[str, Any] = {
    **{"arch": "segformer:variant=tiny", "weights": "none", "aug": ["flip"]},
    **{"crop_size": "48x64", "batch_size": 2, "num_workers": 0, "num_pictures": 2},
    **{"max_steps": 4, "log_every": 2, "eval_every": 2},
}


def flags(given: dict[str, Any]) -> list[str]:
    words = {key: value[0] if key == "aug" else value for key, value in given.items()}
    return [word for key, one in words.items() for word in (f"--{key.replace('_', '-')}", str(one))]


def losses(run: Path) -> list[Any]:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in metrics(run, "train")]


def all_files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files of a folder, by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_fit_trains_as_the_command_line_and_shows_the_same(
    data: Path, warm: Warm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {**SMALL, "dataset": f"folder:root={data}"}
    done = assert_succeeded(warm(*flags(small), "--output-dir", "typed", cwd=tmp_path))
    config = TrainConfig(**{**small, "max_steps": 9}, seed=0)
    found = segacc.fit(config, max_steps=4, output_dir=str(tmp_path / "run"))
    assert losses(tmp_path / "run") == losses(tmp_path / "typed") != []
    scores = [row["mean_iou"] for row in metrics(tmp_path / "run", "eval")]
    assert dataclasses.asdict(found) == {
        **{"folder": tmp_path / "run", "step": 4, "reason": "finished", "resume": None},
        **{"best_by": "mean_iou", "best_score": max(scores)},
    }
    told = (tmp_path / "run" / "config.yaml").read_text().splitlines()
    origins = {line.partition(":")[0]: line.partition(" # ")[2] for line in told}
    assert origins["max_steps"] == "segacc.fit: max_steps"
    assert origins["batch_size"] == "TrainConfig: batch_size"
    shown = capsys.readouterr().out.replace(str(tmp_path / "run"), "typed").splitlines()
    assert [line for line in shown if not changing(line)] == [
        line for line in done.stdout.splitlines() if not changing(line)
    ]


def changing(line: str) -> bool:
    """Return whether a line holds times, or the number of cores or threads."""
    words = (" images/s ", " images in ", " after ", "CPU cores", " on cpu ", "waiting for data")
    return any(word in line for word in words)


def test_the_result_of_a_resumed_run_that_has_nothing_to_improve(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {**SMALL, "dataset": f"folder:root={data}", "output_dir": tmp_path / "run"}
    first = segacc.fit(**small, best_by="overall_accuracy")
    again = segacc.fit(resume=str(tmp_path / "run"), max_steps=5)
    best = max(row["overall_accuracy"] for row in metrics(tmp_path / "run", "eval"))
    assert (first.step, again.step, again.best_by) == (4, 5, "overall_accuracy")
    assert again.best_score == pytest.approx(best, abs=0) and again.folder == first.folder


FIT = """
import os, sys
import segacc
from segacc.__main__ import end_with

def main():
    found = segacc.fit({settings})
    sys.stderr.write(f"RESULT {{found}}\\n")
    return 0

end_with(main)
"""


@pytest.mark.slow
@pytest.mark.launch
def test_one_of_two_processes_shows_the_progress(data: Path, warm: Warm, tmp_path: Path) -> None:
    settings = {**SMALL, "dataset": f"folder:root={data}", "output_dir": "run"}
    code = FIT.format(settings=f"**{settings!r}")
    done = assert_succeeded(warm.code(code, cwd=tmp_path, processes=2))
    assert done.stdout.count("finished at step 4/4") == done.stdout.count("step 2/4") == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("RESULT ")]
    assert len(told) == 2 and len(set(told)) == 1


def test_a_run_that_nobody_iterates_over_warns(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(**SMALL, dataset=f"folder:root={data}", output_dir=tmp_path / "run")
    with pytest.warns(UserWarning) as warned:
        segacc.train(config)
    assert [str(one.message) for one in warned] == [f"segacc.train: {UNUSED}"]
    assert warned[0].filename == __file__
    assert not (tmp_path / "run").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begun, closed = segacc.train(config), segacc.train(config)
        assert repr(begun) == f"<segacc.train: {UNUSED}>"
        assert type(next(begun)).__name__ == "Started" and iter(begun) is begun
        assert repr(begun) == "<segacc.train: begun>"
        begun.close()
        closed.close()
        assert list(begun) == list(closed) == []
        del begun, closed


def test_events_print_short(data: Path, tmp_path: Path) -> None:
    small = {**SMALL, "log_every": 2, "output_dir": tmp_path / "run"}
    events: list[Event] = list(segacc.train(TrainConfig(**small, dataset=f"folder:root={data}")))
    texts = [str(event) for event in events]
    assert max(map(len, texts)) < 400
    assert not any(word in text for text in texts for word in ("tensor", "array", "nan"))
    steps = [event for event in events if isinstance(event, StepDone)]
    numbers = ("loss", "grad_norm", "images_per_second", "data_wait", "valid_pixels")
    numbers += ("peak_memory",)
    for event in steps:
        values = [getattr(event, name) for name in numbers]
        assert all(one is None for one in values) is not event.logged
        assert all(one is not None for one in values) is event.logged
    assert [event.logged for event in steps] == [True, True, False, True]
    second, third = steps[1:3]
    assert str(third) == (
        f"StepDone(step=3, epoch=1.5, lr={third.lr:.4g}, seconds={third.seconds:.4g}, logged=False)"
    )
    assert f"logged=True, loss={second.loss:.4g}, losses={{'cross_entropy': " in str(second)
    scored = next(event for event in events if isinstance(event, Evaluated))
    assert all(isinstance(one.image, torch.Tensor) for one in scored.examples)
    assert len(scored.examples) == 2
    assert str(scored).startswith(
        f"Evaluated(step=2, scores={{'mean_iou': {scored.scores['mean_iou']:.4g}, "
    )
    assert "'per_category_iou': <3 classes>" in str(scored)
    assert "terms='protocol whole, float32'" in str(scored)
    rows = metrics(tmp_path / "run", "train")
    assert [row["valid_pixels"] for row in rows] == [
        one.valid_pixels for one in steps if one.logged
    ]


def test_evaluate_gives_what_the_command_line_writes_and_prints(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    model, metric = trained / "best", ["mean_iou", "boundary_iou", "confusion"]
    given = {"dataset": f"folder:root={data}", "num_workers": 0, "verify": 2}
    words = [word for one in metric for word in ("--metric", one)]
    words += ["--output-dir", "typed"]
    done = assert_succeeded(warm("evaluate", model, *flags(given), *words, cwd=tmp_path))
    found = segacc.evaluate(model, **given, metric=metric, output_dir=tmp_path / "run")
    assert all_files(tmp_path / "run") == all_files(tmp_path / "typed")
    assert found.folder == tmp_path / "run"
    assert found.report == json.loads((tmp_path / "run/evaluation.json").read_text())
    assert found.scores["mean_iou"] == found.report["scores"]["mean_iou"]
    assert found.intervals.mean_iou == tuple(found.report["intervals"]["mean_iou"])
    assert found.verified and found.verified.agrees
    printed = done.stdout.splitlines()
    assert str(found).splitlines() == printed[1:-2] and printed[-1] == found.verified.text()
    assert repr(found).startswith(f"EvaluationResult(title='{model} on validation: 3 images, ")


def test_evaluate_and_compare_take_a_run_folder(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    found = segacc.evaluate(run, num_workers=0)
    given = {"dataset": f"folder:root={data}", "num_workers": 0, "output_dir": tmp_path / "x"}
    again = segacc.evaluate(run / "best", split="val", **given)
    assert found.folder == run / "best" / "evaluation"
    assert found.title == again.title and "on validation: 3 images" in found.title
    assert found.scores == again.scores
    done = assert_succeeded(warm("evaluate", run, "--num-workers", 0, cwd=tmp_path))
    assert str(found).splitlines() == done.stdout.splitlines()[2:-1]
    compared = segacc.compare(run, tmp_path / "x", resamples=100, output_dir=tmp_path / "c")
    assert compared.mean_iou.value == 0


def test_predict_takes_a_pattern_and_gives_probabilities_and_areas(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    found = segacc.predict(
        trained,
        str(data / "images/validation/*[01].png"),
        output_dir=tmp_path,
        overlay=False,
        save_probabilities="uint8",
        areas=True,
    )
    written = [*found.predictions.values(), *found.probabilities.values(), found.areas]
    assert sorted(map(str, written)) == sorted(map(str, tmp_path.iterdir()))
    assert len(written) == 5 and found.overlays == {}
    segmenter = segacc.Segmenter.from_pretrained(trained)
    for image, path in found.probabilities.items():
        stored = np.load(path)["probabilities"]
        assert (stored == (segmenter.probabilities(image) * 255).round()).all()


def test_compare_gives_what_the_command_line_writes_and_prints(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    sides = [tmp_path / "a", tmp_path / "b"]
    for folder, protocol in zip(sides, ("whole", "whole:short_side=30"), strict=True):
        given = {"dataset": f"folder:root={data}", "num_workers": 0}
        segacc.evaluate(str(trained / "best"), **given, protocol=protocol, output_dir=folder)
    done = assert_succeeded(warm("compare", *sides, "--resamples", 200, cwd=tmp_path))
    found = segacc.compare(*sides, resamples=200, output_dir=tmp_path / "run")
    assert all_files(tmp_path / "run") == all_files(tmp_path / "comparison")
    assert found.to_dict() == json.loads(
        (tmp_path / "run/compare.json").read_text(), object_hook=pairs
    )
    assert str(found).splitlines() == done.stdout.splitlines()[:-1]
    assert repr(found) == f"<Comparison: {found.verdict()}>"
    assert "different protocol" in str(found)


def pairs(read: dict[str, Any]) -> dict[str, Any]:
    """Make a tuple of an interval, which JSON has as a list."""
    return {k: tuple(one) if k == "interval" and one else one for k, one in read.items()}


def test_predict_writes_what_the_command_line_writes(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    pictures = Path(shutil.copytree(data / "images" / "validation", tmp_path / "pictures"))
    (pictures / "broken.png").write_bytes(b"no image")
    (pictures / "phone.heic").write_bytes(b"not read")
    done = warm("predict", trained / "best", pictures, cwd=tmp_path)
    assert done.returncode == 1
    found = segacc.predict(str(trained / "best"), str(pictures), output_dir=tmp_path / "run")
    assert all_files(tmp_path / "run") == all_files(tmp_path / "predictions")
    names = [f"validation{number}.png" for number in range(3)]
    run = tmp_path / "run"
    assert found.predictions == {pictures / name: run / name for name in names}
    overlays = {name: name.replace(".png", "_overlay.png") for name in names}
    assert found.overlays == {pictures / name: run / file for name, file in overlays.items()}
    assert list(found.failed) == [pictures / "broken.png"]
    last = "3 of 4 predictions written to predictions"
    assert done.stderr.splitlines() == [*found.notes, *found.failed.values(), last]
    assert repr(found) == f"<PredictionResult: 3 of 4 predictions in {run}>"

    one = segacc.predict(
        trained / "best", [pictures / names[0]], overlay=False, output_dir=run / "x"
    )
    assert (one.overlays, one.failed, list(all_files(run / "x"))) == ({}, {}, names[:1])


@pytest.mark.slow
def test_check_data_gives_what_the_command_line_writes_and_prints(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(data, tmp_path / "data"))
    (root / "images/train/train1.png").write_bytes(b"no image")
    given = {"dataset": f"folder:root={root}", "num_workers": 0, "show_augmented": True}
    words = [word for word in flags(given) if word != "True"]
    printed = [warm("check-data", *words, *more, cwd=tmp_path) for more in ([], ["--json"])]
    assert [done.returncode for done in printed] == [1, 1]
    found = segacc.check_data(**given, output_dir=tmp_path / "run")
    assert all_files(tmp_path / "run") == all_files(tmp_path / "data-check")
    report = json.loads(printed[1].stdout)
    pictures = [str(tmp_path / "run" / name) for name in ("data_check.png", "augmented.png")]
    assert found.report == {**report, "pictures": pictures}
    text = str(found).replace(str(tmp_path / "run"), "data-check")
    assert text.splitlines() == printed[0].stdout.splitlines()
    assert not found.ok and found.findings[0].level == "problem"
    assert [str(one) for one in found.pictures] == pictures
    assert segacc.check_data(f"folder:root={data}", num_workers=0, output_dir=tmp_path / "x").ok


def test_wrong_settings_are_refused_with_the_name_of_the_function(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    model, dataset = str(trained / "best"), f"folder:root={data}"
    alone = Path(shutil.copytree(model, tmp_path / "alone"))
    settings = ", ".join(one.name for one in dataclasses.fields(CompareConfig))
    for call, text in (
        (
            lambda: segacc.compare("a", "b", resample=3),
            'segacc.compare: unknown setting "resample". Did you mean "resamples"? '
            f"Known: {settings}.",
        ),
        (
            lambda: segacc.evaluate(alone),
            'segacc.evaluate: dataset must be given, as in `dataset="folder:root=data/camvid"`.',
        ),
        (
            lambda: segacc.evaluate(model, dataset="folderr"),
            'segacc.evaluate: dataset: unknown dataset "folderr". Did you mean "folder"? ',
        ),
        (
            lambda: segacc.evaluate(alone, dataset=dataset, split="test"),
            'segacc.evaluate: split: the data set has no split "test"; it has train, validation. '
            "If the run held out a part of train, repeat its val_fraction and seed.",
        ),
        (
            lambda: segacc.evaluate(model, dataset=dataset, seed=1),
            "segacc.evaluate: seed: only has an effect with val_fraction; ",
        ),
        (
            lambda: segacc.evaluate("./nowhere", dataset=dataset),
            "segacc.evaluate: model: no such folder: ./nowhere.",
        ),
        (
            lambda: segacc.predict(model, data / "images/train", protocol="hole"),
            "segacc.predict: protocol",
        ),
        (
            lambda: segacc.predict(model, [np.zeros((4, 5, 3), np.uint8)]),
            "segacc.predict: inputs: ndarray is not a path; it takes files and folders. ",
        ),
        (
            lambda: segacc.predict(model, PILImage.new("L", (4, 5))),  # type: ignore[arg-type]
            "segacc.predict: inputs: Image is not a path; ",
        ),
        (
            lambda: segacc.predict(model, "nowhere.png"),
            "nowhere.png: no such file or folder.",
        ),
        (
            lambda: segacc.check_data(dataset, json=True),
            'segacc.check_data: unknown setting "json". ',
        ),
        (
            lambda: segacc.check_data(dataset, augment="light"),
            "segacc.check_data: augment: only has an effect with show_augmented; add that, or "
            "leave it out.",
        ),
        (
            lambda: segacc.fit(batchsize=3),
            'segacc.fit: unknown key "batchsize". Did you mean "batch_size"? ',
        ),
        (
            lambda: segacc.fit(TrainConfig(epochs=1), lr="fast"),
            "segacc.fit: lr: expected a number > 0; found 'fast'.",
        ),
        (
            lambda: segacc.fit(resume="auto"),
            "resume auto needs output_dir=DIR; or use resume=DIR.",
        ),
        (
            lambda: next(segacc.train(TrainConfig(resume="auto"))),
            "resume auto needs output_dir=DIR; or use resume=DIR.",
        ),
        (
            lambda: segacc.recipe("tutorials"),
            'segacc.recipe: unknown recipe "tutorials". Did you mean "tutorial"? Known: ',
        ),
        (
            lambda: segacc.fit({"epochs": 1}),  # type: ignore[arg-type]
            "segacc: expected a TrainConfig, found dict. segacc.fit takes its fields as keywords, "
            "too, as in segacc.fit(max_steps=100).",
        ),
    ):
        with pytest.raises(segacc.SegaccError) as error:
            call()
        found = str(error.value)
        assert found.startswith(text) and (found == text or not text.endswith(".")), found


def test_a_recipe_is_that_of_the_command_line(tmp_path: Path) -> None:
    plans = []
    for layers in (
        [read_recipe("tutorial"), Layer({"max_steps": 7}, "command line")],
        [_layer(segacc.recipe("tutorial")), Layer({"max_steps": 7}, "segacc.fit")],
    ):
        plans.append(make_plan([*layers, Layer({"output_dir": tmp_path}, "x")], load_registry()))
    mine, theirs = (plan.settings.config for plan in plans)
    assert mine == theirs and (mine.max_steps, mine.epochs, mine.keep) == (7, None, 3)


NO_PATH = "is not a path, which is a str or a Path."


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: segacc.compare(None, "b"), f"segacc.compare: a: NoneType {NO_PATH}"),
        (lambda: segacc.compare("a", ["b", 3]), f"segacc.compare: b: int {NO_PATH}"),
        (lambda: segacc.compare([], "b"), "A: no evaluation is given."),
        (lambda: segacc.report(None), f"segacc.report: runs: NoneType {NO_PATH}"),
        (lambda: segacc.report(3), f"segacc.report: runs: int {NO_PATH}"),
        (lambda: segacc.report([".", 3]), f"segacc.report: runs: int {NO_PATH}"),
        (lambda: segacc.report(b"run"), f"segacc.report: runs: bytes {NO_PATH}"),
        (lambda: segacc.report([]), "segacc.report: runs: no run folder is given."),
        (lambda: segacc.convert("a", None), f"segacc.convert: target: NoneType {NO_PATH}"),
        (lambda: segacc.convert("a", 3), f"segacc.convert: target: int {NO_PATH}"),
        (lambda: segacc.convert(None, "b"), "segacc.convert: source: expected a name such as "),
        (lambda: segacc.recipe(None), 'segacc.recipe: unknown recipe "None"'),
        (lambda: segacc.push(".", None, dry_run=True), "segacc.push: repo: None is not the name"),
        (lambda: segacc.predict("m", []), "segacc.predict: inputs: no file and no folder is given"),
        (lambda: segacc.predict("m", b"a"), "segacc.predict: inputs: bytes is not a path; "),
        (lambda: segacc.evaluate(None), "segacc.evaluate: model: "),
        (lambda: segacc.benchmark(None), "segacc.benchmark: model"),
        (lambda: segacc.export(3), "segacc.export: model: "),
        (lambda: segacc.check_data(None), "segacc.check_data: dataset: expected text or mapping;"),
    ],
)
def test_arguments_of_another_type_are_refused_in_a_sentence(
    call: Callable[[], Any], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(segacc.SegaccError) as refused:
        call()
    assert str(refused.value).startswith(error)


def test_commands_in_errors_of_the_python_api_stay_commands() -> None:
    text = "Use --batch-size 2 or --lr, add --skip-unreadable N, or `segacc --lr 1 --resume r`"
    with pytest.raises(segacc.SegaccError) as error, as_keywords(TrainConfig):
        raise segacc.SegaccError(f"{text}; --verify is no setting of training.")
    assert str(error.value) == (
        "Use batch_size=2 or lr, add skip_unreadable=N, or `segacc --lr 1 --resume r`; --verify is "
        "no setting of training."
    )


def test_help_lists_the_options_of_the_command_line() -> None:
    for function, config, own in (
        (segacc.fit, TrainConfig, ["config"]),
        (segacc.evaluate, EvaluateConfig, ["model"]),
        (segacc.compare, CompareConfig, ["a", "b"]),
        (segacc.predict, PredictConfig, ["model", "inputs"]),
        (segacc.check_data, CheckConfig, []),
    ):
        found = inspect.signature(function).parameters
        fields = {one.name: one.default for one in dataclasses.fields(config)}
        if function is segacc.check_data:
            del fields["json"]  # it returns a record
        assert list(found) == [*own, *fields]
        for name, default in fields.items():
            if name == "dataset" and default is dataclasses.MISSING:
                optional = function is segacc.evaluate  # that of the model's run
                default = None if optional else inspect.Parameter.empty
            assert found[name].default == default


def test_only_public_names_are_listed_and_loading_them_is_light(tmp_path: Path) -> None:
    script = (
        "import sys, segacc\n"
        "assert dir(segacc) == sorted(segacc.__all__)\n"
        "for name in sorted(set(dir(segacc)) - {'Segmenter'}):\n"
        "    getattr(segacc, name)\n"
        "    assert 'torch' not in sys.modules, name\n"
        "assert segacc.Segmenter.__name__ == 'Segmenter' and 'torch' in sys.modules\n"
    )
    assert_succeeded(python("-c", script, cwd=tmp_path))
