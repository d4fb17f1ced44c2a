"""Nothing that lies in the working folder is imported or taken for a plugin.

training/test_processes_asked.py starts `accelerate launch` there, too.
"""

import os
import sys
from pathlib import Path

import pytest

from cli_tools import ROOT, TINY, add_plugin, assert_succeeded, assert_untouched, segacc, start

pytestmark = pytest.mark.launch
pytest_plugins = ["cli_fixtures"]

SPAWN = "import multiprocessing; multiprocessing.set_start_method('spawn')"


def test_python_m(hostile: Path) -> None:
    assert_untouched(segacc("plugins", cwd=hostile), hostile)
    assert_untouched(start([sys.executable, "-msegacc", "plugins"], hostile, {}), hostile)


@pytest.mark.slow
def test_workers_that_are_new_processes(hostile: Path, data: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SPAWN)
    asked = (*TINY[:-1], "1", "--dataset", f"folder:root={data}", "--output-dir", tmp_path / "run")
    assert_untouched(segacc(*asked, cwd=hostile, PYTHONPATH=str(site)), hostile)


def test_what_was_put_on_the_path_stays_there(tmp_path: Path) -> None:
    done = segacc("plugins", cwd=add_plugin(tmp_path), PYTHONPATH=str(tmp_path))
    assert "plugin stray-dist 1.0 (stray) was not loaded" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_clone_that_is_not_installed_is_found(tmp_path: Path) -> None:
    (tmp_path / "segacc").symlink_to(ROOT / "segacc")
    (tmp_path / "yaml.py").write_text("raise ImportError(__file__)\n")
    others = os.pathsep.join(one for one in sys.path if Path(one).name == "site-packages")
    command = [sys.executable, "-S", "-m", "segacc", "plugins", "segformer"]
    done = start(command, tmp_path, {"PYTHONPATH": others})
    assert "variant" in assert_succeeded(done).stdout
