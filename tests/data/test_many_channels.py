"""Pictures of six bands, 8-bit TIFFs: checked, cached, trained on, scored and predicted."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tools import TINY, Warm, assert_succeeded, metrics, write_data

pytest_plugins = ["cli_fixtures"]

tifffile = pytest.importorskip("tifffile", reason="more than four bands need the extra `tiff`")


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    """The small data set with pictures of six bands: a picture, and itself upside down."""
    root = write_data(tmp_path / "data")
    for path in (root / "images").rglob("*.png"):
        three = np.asarray(Image.open(path))
        six = np.concatenate([three, three[::-1]], axis=2)
        tifffile.imwrite(path.with_suffix(".tif"), six, photometric="minisblack")
        path.unlink()
    return root


@pytest.mark.slow
def test_six_bands(warm: Warm, bands: Path, tmp_path: Path) -> None:
    data = ("--dataset", f"folder:root={bands}", "--num-channels", "6")
    checked = assert_succeeded(warm("check-data", *data, "--json", cwd=tmp_path))
    told = json.loads(checked.stdout)
    assert told["would_stop"] is False and len(told["splits"]["train"]["mean"]) == 6
    assert (tmp_path / "data-check/data_check.png").is_file()

    assert_succeeded(warm(*TINY, *data, "--cache", "cached", "--output-dir", "run", cwd=tmp_path))
    assert_succeeded(warm(*TINY, *data, "--output-dir", "plain", cwd=tmp_path))
    losses = [[row["loss"] for row in metrics(tmp_path / run, "train")] for run in ("run", "plain")]
    assert losses[0] == losses[1] and losses[0]
    assert list((tmp_path / "run/pictures").iterdir())
    assert json.loads((tmp_path / "run/last/config.json").read_text())["num_channels"] == 6

    assert_succeeded(warm("evaluate", "run/last", *data[:2], cwd=tmp_path))
    scored = json.loads((tmp_path / "run/last/evaluation/evaluation.json").read_text())
    assert scored["scores"]["mean_iou"] == metrics(tmp_path / "run", "eval")[-1]["mean_iou"]
    picture = bands / "images/validation/validation1.tif"
    assert_succeeded(warm("predict", "run/last", picture, cwd=tmp_path))
    assert Image.open(tmp_path / "predictions/validation1.png").size == (64, 48)
    assert Image.open(tmp_path / "predictions/validation1_overlay.png").mode == "RGB"
