"""A step for which the memory does not suffice is repeated in smaller micro-batches."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hungry_plugin
from cli_tools import Warm, assert_succeeded, metrics, write_data
from plugin_tools import TESTS, offer
from run_tools import windows_of
from segacc import loop, registry
from segacc.errors import FullMemoryError, is_memory_full
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.testing.tools import forked
from segacc.training.events import StepDone
from segacc.training.limits.memory import LESS
from segacc.training.limits.sizing import fit_batch
from segacc.training.plan import make_plan
from segacc.training.run import Run
from segacc.training.setup import build_run
from sharded_segacc import take_path_of_gpus

pytest_plugins = ["cli_fixtures"]

FLAGS = (
    *("--weights", "none", "--aug", "flip", "--crop-size", "192x256", "--num-workers", "0"),
    *("--num-pictures", "0", "--max-steps", "3", "--log-every", "1", "--eval-every", "3"),
    *("--save-every", "2", "--ema", "0.9"),
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": 8, "validation": 1}
    return write_data(tmp_path_factory.mktemp("large") / "data", counts=counts, size=(192, 256))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = (TESTS / "hungry_plugin.py",)
    return offer(tmp_path_factory.mktemp("hungry") / "site", "segacc-hungry", *files)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Offer the plugin in this process, as if it were installed."""
    point = SimpleNamespace(name="main", module="hungry_plugin", load=lambda: hungry_plugin)
    monkeypatch.setattr(registry, "installed_plugins", lambda: [("segacc-hungry", "1.0", point)])
    yield


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run / "last" / "model.safetensors")
    return found


