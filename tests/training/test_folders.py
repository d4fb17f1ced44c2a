"""Run folders while several processes look at them at once."""

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli_tools import TINY, Warm, assert_refused, assert_succeeded
from segacc.errors import OptionError
from segacc.evaluation.model_folder import NETWORK
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.folders import BALANCE, MARK, TRIAL, clear, writable
from segacc.training.optim.groups import FILE
from segacc.training.plan import make_plan

pytest_plugins = ["cli_fixtures"]

TIMES = 200


def plan(folder: Path, **values: Any) -> Path:
    """Return the run folder of a plan."""
    layers = [Layer({"output_dir": folder, **values}, "command line")]
    return make_plan(layers, load_registry()).folder


def try_often(folder: str) -> None:
    for _ in range(TIMES):
        writable(Path(folder), "--output-dir")


def test_a_process_that_tries_whether_it_can_write_is_no_use_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / f"{TRIAL}abc").mkdir(parents=True)
    assert plan(folder) == folder
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match="is not empty"):
        plan(folder)


def test_several_processes_may_start_in_an_empty_folder(tmp_path: Path) -> None:
    other = multiprocessing.get_context("fork").Process(target=try_often, args=(str(tmp_path),))
    other.start()
    for _ in range(5):
        assert plan(tmp_path) == tmp_path
    other.join(60)
    assert other.exitcode == 0 and not list(tmp_path.iterdir())


def test_a_default_folder_that_cannot_be_made_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc")
    with pytest.raises(OptionError) as told:
        make_plan([Layer({}, "command line")], load_registry())
    assert str(told.value).startswith(
        "--output-dir is not given: runs/segformer-nuclei: cannot write in"
    )


def test_only_what_a_run_writes_is_deleted(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "run"
    for place in (outside, folder / "data", folder / "best", folder / "checkpoints"):
        place.mkdir(parents=True)
        (place / "file").touch()
    for name in (".segacc_run", "config.yaml", "console.log", "environment.json", "notes.txt"):
        (folder / name).touch()
    (folder / "last").symlink_to(outside)
    clear(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *(".segacc_run", "data", "notes.txt")  # the mark is what the next run locks
    ]
    assert (folder / "data" / "file").exists() and (outside / "file").exists()


def refused(**values: Any) -> str:
    with pytest.raises(OptionError) as caught:
        plan(Path("run"), overwrite=True, **values)
    return str(caught.value)


@pytest.fixture
def earlier(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder `run` of the working folder, which a run marked and has the data in it."""
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(data, tmp_path / "run" / "data").parent
    (folder / MARK).touch()
    return folder


def test_overwrite_deletes_no_data(earlier: Path) -> None:
    for root in ("run/data", str(earlier / "data")):
        mixed = {"name": "mix", "sets": ["nuclei", f"folder:root={root}"]}
        for given in (f"folder:root={root}", mixed):
            assert refused(dataset=given) == (
                f"--overwrite: {root} is inside run, which would be deleted. Choose another "
                "--output-dir."
            )


def test_overwrite_follows_no_link(earlier: Path) -> None:
    Path("link").symlink_to(earlier)
    with pytest.raises(OptionError) as caught:
        plan(Path("link"), overwrite=True)
    assert str(caught.value) == (
        "--overwrite: link is a symbolic link, and the files it points to are not deleted. Give "
        "the path of the folder itself."
    )


def test_overwrite_deletes_neither_settings_nor_the_working_folder(
    warm: Warm, data: Path, earlier: Path
) -> None:
    (earlier / "my.yaml").write_text("max_steps: 1\n")
    asked = (*TINY[:4], "--dataset", f"folder:root={data}", "--overwrite", "--output-dir")
    for place, given in (("run", earlier.parent), (earlier, earlier / "data")):
        config = ("--config", "run/my.yaml") if place == "run" else ()
        lies = "run/my.yaml" if place == "run" else given
        assert_refused(
            warm(*asked, place, *config, cwd=given),
            f"--overwrite: {lies} is inside {place}, which would be deleted. Choose another "
            "--output-dir.",
        )
    assert (earlier / "my.yaml").exists()


@pytest.mark.slow
def test_all_that_a_run_writes_is_deleted_and_the_rest_stays(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    asked = (*TINY, "--dataset", f"folder:root={data}", "--output-dir", run)
    more = ("--class-weights", "inverse", "--trackers", "tensorboard", "--ema", "0.9")
    assert_succeeded(warm(*asked, *more, cwd=tmp_path))
    names = {path.name for path in run.iterdir()}
    assert {FILE, BALANCE, NETWORK, "segacc", "best", "last", MARK} <= names
    (run / "notes.txt").write_text("mine")
    clear(run)
    assert [path.name for path in run.iterdir()] == [".segacc_run", "notes.txt"]
