"""A loss or gradient that is not finite: the step is not taken, and the run says on which images.

The plugin of tests/nonfinite_plugin.py: image `train2` makes the network's activations nan, batch
norm's statistics too; `train4` makes a loss infinite whose gradient is finite.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import nonfinite_plugin
from cli_tools import NAMES, Warm, assert_succeeded, metrics
from nonfinite_plugin import install, write_bad_data
from segacc import loop, registry
from segacc.errors import NonFiniteError
from segacc.hookspecs import Sample
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.events import Skipped, StepDone
from segacc.training.plan import make_plan
from segacc.training.run import Run
from segacc.training.setup import build_run
from stream_tools import write_samples

pytest_plugins = ["cli_fixtures"]

FLAGS = (
    *("--arch", "spread", "--weights", "none", "--aug", "none", "--loss", "corner"),
    *("--crop-size", "48x64", "--num-workers", "0", "--num-pictures", "0", "--max-steps", "9"),
    *("--log-every", "1", "--eval-every", "9", "--save-every", "3", "--ema", "0.9", "--keep", "9"),
)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bad_data(tmp_path_factory.mktemp("bad") / "data")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("plugin") / "site")


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Offer the plugin in this process, as if it were installed."""
    point = SimpleNamespace(name="main", load=lambda: nonfinite_plugin)
    found = [("segacc-nonfinite", "1.0", point)]
    monkeypatch.setattr(registry, "installed_plugins", lambda: found)
    yield


def build(folder: Path, data: Path, **more: Any) -> Run:
    values = {
        **{"arch": "spread", "weights": "none", "aug": ("none",), "loss": ("corner",)},
        **{"crop_size": (48, 64), "batch_size": 2, "num_workers": 0, "num_pictures": 0},
        **{"dataset": f"folder:root={data}", "output_dir": folder / "run", "max_steps": 9},
        **{"log_every": 1, "eval_every": 9, "save_every": 3, "ema": 0.9, "lr": 0.01, **more},
    }
    return build_run(make_plan([Layer(values, "test")], load_registry()))


def state(run: Run) -> list[torch.Tensor]:
    """Copy all that a step changes: weights, buffers, average, the optimizer's moments."""
    assert run.ema
    own = run.network.state_dict(), run.ema.averages
    kept = [tensor for one in own for tensor in one.values()]
    moments = [value for one in run.optimizer.state.values() for value in one.values()]
    return [tensor.detach().clone() for tensor in (*kept, *moments)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in pairs)


def test_a_skipped_step_changes_nothing(offered: None, bad: Path, tmp_path: Path) -> None:
    run = build(tmp_path, bad, tolerate_nonfinite=9)
    before, skipped, taken = state(run), [], 0
    for event in loop.train(run):
        if isinstance(event, Skipped):
            skipped.append(event)
            assert set(event.images) & {"train2", "train4"} and len(event.images) == 2
        elif isinstance(event, StepDone):
            if skipped and skipped[-1].step == event.step:
                assert same(state(run), before)
                assert event.loss != event.loss and len(event.losses) == 1
            else:
                taken += 1
                assert not same(state(run), before)
                assert 0 < event.loss < 10
            before = state(run)
    # three epochs, in each of which both images come once, perhaps together
    assert 3 <= len(skipped) <= 6 and taken == 9 - len(skipped)
    assert {bool(event.grad_norm == event.grad_norm) for event in skipped} == {True, False}
    assert [event.skipped for event in skipped] == list(range(1, len(skipped) + 1))
    assert run.ema and run.ema.updates == taken
    assert all(tensor.isfinite().all() for tensor in state(run))


def test_without_tolerance_the_run_stops_with_finite_weights(
    offered: None, bad: Path, tmp_path: Path
) -> None:
    run, first = build(tmp_path, bad, seed=2), 0
    was = [one.detach().clone() for one in run.network.parameters()]
    with pytest.raises(NonFiniteError) as error:
        for event in loop.train(run):
            if isinstance(event, StepDone):
                first = event.step
                was = [one.detach().clone() for one in run.network.parameters()]
    now = [one.detach() for one in run.network.parameters()]
    assert same(now, was) and all(one.isfinite().all() for one in now)
    text = str(error.value)
    assert text.startswith(f"step {first + 1}: the loss (corner ")
    assert first and text.endswith(
        "or skip up to N such steps with --tolerate-nonfinite N. The run is saved at step "
        f"{first}; once this is fixed, `segacc train --resume {run.folder}` "
        "continues it."
    )


