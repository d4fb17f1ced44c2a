"""Checkpoints that are whole or not there, whatever the moment at which the process is killed."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from launches import ROOT
from run_tools import build
from segacc import registry
from segacc.errors import OptionError, PluginError, SegaccError, WriteError
from segacc.loop import train as train_run
from segacc.training.checkpoint import (
    Progress,
    Resume,
    complete,
    fault,
    find,
    name,
    read,
    recover,
    refuse_code,
    save,
    seal,
    verify,
    write_folder,
)
from segacc.training.resume import go_back

TOOL = ROOT / "tests" / "kill_tools.py"


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def moments(folder: Path, job: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(TOOL), str(folder), job],
        cwd=TOOL.parent.parent,
        env={**os.environ, "PYTHONPATH": str(TOOL.parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# --------------------------------------------------------------------------------- kill -9


@pytest.mark.slow
def test_a_replaced_folder_is_the_old_or_the_new_one_at_any_moment(tmp_path: Path) -> None:
    told = moments(tmp_path, "replace")
    assert told[-1] == {"moment": "end", "recovered": 2}
    once = [one for one in told[:-1] if isinstance(one["moment"], int)]
    twice = [one for one in told[:-1] if isinstance(one["moment"], list)]
    assert len(once) > 20  # moments of one replacement
    assert {one["seen"] for one in once} == {1, None, 2}
    assert [one["recovered"] for one in once] == sorted(one["recovered"] for one in once)
    assert {one["recovered"] for one in once} == {1, 2}
    assert len(twice) > 25  # killed between the two renames, and again while writing anew
    assert {one["recovered"] for one in twice} == {1, 3}


@pytest.mark.slow
def test_only_whole_checkpoints_are_listed_at_any_moment(tmp_path: Path) -> None:
    told = moments(tmp_path, "save")
    one, two, three = (name(step) for step in (1, 2, 3))
    allowed = [{one: 1, two: 2}, {one: 1, two: 2, three: 3}, {two: 2, three: 3}]
    assert all(moment["listed"] in allowed for moment in told), told
    assert told[0]["listed"] == allowed[0]
    assert told[-1] == {"moment": "end", "listed": allowed[2]}
    assert len(told) > 15


# ------------------------------------------------------------------------- one after the other


def test_a_folder_is_written_beside_and_then_moved(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    folder, seen = tmp_path / "run" / "best", []

    def fill(part: Path) -> None:
        seen.append((part.parent == folder.parent, part != folder, list(part.iterdir())))
        (part / "version").write_text(str(len(seen)))

    for version in ("1", "2"):
        write_folder(folder, fill, accelerator)
        assert [path.name for path in folder.parent.iterdir()] == ["best"]
        assert (folder / "version").read_text() == version
    assert seen == [(True, True, [])] * 2


def test_an_error_while_writing_leaves_the_old_folder(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    folder = tmp_path / "best"
    write_folder(folder, lambda part: (part / "a").write_text("old"), accelerator)

    def fail(part: Path) -> None:
        (part / "a").write_text("new")
        raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match="No space left"):
        write_folder(folder, fail, accelerator)
    assert (folder / "a").read_text() == "old"
    write_folder(folder, lambda part: (part / "b").write_text("new"), accelerator)
    assert [path.name for path in folder.iterdir()] == ["b"]


ODD = """
import torch

def fill(part):
    {act}
