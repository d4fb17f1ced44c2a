"""Code of a plugin that fails after the checks before training: one paragraph, and a checkpoint."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tired_plugin
from cli_tools import TINY, Warm
from plugin_tools import TESTS, offer
from segacc import loop, registry
from segacc.__main__ import FREE_MEMORY
from segacc.errors import PluginError
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.checkpoint import complete
from segacc.training.plan import make_plan
from segacc.training.setup import build_run

pytest_plugins = ["cli_fixtures"]

SMALL: dict[str, Any] = {
    **{"arch": "segformer:variant=tiny", "weights": "none", "aug": ["none"], "num_pictures": 0},
    **{"crop_size": "48x64", "batch_size": 2, "num_workers": 0, "eval_every": 3, "max_steps": 6},
}
KEYS = {
    **{"architecture": "arch", "loss": "loss", "augmentation": "aug"},
    **{"metric": "metric", "dataset": "dataset"},
}
TIRED = next(
    number
    for number, line in enumerate(inspect.getsource(tired_plugin).splitlines(), 1)
    if "too tired" in line
)
WHERE = f"ValueError: too tired ({tired_plugin.__file__}:{TIRED}). SEGACC_TRACEBACK=1 shows the "
LABELS = "labels (2, 48, 64)"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = (TESTS / "tired_plugin.py", TESTS / "cli_tools.py")
    return offer(tmp_path_factory.mktemp("tired") / "site", "segacc-tired", *files)


@pytest.fixture(autouse=True)
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the plugin in this process, as if it were installed."""
    point = SimpleNamespace(name="main", module="tired_plugin", load=lambda: tired_plugin)
    monkeypatch.setattr(registry, "installed_plugins", lambda: [("segacc-tired", "1.0", point)])


def refused(data: Path, folder: Path, kind: str, case: str, error: type[Exception]) -> str:
    """Train until the plugin fails; return the text of the error."""
    settings = {**SMALL, "dataset": f"folder:root={data}", "output_dir": folder / "run"}
    one = f"tired:case={case}"
    settings |= {KEYS[kind]: one if KEYS[kind] in ("arch", "dataset") else [one]}
    with pytest.raises(error) as found:
        for _ in loop.train(build_run(make_plan([Layer(settings, "test")], load_registry()))):
            pass
    return " ".join([str(found.value), *getattr(found.value, "__notes__", ())])


LATE = [
    ("loss", "sum", 3, 2, f"sum() of logits (2, 3, 12, 16) and {LABELS} failed: {WHERE}"),
    ("loss", "vector", 3, 2, "sum() returned float32 (1,); expected a scalar tensor of a floa"),
    ("architecture", "forward", 4, 2, f"forward() of images (2, 3, 48, 64) failed: {WHERE}"),
    ("architecture", "evaluation", 0, 3, f"forward() of images (1, 3, 48, 64) failed: {WHERE}"),
    ("architecture", "bare", 0, 3, "forward() of images (1, 3, 48, 64) failed: AttributeError: "),
    ("architecture", "on_step", 2, 2, f"on_step() failed: {WHERE}"),
    ("augmentation", "worker", 4, 2, f"its call on uint8 (3, 48, 64) failed: {WHERE}"),
    ("augmentation", "batch", 2, 2, f"its call on float32 (2, 3, 48, 64) failed: {WHERE}"),
    ("metric", "update", 2, 3, f"update() with predictions (1, 48, 64) failed: {WHERE}"),
    ("metric", "compute", 0, 3, f"compute() failed: {WHERE}"),
]


@pytest.mark.parametrize(("kind", "case", "calls", "step", "text"), LATE)
def test_a_late_failure_is_told_and_what_was_learnt_is_saved(
    data: Path, tmp_path: Path, kind: str, case: str, calls: int, step: int, text: str
) -> None:
    found = refused(data, tmp_path, kind, f"{case},calls={calls}", PluginError)
    assert found.startswith(f"plugin segacc-tired 1.0, {kind} tired: {text}"), found
    run = tmp_path / "run"
    assert found.endswith(
        f" The run is saved at step {step}; once this is fixed, `segacc train --resume {run}` "
        "continues it."
    ), found
    assert complete(run / "checkpoints")[-1].name == f"step-{step:08d}"