def streamed(root: Path, folder: Path) -> str:
    """Write the data as a shard of each split."""
    for split in ("train", "validation"):
        images = sorted((root / "images" / split).iterdir())
        labels = sorted((root / "annotations" / split).iterdir())
        pairs = zip(images, labels, strict=True)
        write_samples(folder / f"{split}.tar", [Sample(*pair, pair[0].stem) for pair in pairs])
    (folder / "classes.txt").write_text("\n".join(NAMES))
    return f"shards:train={folder}/train.tar,validation={folder}/validation.tar"


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_stopped_goes_on_with_tolerance_as_if_it_had_not(
    offered: None, bad: Path, tmp_path: Path, stream: bool
) -> None:
    (tmp_path / "whole").mkdir()
    more: Any = {"seed": 2} | ({"dataset": streamed(bad, tmp_path)} if stream else {})
    whole = build(tmp_path / "whole", bad, tolerate_nonfinite=9, **more)
    for _ in loop.train(whole):
        pass
    stopped = build(tmp_path, bad, **more)
    with pytest.raises(NonFiniteError):
        for _ in loop.train(stopped):
            pass
    stopped.lock.release()
    layer = Layer({"resume": str(stopped.folder), "tolerate_nonfinite": 9}, "test")
    again = build_run(make_plan([layer], load_registry()))
    for _ in loop.train(again):
        pass
    assert again.progress.skipped == whole.progress.skipped
    assert same(state(again), state(whole))


@pytest.mark.slow
def test_a_run_tells_it_and_resumes_exactly(
    warm: Warm, bad: Path, site: Path, tmp_path: Path
) -> None:
    given = (*FLAGS, "--batch-size", "2", "--dataset", f"folder:root={bad}")
    asked = (*given, "--tolerate-nonfinite", "6", "--output-dir", "run")
    done = assert_succeeded(warm(*asked, cwd=tmp_path, site=site))
    run = tmp_path / "run"
    rows = metrics(run, "skipped")
    told = [line for line in done.stdout.splitlines() if " skipped, " in line]
    assert len(rows) == len(told) >= 3
    for number, (row, line) in enumerate(zip(rows, told, strict=True), 1):
        assert row["skipped"] == number and row["allowed"] == 6
        assert line.startswith(f"step {row['step']} skipped, {number} of 6 allowed: the loss (")
        assert line.endswith(f"images: {', '.join(row['images'])}")
    by_step = {row["step"]: row["loss"] for row in metrics(run, "train")}
    assert {step for step, loss in by_step.items() if loss is None} == {r["step"] for r in rows}
    weights = load_file(run / "last" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())

    kept = (run / "last" / "model.safetensors").read_bytes()
    whole = json.loads((run / "checkpoints" / "step-00000009" / "progress.json").read_text())
    assert whole["skipped"] == len(rows)
    again = warm("--resume", "run/checkpoints/step-00000003", cwd=tmp_path, site=site)
    assert_succeeded(again)
    assert (run / "last" / "model.safetensors").read_bytes() == kept
    assert metrics(run, "skipped") == rows

    fewer = (*given, "--tolerate-nonfinite", "1", "--output-dir", "fewer")
    done = warm(*fewer, cwd=tmp_path, site=site)
    assert done.returncode == 2
    second = rows[1]
    assert f"segacc: step {second['step']}: the loss (corner " in done.stderr
    assert f"Images of that batch: {', '.join(second['images'])}. Check these " in done.stderr
    assert "--tolerate-nonfinite N (1 are allowed)" in done.stderr


@pytest.mark.slow
@pytest.mark.launch
def test_two_processes_agree_on_the_step_and_name_all_images(
    warm: Warm, bad: Path, site: Path, tmp_path: Path
) -> None:
    given = (*FLAGS, "--dataset", f"folder:root={bad}", "--tolerate-nonfinite", "6")
    given += ("--freeze-batchnorm", "--output-dir")
    assert_succeeded(warm(*given, "one", "--batch-size", "2", cwd=tmp_path, site=site))
    pair = (*given, "two", "--batch-size", "1")
    done = assert_succeeded(warm(*pair, cwd=tmp_path, site=site, processes=2))
    mine, theirs = (metrics(tmp_path / name, "skipped") for name in ("two", "one"))
    assert [(row["step"], set(row["images"])) for row in mine] == [
        (row["step"], set(row["images"])) for row in theirs
    ]
    assert done.stdout.count(" skipped, ") == len(mine)
    weights = [load_file(tmp_path / name / "last" / "model.safetensors") for name in ("two", "one")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-5)
