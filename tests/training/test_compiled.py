"""Under accelerate's torch.compile: what is saved, resumed and scored is the bare network's."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForSemanticSegmentation

from cli_tools import Done, Warm, assert_succeeded, metrics, warm_segacc

pytestmark = pytest.mark.launch
pytest_plugins = ["cli_fixtures"]

RUN = (
    *("--arch", "segformer:variant=tiny,dropout=0,drop_path=0", "--weights", "none"),
    *("--aug", "flip", "--crop-size", "48x64", "--num-workers", "0", "--num-pictures", "1"),
    *("--max-steps", "6", "--eval-every", "3", "--save-every", "3", "--log-every", "1"),
    *("--ema", "0.9", "--lr", "0.01"),
)


def compiled(*arguments: object, cwd: Path, processes: int = 1, **more: str) -> Done:
    """Run segacc on processes of the CPU, as with `accelerate launch --dynamo_backend eager`."""
    more["ACCELERATE_DYNAMO_BACKEND"] = "EAGER"
    return warm_segacc()(*arguments, cwd=cwd, processes=processes, **more)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in metrics(run, "train")]


def scores(run: Path) -> list[float]:
    return [row["mean_iou"] for row in metrics(run, "eval")]


def assert_same_run(run: Path, other: Path) -> None:
    assert losses(run) == pytest.approx(losses(other), rel=1e-4)
    assert scores(run) == pytest.approx(scores(other), abs=0.01)


def assert_others_load(folder: Path) -> None:
    """Assert that transformers finds each tensor of its own network in a folder, and no other."""
    _, told = AutoModelForSemanticSegmentation.from_pretrained(folder, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.fixture(scope="module")
def runs(
    warm: Warm, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, tuple[object, ...]]:
    """Train the same without and with torch.compile; return both, and what was asked for."""
    folder = tmp_path_factory.mktemp("compiled")
    asked = (*RUN, "--dataset", f"folder:root={data}", "--batch-size", "4")
    assert_succeeded(warm(*asked, "--output-dir", folder / "plain", cwd=folder))
    assert_succeeded(compiled(*asked, "--output-dir", folder / "compiled", cwd=folder))
    return folder / "plain", folder / "compiled", asked


@pytest.mark.slow
def test_what_is_saved_others_load(runs: tuple[Path, Path, object]) -> None:
    plain, with_compile, _ = runs
    assert_same_run(with_compile, plain)
    for name in ("last", "best"):
        assert_others_load(with_compile / name)
    stored = (with_compile / "checkpoints").rglob("*.safetensors")
    assert sum(b"_orig_mod" in path.read_bytes() for path in stored) == 0


@pytest.mark.slow
@pytest.mark.parametrize("began_compiled", [True, False])
def test_a_run_goes_on_the_other_way(
    runs: tuple[Path, Path, object], warm: Warm, tmp_path: Path, began_compiled: bool
) -> None:
    began = shutil.copytree(runs[began_compiled], tmp_path / "run")
    checkpoint = began / "checkpoints" / "step-00000003"
    go_on = warm if began_compiled else compiled
    assert_succeeded(go_on("--resume", checkpoint, cwd=tmp_path))
    assert_same_run(began, runs[0])
    assert_others_load(began / "last")


@pytest.mark.slow
def test_two_compiled_processes_begin_and_one_that_is_not_goes_on(
    runs: tuple[Path, Path, tuple[object, ...]], warm: Warm, tmp_path: Path
) -> None:
    """Each micro-batch is as large for both: batch norm sees the same."""
    run = tmp_path / "run"
    few = (*runs[2][:-1], "1", "--gradient-accumulation-steps", "2", "--output-dir", run)
    assert_succeeded(compiled(*few, cwd=tmp_path, processes=2))
    whole = losses(run)
    assert_others_load(run / "last")
    checkpoint, more = run / "checkpoints" / "step-00000003", ("--gradient-accumulation-steps", "4")
    assert_succeeded(warm("--resume", checkpoint, *more, cwd=tmp_path))
    assert len(whole) == 6 and losses(run) == pytest.approx(whole, rel=1e-4)
    assert_others_load(run / "last")


@pytest.mark.slow
def test_a_score_is_the_same(runs: tuple[Path, Path, object], data: Path, tmp_path: Path) -> None:
    _, run, _ = runs
    asked = ("evaluate", run / "last", "--dataset", f"folder:root={data}", "--verify", "1")
    assert_succeeded(compiled(*asked, "--output-dir", tmp_path, cwd=tmp_path))
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["scores"]["mean_iou"] == pytest.approx(scores(run)[-1], abs=1e-6)


@pytest.mark.slow
def test_a_network_that_is_compiled_in_parts_is_refused(
    runs: tuple[Path, Path, tuple[object, ...]], tmp_path: Path
) -> None:
    """With what the launcher sets for --dynamo_use_regional_compilation."""
    asked = (*runs[2], "--output-dir", "run")
    parts = {"ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "True"}
    done = compiled(*asked, cwd=tmp_path, **parts)
    assert done.returncode != 0
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("segacc: ")]
    assert told == (
        "segacc: accelerate launch: --dynamo_use_regional_compilation trains a copy of the "
        "network, to which freezing and other changes during training do not apply. Leave it out; "
        "the network is then compiled as a whole."
    )