"""


@pytest.mark.parametrize(
    ("act", "kind", "told"),
    [
        ("torch.empty(10**15)", WriteError, "{folder}: cannot be written, as the memory is full: "),
        ("torch.save(torch.ones(99999), '/dev/full')", WriteError, "{folder}: cannot be written: "),
        ("(part / 'a' / 'b').touch()", WriteError, "{folder}: cannot be written: [Errno 2] "),
        (
            "raise RuntimeError('odd')",
            PluginError,
            "plugin segacc-odd 1.0: fill() failed: RuntimeError: odd (<string>:5). SEGACC_TRACEBACK"
            "=1 shows the traceback.",
        ),
        ("part.odd()", PluginError, "plugin segacc-odd 1.0: fill() failed: AttributeError: "),
    ],
)
def test_an_error_while_writing_is_told_as_what_it_is(
    tmp_path: Path,
    accelerator: Accelerator,
    monkeypatch: pytest.MonkeyPatch,
    act: str,
    kind: type[Exception],
    told: str,
) -> None:
    """Only that of a disk comes with what is free on it."""
    point = SimpleNamespace(name="main", module="odd_plugin")
    monkeypatch.setattr(registry, "installed_plugins", lambda: [("segacc-odd", "1.0", point)])
    plugin: dict[str, Any] = {"__name__": "odd_plugin"}
    exec(ODD.format(act=act), plugin)
    with pytest.raises(SegaccError) as error:
        write_folder(tmp_path / "best", plugin["fill"], accelerator)
    found = str(error.value)
    assert type(error.value) is kind and found.startswith(told.format(folder=tmp_path / "best"))
    disk = kind is WriteError and "memory" not in told
    assert (" MB free" in found, "Files written earlier" in found) == (disk, kind is WriteError)
    assert not list(tmp_path.iterdir()), "the space is free again"


def test_recover_puts_back_what_has_no_successor(tmp_path: Path) -> None:
    for folder, text in ((".best.old", "1"), (".last.old", "1"), ("last", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "version").write_text(text)
    recover(tmp_path)
    assert (tmp_path / "best" / "version").read_text() == "1"
    assert (tmp_path / "last" / "version").read_text() == "2"
    assert not (tmp_path / ".best.old").exists()
    recover(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def network(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.rand(4, 3)).square().sum().backward()
        optimizer.step()
    return torch.cat([parameter.flatten() for parameter in model.parameters()]).detach()


def test_a_checkpoint_gives_weights_optimizer_and_random_state_back(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(*network(0))
    train(model, optimizer)
    scores = {"mean_iou": 0.5, "per_category_iou": {"sky": math.nan, "road": 0.5}}
    progress = Progress(
        step=3, best=0.5, best_step=2, evaluated=2, saved=3, scores=scores, settings={"seed": 1}
    )
    place = save(tmp_path, progress, accelerator, keep=1)
    assert place == tmp_path / "step-00000003"
    wanted = train(model, optimizer)
    assert not torch.equal(train(model, optimizer), wanted)
    accelerator.load_state(str(place))
    assert torch.equal(train(model, optimizer), wanted)
    text = (place / "progress.json").read_text()
    assert "NaN" not in text and json.loads(text)["scores"]["per_category_iou"]["sky"] is None
    again = read(place)
    assert math.isnan(again.scores["per_category_iou"].pop("sky"))
    del scores["per_category_iou"]["sky"]
    assert again == progress


def test_rotation_keeps_the_newest(tmp_path: Path, accelerator: Accelerator) -> None:
    for step in (1, 9, 10, 100, 2000):
        place = save(tmp_path, Progress(step=step), accelerator, keep=3)
        assert read(place).step == step
    assert [path.name for path in complete(tmp_path)] == [name(10), name(100), name(2000)]
    assert len(list(tmp_path.iterdir())) == 3
    save(tmp_path, Progress(step=2000, best=1.0), accelerator, keep=3)
    assert [read(path).best for path in complete(tmp_path)] == [None, None, 1.0]


def keep_for_ever(checkpoint: Path) -> None:
    """Make a checkpoint that nobody can remove, root included: a folder is in place of a file."""
    (checkpoint / "SHA256SUMS").unlink()
    (checkpoint / "SHA256SUMS").mkdir()


def test_an_older_checkpoint_that_cannot_be_removed_is_a_warning(
    tmp_path: Path, accelerator: Accelerator, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new one is complete, and the next rotation tries again."""
    for step in (1, 2):
        keep_for_ever(save(tmp_path, Progress(step=step), accelerator, keep=9))
    save(tmp_path, Progress(step=3), accelerator, keep=9)
    assert not capsys.readouterr().err
    for step in (4, 5):
        place = save(tmp_path, Progress(step=step), accelerator, keep=1)
        assert complete(tmp_path) == [tmp_path / name(1), tmp_path / name(2), place]
        told = capsys.readouterr().err
        start = f"warning: {tmp_path}: step-00000001, step-00000002 cannot be removed: [Errno "
        assert told.startswith(start) and f"{tmp_path / name(1)}/SHA256SUMS'. The newest ch" in told
        assert told.endswith("checkpoint is complete, and the run goes on.\n"), told
        assert told.count("\n") == 1 and verify(place) is None


