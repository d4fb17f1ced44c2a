"""A Python with packages that do not go together with those of the suite."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from filelock import FileLock

PACKAGES = ("gradio", "trackio", "wandb", "mlflow-skinny")


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's packages, and PACKAGES, which need an older Pillow and httpx.

    It is made once for all of pytest's processes.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, failed = root / "others", root / "others.failed"
    with FileLock(root / "others.lock"):
        if not folder.exists():
            failed.write_text(make(folder))
    if told := failed.read_text():
        pytest.skip(f"{', '.join(PACKAGES)} cannot be installed here: {told}")
    return folder / "bin" / "python"


def make(folder: Path) -> str:
    """Install the packages; return the end of pip's error, empty if there is none."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    paths = {sysconfig.get_path("purelib"), *(path for path in sys.path if "site-packages" in path)}
    (site / "suite.pth").write_text("\n".join(sorted(paths)))
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "-q"]
    flags = ("--no-warn-conflicts", "--no-compile")
    done = subprocess.run([*pip, *flags, *PACKAGES], capture_output=True, text=True)
    return done.stderr[-300:] if done.returncode else ""
