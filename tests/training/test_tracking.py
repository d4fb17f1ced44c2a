"""The run folder's metrics.jsonl and pictures, and what trackers are told."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from segacc.data.pictures import Example
from segacc.evaluation.scores import Scores, Terms, flat
from segacc.training.events import Evaluated, Event, Saved, Started, StepDone, Stopped
from segacc.training.tracking.curves import curves
from segacc.training.tracking.record import Recorder, record

NAMES = ("background", "nucleus")
PALETTE = ((40, 40, 40), (255, 200, 0))
Logged = list[tuple[dict[str, float], int]]


def step_done(step: int, *, logged: bool = True, loss: float = 0.5) -> StepDone:
    return StepDone(
        step=step,
        epoch=step / 4,
        lr=1e-3,
        seconds=2.0,
        logged=logged,
        loss=loss,
        losses={"cross_entropy": loss},
        grad_norm=1.5,
        images_per_second=4.0,
        data_wait=0.25,
        valid_pixels=1000,
        peak_memory=2_000_000,
    )


def evaluated(step: int, *, best: bool = True) -> Evaluated:
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    label = torch.zeros(8, 8, dtype=torch.uint8)
    scores: Scores = {"mean_iou": 0.5, "per_category_iou": {"background": 0.5, "nucleus": math.nan}}
    return Evaluated(
        step=step,
        scores=scores,
        terms=Terms(protocol="whole", num_images=1),
        seconds=3.0,
        best=best,
        examples=(Example("a", image, label, label),),
    )


def recorder(folder: Path, **more: Any) -> Recorder:
    return Recorder(folder=folder, names=NAMES, palette=PALETTE, best_by="mean_iou", **more)


def consume(folder: Path, events: Sequence[Event], logged: Logged | None = None) -> list[Event]:
    def log(values: dict[str, float], step: int) -> None:
        assert logged is not None
        logged.append((values, step))

    stream: Iterator[Event] = iter(events)
    told = log if logged is not None else None
    return list(record(recorder(folder, log=told), stream))


def started(folder: Path, step: int = 0) -> Started:
    return Started(folder=folder, step=step, max_steps=8, notes=())


def read(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_events_pass_unchanged(tmp_path: Path) -> None:
    stop = Stopped(step=2, reason="finished")
    events: list[Event] = [started(tmp_path), step_done(1), evaluated(1), stop]
    passed = consume(tmp_path, events)
    assert all(a is b for a, b in zip(passed, events, strict=True))


def test_metrics_lines(tmp_path: Path) -> None:
    consume(
        tmp_path,
        [started(tmp_path), step_done(1, logged=False), step_done(2), evaluated(2)],
    )
    assert read(tmp_path) == [
        {
            "kind": "train",
            "step": 2,
            "epoch": 0.5,
            "loss": 0.5,
            "losses": {"cross_entropy": 0.5},
            "lr": 1e-3,
            "grad_norm": 1.5,
            "images_per_second": 4.0,
            "data_wait": 0.25,
            "valid_pixels": 1000,
            "peak_memory": 2_000_000,
            "mfu": None,
            "seconds": 2.0,
        },
        {
            "kind": "eval",
            "step": 2,
            "seconds": 3.0,
            "best": True,
            **asdict(Terms(protocol="whole", num_images=1)),
            "val_loss": None,
            "mean_iou": 0.5,
            "per_category_iou": {"background": 0.5, "nucleus": None},
        },
    ]


def test_a_score_leaves_the_fields_of_its_row(tmp_path: Path) -> None:
    event = evaluated(2)
    event = replace(event, scores={**event.scores, "precision": 0.75})
    consume(tmp_path, [started(tmp_path), event])
    [row] = read(tmp_path)
    assert (row["precision"], row["precision_score"]) == ("no", 0.75)
    figure = curves([row], best_by="precision")
    assert figure.axes[2].get_title() == "best precision_score 0.7500 at step 2"


def test_trackers_keep_the_two_kinds_of_weights_apart(tmp_path: Path) -> None:
    average = replace(evaluated(2), terms=Terms(protocol="whole", num_images=1, weights="ema"))
    logged: Logged = []
    consume(tmp_path, [started(tmp_path), evaluated(2), average], logged)
    kinds = [next(iter(values)).split("/")[0] for values, _ in logged]
    assert kinds == ["eval", "best", "eval_ema", "best"]
    assert [row["weights"] for row in read(tmp_path)] == ["raw", "ema"]
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"step-00000002.png", "step-00000002-ema.png"}


def test_nan_and_infinity_become_null(tmp_path: Path) -> None:
    steps = [step_done(1, loss=math.nan), step_done(2, loss=math.inf)]
    consume(tmp_path, [started(tmp_path), *steps])
    assert [row["loss"] for row in read(tmp_path)] == [None, None]
    assert read(tmp_path)[0]["losses"] == {"cross_entropy": None}


def test_a_line_is_on_disk_when_its_event_is_seen(tmp_path: Path) -> None:
    events: list[Event] = [started(tmp_path), step_done(1), step_done(2)]
    stream = record(recorder(tmp_path), iter(events))
    next(stream)
    next(stream)
    assert [row["step"] for row in read(tmp_path)] == [1]


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    consume(tmp_path, [started(tmp_path)])
    assert read(tmp_path) == []


def test_resume_drops_later_and_half_written_lines(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    first: list[Event] = [
        started(tmp_path),
        *(step_done(k) for k in (1, 2, 3, 4)),
        evaluated(4),
        step_done(5),
    ]
    consume(tmp_path, first)
    whole = metrics.read_text()
    metrics.write_text(whole + '{"kind": "train", "st')  # killed here
    consume(tmp_path, [started(tmp_path, step=3), step_done(4), evaluated(4), step_done(5)])
    assert metrics.read_text() == whole
    assert not list(tmp_path.glob(".*"))


def test_resume_without_a_file(tmp_path: Path) -> None:
    consume(tmp_path / "new", [started(tmp_path, step=3), step_done(4)])
    assert [row["step"] for row in read(tmp_path / "new")] == [4]


def test_pictures(tmp_path: Path) -> None:
    saved = Saved(step=4, folder=tmp_path / "last")
    consume(tmp_path, [started(tmp_path), step_done(4), evaluated(4), saved])
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["curves.png", "step-00000004.png"]


def test_trackers_get_flat_numbers(tmp_path: Path) -> None:
    logged: Logged = []
    consume(tmp_path, [started(tmp_path), step_done(2), evaluated(2)], logged)
    (train, train_step), (scores, eval_step), best = logged
    assert (train_step, eval_step) == (2, 2) and best == ({"best/mean_iou": 0.5}, 2)
    assert train == {
        "train/epoch": 0.5,
        "train/lr": 1e-3,
        "train/seconds": 2.0,
        "train/loss": 0.5,
        "train/losses/cross_entropy": 0.5,
        "train/grad_norm": 1.5,
        "train/images_per_second": 4.0,
        "train/data_wait": 0.25,
        "train/valid_pixels": 1000,
        "train/peak_memory": 2_000_000,
    }
    assert math.isnan(scores.pop("eval/per_category_iou/nucleus"))
    assert scores == {
        "eval/num_images": 1,
        "eval/seconds": 3.0,
        "eval/mean_iou": 0.5,
        "eval/per_category_iou/background": 0.5,
    }


def test_flat() -> None:
    assert flat({"a": 1.0, "b": {"c/d": 2.0}}) == {"a": 1.0, "b/c/d": 2.0}


def test_after_an_error_of_writing_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    (tmp_path / "pictures").mkdir()
    seen: list[Exception] = []
    events: list[Event] = [step_done(1), evaluated(1), Saved(step=1, folder=tmp_path / "last")]
    assert list(record(recorder(tmp_path), iter(events), seen.append)) == events
    [error] = seen
    assert str(error).startswith(f"{tmp_path}: metrics or pictures cannot be written: ")
    assert not list((tmp_path / "pictures").iterdir())