def test_what_is_later_is_renamed_also_at_a_second_attempt(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    config = SimpleNamespace(resume="run")
    run: Any = SimpleNamespace(folder=tmp_path, notes=[], config=config)
    place, names = tmp_path / "checkpoints", [name(step) for step in (1, 2, 3)]
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "segacc.json").write_text(json.dumps({"step": 2}))
    for step in (1, 2, 3):
        save(place, Progress(step=step), accelerator, keep=9)
    (place / f"later-{names[2]}").write_text("in its way")
    with pytest.raises(WriteError) as error:
        go_back(run, 1, None)
    start = f"--resume run: {tmp_path} cannot be brought back to step 1: [Errno "
    end = ". Make sure that its files can be removed and renamed, and resume it again."
    assert str(error.value).startswith(start) and str(error.value).endswith(end)
    assert [one.name for one in complete(place)] == [names[0], names[2]]
    (place / f"later-{names[2]}").unlink()
    go_back(run, 1, None)
    assert complete(place) == [place / names[0]]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["best-step-00000002", "checkpoints"]
    moved = f"renamed to {place}/later-step-N, which can be resumed too, and are deleted once this"
    assert run.notes == [
        "this run is resumed from step 1; best/ is from the later step 2 and was renamed to "
        "best-step-00000002/",
        f"the later checkpoints step-00000003 are {moved} run has saved a checkpoint",
    ]
    assert fault(place / f"later-{names[1]}") == ""
    save(place, Progress(step=2), accelerator, keep=9)
    assert sorted(one.name for one in place.iterdir()) == names[:2]


def test_a_folder_without_its_last_file_does_not_count(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    for step in (1, 2):
        save(tmp_path, Progress(step=step), accelerator, keep=5)
    (tmp_path / name(2) / "SHA256SUMS").unlink()
    (tmp_path / "step-00000009").write_text("a file")
    assert complete(tmp_path) == [tmp_path / name(1)]
    assert complete(tmp_path / "nowhere") == []


def test_checksums_are_those_of_sha256sum(tmp_path: Path, accelerator: Accelerator) -> None:
    place = save(tmp_path, Progress(step=1), accelerator, keep=1)
    check = ["sha256sum", "--strict", "--check", "SHA256SUMS"]
    told = subprocess.run(check, cwd=place, capture_output=True, text=True, check=True).stdout
    files = {path.name for path in place.iterdir()} - {"SHA256SUMS"}
    assert told.splitlines() == [f"{one}: OK" for one in sorted(files)]
    assert fault(place) == ""


@pytest.mark.parametrize("index", [0, 40])
@pytest.mark.parametrize("file", ["progress.json", "random_states_0.pkl", "SHA256SUMS"])
def test_one_flipped_bit_is_found(
    tmp_path: Path, accelerator: Accelerator, file: str, index: int
) -> None:
    place = save(tmp_path, Progress(step=1), accelerator, keep=1)
    content = bytearray((place / file).read_bytes())
    content[index] ^= 1
    (place / file).write_bytes(content)
    assert fault(place)
    if file != "SHA256SUMS":
        assert fault(place) == f"{file} does not match its checksum"


def test_the_newest_intact_checkpoint_is_offered(tmp_path: Path, accelerator: Accelerator) -> None:
    one, two, three = (
        save(tmp_path, Progress(step=step), accelerator, keep=5) for step in (1, 2, 3)
    )
    (two / "random_states_0.pkl").unlink()
    (three / "SHA256SUMS").write_text("")
    with pytest.raises(OptionError) as error:
        verify(three)
    assert str(error.value) == (
        f"--resume: {three} is damaged: SHA256SUMS is incomplete. Resume from the newest intact "
        f"one: --resume {one}."
    )
    (one / "progress.json").write_text("{}")
    with pytest.raises(OptionError, match=r"random_states_0.pkl is missing. There is no other"):
        verify(two)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_of_deepspeed_only_what_cannot_run_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    """Its engine unpickles; the names are those that DeepSpeed 0.19.8 wrote."""
    module = ModuleType("deepspeed.utils.tensor_fragment")
    for one in ("deepspeed", "deepspeed.utils", module.__name__):
        monkeypatch.setitem(sys.modules, one, module)
    known = type("fragment_address", (), {"__module__": module.__name__})
    module.fragment_address = known  # type: ignore[attr-defined]
    place = tmp_path / "pytorch_model" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    place.parent.mkdir()
    torch.save({"param_slice_mappings": known(), "weight": torch.ones(2)}, place)
    refuse_code(tmp_path)
    torch.save({"param_slice_mappings": Malicious(tmp_path / "ran")}, place)
    with pytest.raises(OptionError) as error:
        refuse_code(tmp_path)
    assert "which could run code" in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["optimizer.bin", "random_states_0.pkl", "pytorch_model.bin"])
