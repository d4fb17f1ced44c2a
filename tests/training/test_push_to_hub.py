"""`--push-to-hub`: best/ is uploaded while the run goes on, and the run never fails for it."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from cli_tools import SHORT, TINY, Warm, assert_refused, assert_succeeded
from hub_server import TOKEN, Hub, writable_hub
from segacc.evaluation.model_folder import side_file

pytest_plugins = ["cli_fixtures"]


def user(hub: Hub) -> dict[str, str]:
    """Return what the uploading process needs; a fork has read all else on its imports."""
    known = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}
    return {**known, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}


@pytest.mark.slow
def test_a_slow_hub_does_not_slow_the_run(warm: Warm, data: Path, tmp_path: Path) -> None:
    run, seen = tmp_path / "shapes run", []
    given = ("--dataset", f"folder:root={data}", "--output-dir", run)
    with writable_hub() as hub:
        hub.open.clear()

        def open_later() -> None:
            while not (run / "exit.json").is_file() and not hub.open.is_set():
                time.sleep(0.02)
            time.sleep(1)  # until the run waits for the upload
            seen.extend([len(hub.commits), side_file(run / "best")["step"]])
            hub.open.set()

        opener = threading.Thread(target=open_later, daemon=True)
        opener.start()
        done = assert_succeeded(warm(*SHORT, *given, "--push-to-hub", cwd=tmp_path, **user(hub)))
        opener.join()
    commits, best = seen
    assert commits == 0  # the run had ended when the first upload had not
    assert hub.commits[-1]["message"] == f"Upload model of step {best}"
    there = hub.repositories["alice/shapes-run"]
    assert there["model.safetensors"] == (run / "best/model.safetensors").read_bytes()
    assert there["segacc.json"] == (run / "best/segacc.json").read_bytes()
    waiting = "waiting for the upload of best/ of step {} to shapes-run (Ctrl-C ends this)"
    lines = done.stderr.splitlines()
    assert waiting.format(best) in lines
    url = f"{hub.address}/alice/shapes-run"
    assert lines[-1] == f"best/ of step {best} was uploaded to {url}"
    assert TOKEN not in done.stdout + done.stderr
    files = [path for path in run.rglob("*") if path.is_file()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert not list(run.glob(".push*"))


def test_a_dead_hub_is_one_warning(warm: Warm, data: Path, tmp_path: Path) -> None:
    nowhere = user(Hub(address="http://127.0.0.1:9"))
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run")
    done = assert_succeeded(warm(*TINY, *given, "--push-to-hub", "bob/x", cwd=tmp_path, **nowhere))
    best = side_file(tmp_path / "run/best")["step"]
    warning = (
        f"warning: best/ of step {best} was not uploaded: bob/x: the Hub cannot be reached "
        "(ConnectError: [Errno 111] Connection refused). Run the command again: what has arrived "
        "completely is not sent again."
    )
    *_, first, last = done.stderr.splitlines()
    assert (first, last) == (warning, f"{warning} Upload it with: segacc push run/best bob/x")
    assert "finished at step 2/2" in done.stdout


@pytest.mark.slow
def test_a_resumed_run_uploads_too(warm: Warm, data: Path, tmp_path: Path) -> None:
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run")
    with writable_hub() as hub:
        assert_succeeded(warm(*TINY, *given, "--push-to-hub", "bob/x", cwd=tmp_path, **user(hub)))
        best = side_file(tmp_path / "run/best")["step"]
        shutil.rmtree(tmp_path / "run/best")  # the next evaluation is the best again
        more = ("--resume", "run", "--max-steps", "3")
        assert_succeeded(warm(*more, cwd=tmp_path, **user(hub)))
        messages = [f"Upload model of step {step}" for step in (best, 3)]
        assert [one["message"] for one in hub.commits[-2:]] == messages
        assert {one["repo"] for one in hub.commits} == {"bob/x"}
        before = len(hub.commits)
        shutil.rmtree(tmp_path / "run/best")
        off = ("--resume", "run", "--max-steps", "4", "--push-to-hub", "none")
        assert "upload" not in assert_succeeded(warm(*off, cwd=tmp_path, **user(hub))).stderr
        assert len(hub.commits) == before


@pytest.mark.slow
def test_ctrl_c_ends_the_wait(warm: Warm, data: Path, tmp_path: Path) -> None:
    with writable_hub() as hub:
        hub.open.clear()
        given = ("--dataset", f"folder:root={data}", "--output-dir", "run", "--push-to-hub", "x")
        run = warm.start(*TINY, *given, cwd=tmp_path, errors=tmp_path / "errors", **user(hub))
        while "waiting" not in (tmp_path / "errors").read_text():
            assert run.poll() is None
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(30) == 0
    assert (tmp_path / "errors").read_text().splitlines()[-1] == (
        f"warning: best/ of step {side_file(tmp_path / 'run/best')['step']} is not uploaded to x: "
        "ended. Upload it with: segacc push run/best x"
    )
    assert not hub.commits and not list((tmp_path / "run").glob(".push*"))


@pytest.mark.parametrize(
    ("given", "more", "told"),
    [
        (
            ("--push-to-hub", "a b"),
            {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"},
            "--push-to-hub: 'a b' is not the name of a Hub repository: USER/NAME, or NAME for one "
            "of your own; NAME has up to 96 letters, digits, `-`, `_` and `.`, does not begin or "
            "end with `-` or `.`, and contains neither `--` nor `..`.",
        ),
        (
            ("--push-to-hub",),
            {"HF_HUB_OFFLINE": "0"},
            "--push-to-hub: nobody is logged in to the Hub on this machine. Run `hf auth login` "
            "with a token that may write, or set HF_TOKEN to one.",
        ),
        (
            ("--push-to-hub",),
            {"HF_TOKEN": TOKEN},
            "--push-to-hub: HF_HUB_OFFLINE is set, so nothing can be uploaded. Unset it.",
        ),
        (
            ("--push-to-hub", "--output-dir", "..."),
            {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"},
            "--push-to-hub: no repository can be named after the run folder .... Give one, as in "
            "--push-to-hub USER/NAME.",
        ),
    ],
)
def test_what_is_refused_before_the_run(
    given: tuple[str, ...], more: dict[str, str], told: str, warm: Warm, tmp_path: Path
) -> None:
    assert_refused(warm(*TINY, *given, cwd=tmp_path, **more), told)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.launch
def test_only_the_main_process_uploads(warm: Warm, data: Path, tmp_path: Path) -> None:
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run", "--push-to-hub", "x")
    with writable_hub() as hub:
        assert_succeeded(warm(*TINY, *given, cwd=tmp_path, processes=2, **user(hub)))
    assert hub.commits and {one["repo"] for one in hub.commits} == {"alice/x"}
    best = side_file(tmp_path / "run/best")["step"]
    assert hub.commits[-1]["message"] == f"Upload model of step {best}"
