"""The code of docs/python.md runs as it stands there, only with smaller numbers."""

import re
import shutil
from pathlib import Path

import pytest

from cli_tools import ROOT, Warm, assert_succeeded, write_data

pytest_plugins = ["cli_fixtures"]

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
SMALLER = {
    "variant=b1": "variant=tiny",
    "max_steps=4000": 'max_steps=2, log_every=1, crop_size=48, weights="none", num_workers=0',
    "cuda:1": "cpu",
}


@pytest.mark.slow
def test_the_code_runs(warm: Warm, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data" / "mine")
    for name in ("photo.jpg", "a.jpg", "b.png"):
        shutil.copy(data / "images/validation/validation0.png", tmp_path / name)
    code = "".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
    for long, short in SMALLER.items():
        assert long in code
        code = code.replace(long, short)
    done = assert_succeeded(warm.code(code, cwd=tmp_path))
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if re.match(r"[12] 0\.\d+$", line)] == ["1", "2"]
    assert [line.split()[0] for line in lines[-2:]] == ["1", "2"]
    assert done.stdout.count("finished at step 2/2") == 3
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert folders == ["mine", *(f"segformer-folder{end}" for end in ("", "-2", "-3"))]