@pytest.mark.slow
def test_a_real_limit_halves_the_micro_batch_and_changes_nothing_else(
    warm: Warm, large: Path, site: Path, tmp_path: Path
) -> None:
    """Bit for bit as if it had been small from the start, with batch norm and dropout, too."""
    given = (*FLAGS, "--dataset", f"folder:root={large}")
    where = {"cwd": tmp_path, "site": site}
    asked = ("--arch", "hungry:noise=true,room=170", "--batch-size", 8, "--output-dir", "cut")
    done = assert_succeeded(warm(*given, *asked, **where))
    [row] = metrics(tmp_path / "cut", "halved")
    images = row["images"]
    assert row == {"kind": "halved", "step": 1, "before": 8, "images": images} | {
        "accumulation": 8 // images
    }
    assert images in (1, 2, 4)
    [line] = [line for line in done.stdout.splitlines() if "out of memory" in line]
    assert line == (
        f"step 1: out of memory with micro-batches of 8 images; repeated with {images}, in "
        f"{8 // images} accumulation steps, as are all further steps. The total batch size stays; "
        "beyond rounding, numbers differ from those of the uncut step only by batch norm, dropout "
        "and other random draws"
    )
    cut = ("--batch-size", images, "--gradient-accumulation-steps", 8 // images)
    small = (*given, "--arch", "hungry:noise=true", *cut, "--output-dir", "small")
    assert_succeeded(warm(*small, **where))
    mine, theirs = (weights(tmp_path / name) for name in ("cut", "small"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    losses = [[row["loss"] for row in metrics(tmp_path / n, "train")] for n in ("cut", "small")]
    assert losses[0] == losses[1]

    again = assert_succeeded(warm("--resume", "cut/checkpoints/step-00000002", **where))
    assert f"micro-batches have up to {images} images, as the memory was full" in again.stdout
    resumed = weights(tmp_path / "cut")
    assert all(torch.equal(mine[name], resumed[name]) for name in mine)


@pytest.mark.slow
@pytest.mark.launch
def test_one_of_two_processes_runs_out_of_memory(
    warm: Warm, large: Path, site: Path, tmp_path: Path
) -> None:
    given = (*FLAGS, "--dataset", f"folder:root={large}", "--batch-size", 8)
    where = {"cwd": tmp_path, "site": site, "processes": 2}
    for name, arch in (("cut", "hungry:room=100,only=1"), ("whole", "hungry")):
        done = assert_succeeded(warm(*given, "--arch", arch, "--output-dir", name, **where))
        assert ("out of memory" in done.stdout) == (name == "cut")
    assert metrics(tmp_path / "cut", "halved")[0]["before"] == 8
    assert not metrics(tmp_path / "whole", "halved")
    mine, theirs = (weights(tmp_path / name) for name in ("cut", "whole"))
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=1e-5)
    progress = tmp_path / "cut" / "checkpoints" / "step-00000003" / "progress.json"
    assert json.loads(progress.read_text())["micro_batch"] < 8


PLACES = [
    (place, call, rank, accumulation)
    for place in ("forward", "loss", "backward")
    for call, rank, accumulation in ((1, 0, 1), (2, 1, 1), (1, 1, 2), (4, 0, 2), (3, 1, 2))
]
"""Where memory is full, in which of the process's micro-batches, and on which process."""


def build(folder: Path, data: Path, **more: Any) -> Run:
    values = {
        **{"arch": "hungry", "weights": "none", "aug": ("none",), "loss": ("hungry",)},
        **{"crop_size": (48, 64), "num_workers": 0, "num_pictures": 0, "max_steps": 3},
        **{"dataset": f"folder:root={data}", "output_dir": folder / "run", "eval_every": 3},
        **{"save_every": 3, "lr": 0.01, **more},
    }
    fit = partial(fit_batch, step=loop.train_step)
    return build_run(make_plan([Layer(values, "test")], load_registry()), fit=fit)


def everywhere(folder: Path, data: Path) -> dict[str, Any]:
    """Train on each process with the memory full in each place, and without."""
    found: dict[str, Any] = {}
    for number, (place, call, rank, accumulation) in enumerate([("", 1, 0, 1), *PLACES]):
        full = f"hungry:full={place},only={rank},call={call}" if place else "hungry"
        chosen: dict[str, Any] = {"loss": (full,)} if place == "loss" else {"arch": full}
        cut = {"batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
        run, told = build(folder / str(number), data, **chosen, **cut), []
        for window in windows_of(run):
            halved = loop.train_step(run, window).halved
            told += [halved.text()] if halved else []
        state = {name: tensor.detach() for name, tensor in run.network.state_dict().items()}
        found[str(number)] = state, told
    return found


@pytest.mark.slow
@pytest.mark.launch
def test_wherever_one_of_two_processes_fails_all_repeat_the_step(
    offered: None, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "meeting").mkdir()
    results = forked(lambda: everywhere(tmp_path, data), tmp_path / "meeting", 2)
    whole = results[0]["0"][0]
    for result in results:
        for number, (place, call, rank, accumulation) in enumerate(PLACES, 1):
            state, told = result[str(number)]
            step = (call - 1) // accumulation + 1
            size = 4 // accumulation
            assert len(told) == 1, (place, call, rank, accumulation)
            assert told[0].startswith(f"step {step}: out of memory with micro-batches of {size} ")
            for name in state:
                torch.testing.assert_close(state[name], whole[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("least", "cut"), [(1, "1 image"), (2, "2 images, the least for its ")])
def test_a_step_that_cannot_be_cut_ends_the_run_and_is_saved(
    offered: None, data: Path, tmp_path: Path, least: int, cut: str
) -> None:
    """The micro-batch of the earlier steps is kept, for a run that goes on with other settings."""
    run = build(tmp_path, data, arch="hungry:full=backward,images=0,after=2", batch_size=4)
    run.network.min_batch_size = least
    state: dict[str, torch.Tensor] = {}
    with pytest.raises(FullMemoryError) as error:
        for event in loop.train(run):
            if isinstance(event, StepDone):
                state = {k: one.detach().clone() for k, one in run.network.state_dict().items()}
    text = str(error.value)
    assert text.startswith(f"step 3: out of memory, also with micro-batches of {cut}")
    assert text.endswith(
        "(--batch-size 4, 48x64 pixels, float32): CUDA out of memory. Tried to allocate 2.00 GiB. "
        f"{LESS} The run is saved at step 2; once this is fixed, `segacc train --resume "
        f"{run.folder}` continues it."
    )
    kept = load_file(run.folder / "checkpoints" / "step-00000002" / "model.safetensors")
    assert all(torch.equal(kept[name], state[name]) for name in state)
    assert run.progress.micro_batch is None


def test_auto_takes_no_more_than_what_fitted_when_it_was_measured(
    offered: None, data: Path, tmp_path: Path
) -> None:
    """Steps of 1 and of 3 images are measured; the latter is repeated with 2."""
    auto = {"batch_size": "auto", "total_batch_size": 4}
    run = build(tmp_path, data, arch="hungry:full=forward,images=2", **auto)
    assert (run.config.batch_size, run.config.gradient_accumulation_steps) == (2, 2)
    assert any(note.startswith("batch_size: 2 (auto, at most 2 fit in ") for note in run.notes)
    assert run.progress.micro_batch is None
    assert loop.train_step(run, next(windows_of(run))).halved is None


def sharded(folder: Path, data: Path) -> dict[str, Any]:
    take_path_of_gpus()
    arch, loss = "segformer:variant=tiny", "hungry:full=loss,images=0"
    run = build(folder, data, arch=arch, loss=(loss,), batch_size=2)
    with pytest.raises(FullMemoryError) as error:
        loop.train_step(run, next(windows_of(run)))
    return {"text": str(error.value), "saves": run.can_save(error.value)}


@pytest.mark.slow
@pytest.mark.launch
def test_a_sharded_network_is_not_cut(offered: None, data: Path, tmp_path: Path) -> None:
    (tmp_path / "meeting").mkdir()
    for found in forked(lambda: sharded(tmp_path, data), tmp_path / "meeting", 2):
        assert found["text"] == (
            "step 1: CUDA out of memory. Tried to allocate 2.00 GiB. A step with FSDP cannot be "
            "repeated with smaller micro-batches, since its forward pass needs all processes. Use "
            f"a smaller --batch-size with more --gradient-accumulation-steps. {LESS}"
        )
        assert not found["saves"]


def test_errors_of_full_memory_are_known() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(10**15)
    assert is_memory_full(error.value)
    assert not is_memory_full(RuntimeError("shapes do not match"))
