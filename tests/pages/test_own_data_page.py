"""The commands of docs/own_data.md run one after the other, only with smaller numbers."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tools import ROOT, TINY, Warm, assert_succeeded, metrics, write_data

pytest_plugins = ["cli_fixtures"]

PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
COMMANDS = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)).splitlines()


@pytest.mark.slow
def test_the_commands_run(warm: Warm, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data" / "mine")
    (tmp_path / "photos").mkdir()
    shutil.copy(data / "images/validation/validation0.png", tmp_path / "photos" / "new.png")
    names = [shlex.split(line)[1] for line in COMMANDS]
    assert names == ["check-data", "train", "evaluate", "predict"]
    for line in COMMANDS:
        words = shlex.split(line)[1:]
        if words[0] == "train":
            words[words.index("--max-time") :] = TINY
        done = assert_succeeded(warm(*words, cwd=tmp_path))
        if words[0] == "check-data":
            assert "\n  segacc train --dataset folder:root=data/mine," in done.stdout
    assert metrics(tmp_path / "runs/mine", "eval")[-1]["num_images"] == 3
    assert list((tmp_path / "runs/mine/best/evaluation/pictures/worst").iterdir())
    written = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    assert written == ["new.png", "new_overlay.png"]


def test_zero_and_255_need_no_class_list(warm: Warm, tmp_path: Path) -> None:
    """As the table says of such labels."""
    data = write_data(tmp_path / "data" / "mine")
    (data / "classes.txt").unlink()
    for path in (data / "annotations").rglob("*.png"):
        with Image.open(path) as label:
            Image.fromarray(np.uint8(255) * (np.asarray(label) > 0)).save(path)
    done = assert_succeeded(warm("check-data", "--dataset", "data/mine", cwd=tmp_path))
    assert "binary=true" in done.stdout
    assert re.search(r"^ *foreground +255 ", done.stdout, re.MULTILINE)