def test_a_pickle_in_a_checkpoint_does_not_run(tmp_path: Path, file: str) -> None:
    """Also where the checksums are made anew."""
    made = build(tmp_path, max_steps=1)
    for _ in train_run(made):
        pass
    made.lock.release()
    (place,) = (tmp_path / "run" / "checkpoints").iterdir()
    if file == "pytorch_model.bin":
        (place / "model.safetensors").unlink()
    torch.save({"state": Malicious(tmp_path / "ran")}, place / file)
    seal(place)
    with pytest.raises(OptionError, match=r"is damaged: .*Weights only load failed"):
        build(tmp_path, resume=str(place), max_steps=2)
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------- --resume


def test_a_checkpoint_without_checksums_is_refused_with_the_way_on(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    run = tmp_path / "run"
    place = save(run / "checkpoints", Progress(step=5), accelerator, keep=2)
    (place / "SHA256SUMS").unlink()
    for given in (run, place, run / "checkpoints"):
        with pytest.raises(OptionError, match=r"older version of segacc.*--weights and the run"):
            find(str(given), None)
    (run / "best").mkdir()
    with pytest.raises(OptionError) as error:
        find("auto", run)
    assert str(error.value) == (
        f"--resume auto: {place} has no SHA256SUMS: it was partly removed, or written by an older "
        "version of segacc, whose files could run code and cannot be checked for damage. Start a "
        f"new run from its weights: --weights {run / 'best'}."
    )


@pytest.fixture
def run(tmp_path: Path, accelerator: Accelerator) -> Path:
    """A run folder with the checkpoints of steps 5 and 10."""
    for step in (5, 10):
        save(tmp_path / "run" / "checkpoints", Progress(step=step), accelerator, keep=2)
    return tmp_path / "run"


def test_the_newest_checkpoint_of_a_run_is_found(run: Path, monkeypatch: Any) -> None:
    newest = Resume(run, run / "checkpoints" / name(10), Progress(step=10))
    assert find("auto", run) == newest
    assert find(str(run), None) == newest
    assert find(str(run), Path("elsewhere")) == newest
    assert find(str(run / "checkpoints"), None) == newest
    monkeypatch.chdir(run.parent)
    assert find("run", None) == find("auto", Path("run")) == newest
    monkeypatch.setenv("HOME", str(run.parent))
    assert find("~/run", None) == newest


def test_a_checkpoint_can_be_named(run: Path, monkeypatch: Any) -> None:
    older = run / "checkpoints" / name(5)
    found = Resume(run, older, Progress(step=5))
    assert find(str(older), None) == found
    monkeypatch.chdir(older)
    assert find(".", None) == found


def test_auto_needs_a_folder() -> None:
    with pytest.raises(OptionError) as error:
        find("auto", None)
    assert str(error.value) == "--resume auto needs --output-dir DIR; or use --resume DIR."


@pytest.mark.parametrize("given", ["empty", "nowhere"])
def test_no_checkpoint_is_an_error(given: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "empty" / "checkpoints" / name(5)).mkdir(parents=True)  # without a file
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError) as error:
        find(given, Path("empty"))
    place = tmp_path / given / "checkpoints"
    assert str(error.value) == f"--resume {given}: no complete checkpoint in {place}."
    assert find("auto", Path("empty")) is None, "the run is started"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"step": -6}, "step: Input should be greater than or equal to 0"),
        ({"step": "6"}, "step: Input should be a valid integer"),
        ({"best": "x"}, "best: Input should be a valid number"),
        ({"seconds": -1.0}, "seconds: Input should be greater than or equal to 0"),
        ({"scores": [1]}, "scores: Input should be an object"),
        ({"steps": 1}, "Progress.__init__() got an unexpected keyword argument 'steps'"),
        (
            ["no", "mapping"],
            "not a mapping",
        ),
    ],
)
def test_a_progress_that_no_run_wrote_is_refused(
    tmp_path: Path, accelerator: Accelerator, change: Any, told: str
) -> None:
    """Its checksum fits, as a program that writes both would leave it."""
    folder = save(tmp_path, Progress(step=6), accelerator, keep=2)
    path = folder / "progress.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, **change} if isinstance(change, dict) else change))
    seal(folder)
    with pytest.raises(OptionError) as error:
        read(folder)
    start = f"--resume: {folder} is damaged: progress.json: {told}"
    assert str(error.value).startswith(start), str(error.value)