def test_any_other_function_of_a_plugin_is_named(
    warm: Warm, data: Path, site: Path, tmp_path: Path
) -> None:
    """Also in a backward pass, where the loss is called by torch."""
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run", *TINY[2:])
    weights, loss = ("tired:case=weights,calls=0", "tired:case=backward,calls=1")
    for words, name, more in (
        (("--arch", weights, *given), "weights", ""),
        ((*TINY[:2], *given, "--loss", loss), "Through.backward", " The run is saved at step 1; "),
    ):
        done = warm(*words, cwd=tmp_path, site=site)
        text = WHERE.replace(tired_plugin.__file__, str(site / "tired_plugin.py"))
        start = f"segacc: plugin segacc-tired 1.0: {name}() failed: {text}traceback.{more}"
        assert done.stderr.startswith(start) and done.stderr.count("\n") == 1, done.stderr
        assert done.returncode == 2


def test_a_full_gpu_is_told_with_what_needs_less_memory(
    warm: Warm, data: Path, site: Path, tmp_path: Path
) -> None:
    """In an evaluation, whose batches are not halved."""
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run", *TINY)
    done = warm(*given, "--loss", "tired:case=memory,calls=3", cwd=tmp_path, site=site)
    assert done.stderr == (
        f"segacc: CUDA out of memory. Tried to allocate 2.00 GiB. {FREE_MEMORY} The run is saved "
        "at step 1; once this is fixed, `segacc train --resume run` continues it.\n"
    )
    assert done.returncode == 2


def test_a_failure_in_a_worker_is_one_paragraph(
    warm: Warm, data: Path, site: Path, tmp_path: Path
) -> None:
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run", "--num-workers", 2)
    aug = ("--aug", "random_scale_crop", "--aug", "tired:case=worker,calls=1")
    done = warm(*TINY[:-2], *given, *aug, cwd=tmp_path, site=site)
    start = "segacc: plugin segacc-tired 1.0, augmentation tired: its call on uint8 (3, 64, 64) fai"
    assert done.stderr.startswith(start) and done.stderr.count("\n") == 1, done.stderr
    assert done.returncode == 2


@pytest.mark.slow
@pytest.mark.launch
def test_one_of_two_processes_fails(warm: Warm, data: Path, site: Path, tmp_path: Path) -> None:
    """In an evaluation both save; in a step they cannot, and the newest checkpoint is told.

    The other process may be ended before it can tell that it is left alone.
    """
    given = ("--dataset", f"folder:root={data}", "--save-every", 1, "--eval-every", 2, *TINY)
    for kind, case, calls, step, others in (
        ("metric", "compute-1", 0, 2, 0),
        ("loss", "sum-1", 2, 1, 1),
    ):
        asked = (f"--{kind}", f"tired:case={case},calls={calls}", "--output-dir", kind)
        done = warm(*given, *asked, cwd=tmp_path, site=site, processes=2)
        end = f"once this is fixed, `accelerate launch -m segacc --resume {kind}` continues it."
        first, *more = sorted(done.stderr.splitlines(), reverse=True)
        assert first.startswith(f"segacc: plugin segacc-tired 1.0, {kind} tired: "), done.stderr
        assert first.endswith(f" The run is saved at step {step}; {end}")
        text = "segacc: another process of this run has ended, or did not answer within --process-"
        assert len(more) <= others and all(one.startswith(text) for one in more), done.stderr
        assert done.returncode == 2
        assert complete(tmp_path / kind / "checkpoints")[-1].name == f"step-{step:08d}"


@pytest.mark.parametrize(
    ("kind", "case", "text"),
    [
        ("architecture", "linear", "build returned Linear; expected a segacc.model.Segment"),
        ("augmentation", "nowhere", "`on` is 'nowhere'; expected one of worker, device, batch."),
        ("metric", "empty", "compute() failed: ZeroDivisionError: division by zero ("),
        ("metric", "list", "compute() returned [0]; expected a dict of scores by name, each a n"),
        ("dataset", "dict", "build returned dict; expected segacc.DataSplits."),
        ("dataset", "set", "build returned set; expected a sequence of segacc.Sample, or a segac"),
        ("dataset", "files", "build failed: TypeError: expected a segacc.Sample, found bytes. "),
        ("dataset", "tuple", "reading sample 0 failed: TypeError: expected a segacc.Sample, foun"),
    ],
)
def test_what_is_of_another_kind_is_refused_before_training(
    data: Path, tmp_path: Path, kind: str, case: str, text: str
) -> None:
    found = refused(data, tmp_path, kind, case, PluginError)
    assert found.startswith(f"plugin segacc-tired 1.0, {kind} tired: {text}"), found
    assert not (tmp_path / "run").exists()
