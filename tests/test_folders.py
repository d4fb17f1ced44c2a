"""Run folders while several processes look at them at once."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from segacc.errors import OptionError
from segacc.folders import TRIAL, clear, writable
from segacc.plan import gather, make_plan
from segacc.registry import load_registry
from segacc.settings import Layer

TIMES = 200


def plan(folder: Path, **values: Any) -> Path:
    """Return the run folder of a plan."""
    settings = gather([Layer({"output_dir": folder, **values}, "command line")])
    return make_plan(settings, load_registry()).folder


def try_often(folder: str) -> None:
    for _ in range(TIMES):
        writable(Path(folder), "--output-dir")


def test_a_process_that_tries_whether_it_can_write_is_no_use_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / f"{TRIAL}abc").mkdir(parents=True)
    assert plan(folder) == folder
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match="is in use"):
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
        make_plan(gather([Layer({}, "command line")]), load_registry())
    assert str(told.value).startswith(
        "--output-dir is not given: runs/segformer-nuclei: nothing can be written in"
    )


def test_only_what_a_run_writes_is_deleted(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "run"
    for place in (outside, folder / "data", folder / "best", folder / "checkpoints"):
        place.mkdir(parents=True)
        (place / "file").touch()
    for name in (".segacc_run", "config.yaml", "notes.txt"):
        (folder / name).touch()
    (folder / "last").symlink_to(outside)
    clear(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *(".segacc_run", "data", "notes.txt")  # the mark is what the next run locks
    ]
    assert (folder / "data" / "file").exists() and (outside / "file").exists()
