"""`segacc push`: what arrives at the Hub is loaded from there, and errors are one paragraph."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

import segacc
from cli_tools import ROOT, Done, Warm, assert_refused, assert_succeeded, environment, python
from cli_tools import segacc as cold
from hub_server import TOKEN, USER, Hub, logged_in, writable_hub
from segacc.errors import OptionError, SegaccError
from segacc.evaluation.segmenter import Segmenter

pytest_plugins = ["cli_fixtures"]

LOADED = """
import sys
import numpy as np
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

assert "segacc" not in sys.modules
model = AutoModelForSemanticSegmentation.from_pretrained("alice/shapes")
processor = AutoImageProcessor.from_pretrained("alice/shapes")
image = Image.open("photo.png")
outputs = model(**processor(image, return_tensors="pt"))
sizes = [image.size[::-1]]
[classes] = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
masks = pipeline("image-segmentation", model="alice/shapes")(image)
piped = np.full(classes.shape, 255, np.uint8)
for one in masks:
    piped[np.asarray(one["mask"]) > 0] = model.config.label2id[one["label"]]
import segacc
own = segacc.Segmenter.from_pretrained("alice/shapes", "cpu")(image)
np.savez("predictions.npz", transformers=classes.numpy(), pipeline=piped, segacc=own)
"""


def push(hub: Hub, home: Path, *arguments: object, **more: str) -> Done:
    return cold("push", *arguments, cwd=home.parent, **logged_in(hub, home, **more))


@pytest.mark.slow
def test_what_was_pushed_loads_from_the_hub(data: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copy(data / "images" / "validation" / "validation0.png", tmp_path / "photo.png")
    with writable_hub() as hub:
        done = assert_succeeded(push(hub, tmp_path / "home", trained, "shapes", "--private"))
        user, there = logged_in(hub, tmp_path / "home"), dict(hub.repositories["alice/shapes"])
        assert_succeeded(python("-c", LOADED, cwd=tmp_path, **user))
        licensed = there["README.md"].replace(b"---", b"---\nlicense: mit", 1)
        hub.repositories["alice/shapes"]["README.md"] = licensed
        flags = ("--weights", "alice/shapes", "--max-steps", "1", "--crop-size", "48x64")
        given = ("--dataset", f"folder:root={data}", "--num-workers", "0", "--output-dir", "run")
        finer = assert_succeeded(cold("train", *flags, *given, cwd=tmp_path, **user))
    assert done.stdout.splitlines()[1:] == [
        'load it in Python  segacc.Segmenter.from_pretrained("alice/shapes")',
        "or on a terminal   segacc predict alice/shapes IMAGE --output-dir predictions",
    ]
    assert hub.private == {"alice/shapes": True}
    [commit] = hub.commits
    step = json.loads((trained / "best/segacc.json").read_text())["step"]
    assert commit["message"] == f"Upload model of step {step}"
    kept = {path.name: path.read_bytes() for path in (trained / "best").iterdir() if path.is_file()}
    card = kept.pop("README.md").decode()
    assert there.pop("README.md").decode() == card.replace('"USER/NAME"', '"alice/shapes"') != card
    assert there == kept
    local = Segmenter.from_pretrained(trained, "cpu")(tmp_path / "photo.png")
    assert len(np.unique(local)) > 1
    with np.load(tmp_path / "predictions.npz") as found:
        assert set(found) == {"transformers", "pipeline", "segacc"}
        for one in found.values():
            np.testing.assert_array_equal(one, local)
    assert "weights: alice/shapes: 124 tensors loaded" in finer.stdout
    finer_card = (tmp_path / "run/best/README.md").read_text()
    assert "base_model: alice/shapes" in finer_card and "license: mit" in finer_card


def test_an_interrupted_upload_goes_on(
    trained: Path, tmp_path: Path, user: Callable[[Hub], None]
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    model, total = (
        run / "best/model.safetensors",
        sum((run / "best" / name).stat().st_size for name in ("model.safetensors", "example.png")),
    )
    with writable_hub(hold=hashlib.sha256(model.read_bytes()).hexdigest()) as hub:
        hub.open.clear()
        first = subprocess.Popen(
            [sys.executable, "-m", "segacc", "push", "run", "shapes"],
            cwd=tmp_path,
            env=environment(**logged_in(hub, tmp_path / "home")),
            stderr=subprocess.DEVNULL,
        )
        assert hub.held.wait(180)
        asked = time.monotonic()
        size = model.stat().st_size
        while hub.received < total - size + size // 2:  # half of the model arrives
            assert first.poll() is None, "it ended before it was interrupted"
            assert time.monotonic() - asked < 120, "the other file does not arrive"
            time.sleep(0.01)
        first.kill()
        first.wait()
        hub.hold, sent = "", hub.received
        hub.open.set()
        assert not hub.commits
        asked = time.monotonic()
        while not hub.blobs:
            assert time.monotonic() - asked < 60
            time.sleep(0.01)
        user(hub)
        segacc.push(run, "shapes")
        assert hub.received - sent == model.stat().st_size < total
        again = segacc.push(run, "shapes")
        assert hub.received - sent == model.stat().st_size
        assert (again.repo, again.url) == ("alice/shapes", f"{hub.address}/alice/shapes")
    assert set(hub.repositories) == {"alice/shapes"} and len(hub.commits) == 1
    assert hub.repositories["alice/shapes"]["model.safetensors"] == model.read_bytes()


LOGIN = "Run `hf auth login` with a token that may write, or set HF_TOKEN to one."
ELSEWHERE = (
    "the answer did not come from the Hub, but perhaps from the login page of this network: open a "
    "page in a browser, then run the command again."
)
REFUSED = [
    (
        {"status": {"/api/whoami-v2": 401}},
        f"bob/x: the Hub does not accept the token (401): it is wrong or has expired. {LOGIN}",
    ),
    (
        {"status": {"/api/repos/create": 403, "/api/models/bob/x": 403}},
        "bob/x: the token may not write there (403: no write access). Its role must be `write`, or "
        "it must be a fine-grained one with access to bob/x; an organization must have you as a "
        "member.",
    ),
    (
        {"status": {"/api/models/bob/x/commit": 507}},
        "bob/x: the Hub refuses it (507: no write access). Run the command again: what has arrived "
        "completely is not sent again.",
    ),
    ({"page": b"<html>Welcome to the hotel</html>"}, f"bob/x: {ELSEWHERE}"),
    ({"status": {"/api/whoami-v2": 302}}, f"bob/x: {ELSEWHERE}"),
]


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hub], None]:
    """Make this process that of a user of a Hub; the library reads its environment on import."""

    def become(hub: Hub) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    return become


@pytest.mark.parametrize(
    ("behaviour", "told"), REFUSED, ids=["401", "403", "507", "page", "redirect"]
)
def test_what_the_hub_refuses(
    behaviour: dict[str, Any], told: str, trained: Path, user: Callable[[Hub], None]
) -> None:
    with writable_hub(**behaviour) as hub, pytest.raises(SegaccError) as error:
        user(hub)
        segacc.push(trained, "bob/x")
    assert str(error.value) == told
    assert not hub.commits


def test_without_a_network(trained: Path, tmp_path: Path) -> None:
    done = push(Hub(address="http://127.0.0.1:9"), tmp_path / "home", trained, "bob/x")
    assert_refused(
        done,
        "bob/x: the Hub cannot be reached (ConnectError: [Errno 111] Connection refused). Run the "
        "command again: what has arrived completely is not sent again.",
    )
    assert TOKEN not in done.stdout + done.stderr


def test_a_public_repository_is_not_taken_for_a_private_one(
    trained: Path, user: Callable[[Hub], None]
) -> None:
    with writable_hub() as hub, pytest.raises(OptionError) as error:
        user(hub)
        hub.repositories[f"{USER}/shapes"] = {}
        segacc.push(trained, "shapes", private=True)
    assert str(error.value) == (
        "private: alice/shapes exists and is public. Change its visibility in its settings on the "
        "Hub, leave this out, or choose another name."
    )
    assert not hub.commits


NAME = (
    "is not the name of a Hub repository: USER/NAME, or NAME for one of your own; NAME has up to "
    "96 letters, digits, `-`, `_` and `.`, does not begin or end with `-` or `.`, and contains "
    "neither `--` nor `..`."
)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "a b"), f"REPO: 'a b' {NAME}"),
        (("run", "a/b/c"), f"REPO: 'a/b/c' {NAME}"),
        (("run", "x", "--dry-run", "--private", "--name=x"), "unknown flag --name. `python -m "
         "segacc push --help` lists all flags."),
        (("none", "x"), "FOLDER: no such folder: none. A model of the Hub is given as USER/NAME."),
        (("us/none", "x"), "FOLDER: us/none: no such folder. Give a run folder, or the folder "
         "best/ or last/ of one."),
        (("run/checkpoints/step-00000040", "x"), "FOLDER: run/checkpoints/step-00000040: a "
         "checkpoint, which transformers cannot load. Give a run folder, or the folder best/ or "
         "last/ of one."),
        (("run", "x"), "REPO x: HF_HUB_OFFLINE is set, so nothing can be uploaded. Unset it."),
    ],
)  # fmt: skip
def test_what_is_refused_without_a_network(
    arguments: tuple[str, ...], told: str, warm: Warm, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").symlink_to(trained)
    assert_refused(warm("push", *arguments, cwd=tmp_path), told)


def test_nobody_is_logged_in(warm: Warm, trained: Path) -> None:
    done = warm("push", trained, "bob/x", cwd=trained, HF_HUB_OFFLINE="0")
    assert_refused(done, f"REPO bob/x: nobody is logged in to the Hub on this machine. {LOGIN}")


def test_a_dry_run_tells_files_and_sizes(warm: Warm, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "runs/mine")
    (run / "best/evaluation").mkdir()
    (run / "best/evaluation/per_image.parquet").write_bytes(b"not for others")
    page = (ROOT / "docs/publishing.md").read_text(encoding="utf-8")
    words = page.partition("```sh\nsegacc ")[2].splitlines()[0].split()
    assert words == ["push", "runs/mine", "USER/mine", "--dry-run"]
    words[2] = "mine"
    done = assert_succeeded(warm(*words, cwd=tmp_path))
    first, *files = done.stdout.splitlines()
    assert re.fullmatch(
        r"7 files \(\d\.\d\d MB\) would be uploaded from runs/mine/best to USER/mine of the user "
        "logged in, created as a public repository if it does not exist:",
        first,
    )
    assert [line.split()[-1] for line in files] == sorted(
        path.name for path in (trained / "best").iterdir()
    )
    size = (run / "best/config.json").stat().st_size
    assert f"{size} bytes  config.json" in done.stdout


def test_the_python_form(trained: Path) -> None:
    result = segacc.push(trained / "last", "bob/x", dry_run=True)
    assert (result.repo, result.url, result.folder) == ("bob/x", None, trained / "last")
    assert result.files["model.safetensors"] == (
        (trained / "last/model.safetensors").stat().st_size
    )
    with pytest.raises(OptionError) as error:
        segacc.push(trained, "a b", dry_run=True)
    assert str(error.value) == f"segacc.push: repo: 'a b' {NAME}"


def test_the_token_is_nowhere_and_an_evaluations_scores_are_in_the_card(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    evaluated = assert_succeeded(warm("evaluate", "run", "--num-workers", "0", cwd=tmp_path))
    before = (run / "best/README.md").read_bytes()
    with writable_hub() as hub:
        done = assert_succeeded(push(hub, tmp_path / "home", "run", "shapes"))
    assert TOKEN not in done.stdout + done.stderr
    files = [path for path in run.rglob("*") if path.is_file()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert not list(run.glob(".push*")) and (run / "best/README.md").read_bytes() == before
    there = hub.repositories["alice/shapes"]
    assert not [name for name in there if name.startswith("evaluation")]
    card, found = (
        there["README.md"].decode(),
        json.loads((run / "best/evaluation/evaluation.json").read_text()),
    )
    low, high = found["intervals"]["mean_iou"]
    assert f"| mean_iou | {found['scores']['mean_iou']:.4f} | {low:.4f} to {high:.4f} |" in card
    assert "Scored by `segacc evaluate` on the split validation" in card
    assert "interval_95:" in card and "bootstrap of 3 images" in card
    assert f"{low:.4f}"[:5] in evaluated.stdout or f"{100 * low:.2f}" in evaluated.stdout


def test_a_picture_is_one_of_the_files(trained: Path) -> None:
    with Image.open(trained / "best/example.png") as picture:
        assert picture.size[0] > picture.size[1] > 100
