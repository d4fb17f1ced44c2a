"""Protocols on the command line: a preset is stored and told by name, and read again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli_tools import SHORT, Warm, assert_succeeded, draw
from segacc.evaluation.predict import decide_batch
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.segmenter import Segmenter

pytest_plugins = ["cli_fixtures"]

TYPED = "mmseg-ade20k:short_side=40,long_side=60,flip=true"
TEXT = f"{TYPED} (tta:scales=1,flip=true,short_side=40,long_side=60,antialias=false)"


@pytest.fixture(scope="module")
def preset(warm: Warm, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that is scored by a preset, in batches."""
    folder = tmp_path_factory.mktemp("preset") / "run"
    more = ("--protocol", TYPED, "--eval-batch-size", "2")
    given = ("--dataset", f"folder:root={data}", "--output-dir", folder, *more)
    assert_succeeded(warm(*SHORT, *given, cwd=folder.parent))
    return folder


def test_a_preset_is_stored_with_what_it_stands_for(preset: Path) -> None:
    stored = json.loads((preset / "best" / "segacc.json").read_text())
    assert stored["protocol"] == stored["terms"]["protocol"] == TEXT
    assert TEXT in (preset / "best" / "README.md").read_text()
    assert Segmenter.from_pretrained(preset / "best").protocol == Protocol.parse(TYPED, "-")


def test_evaluate_takes_the_stored_preset_and_says_so(
    warm: Warm, preset: Path, data: Path, tmp_path: Path
) -> None:
    given = ("--dataset", f"folder:root={data}", "--num-workers", "0", "--output-dir", "out")
    done = assert_succeeded(warm("evaluate", preset / "best", *given, cwd=tmp_path))
    assert f"protocol {TEXT}" in done.stdout
    found: dict[str, Any] = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["protocol"] == TEXT
    stored = json.loads((preset / "best" / "segacc.json").read_text())
    assert found["scores"]["mean_iou"] == pytest.approx(stored["scores"]["mean_iou"], rel=1e-3)


def test_predict_takes_the_mean_of_several_looks(warm: Warm, trained: Path, tmp_path: Path) -> None:
    picture, protocol = tmp_path / "one.png", "tta:scales=0.75/1/1.5,crop=32,blend=gaussian"
    Image.fromarray(draw((1, 2), (61, 83))[0]).save(picture)
    given = ("predict", trained / "best", picture, "--protocol", protocol)
    assert_succeeded(warm(*given, cwd=tmp_path))
    segmenter = Segmenter.from_pretrained(trained / "best", "cpu")
    image = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None]
    network = segmenter.network
    found = decide_batch(network, network, image, Protocol.parse(protocol, "-")).classes[0]
    raw = segmenter.labels.restore(found.numpy())
    written = np.asarray(Image.open(tmp_path / "predictions" / "one.png"))
    assert (written != raw).mean() < 1e-3 and len(np.unique(raw)) > 1
