"""Nothing that lies in the working folder is imported or taken for a plugin."""

import os
import sys
from pathlib import Path

import pytest

from cli_tools import ROOT, TINY, Done, assert_succeeded, segacc, start

pytestmark = pytest.mark.launch
pytest_plugins = ["cli_fixtures"]

NAMES = ("yaml", "typing", "pathlib", "multiprocessing", "torch", "stray_plugin")
SPAWN = "import multiprocessing; multiprocessing.set_start_method('spawn')"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Make a folder whose modules leave a file behind when they are imported, and a plugin."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in NAMES:
        code = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__ + ' ')\n"
        (folder / f"{name}.py").write_text(code + "raise ImportError(__file__)\n")
    return add_plugin(folder)


def add_plugin(folder: Path) -> Path:
    for kind, names in (("dist", ("METADATA", "entry_points.txt")), ("egg", ("PKG-INFO",) * 2)):
        info = folder / f"stray_{kind}-1.0.{kind}-info"
        info.mkdir()
        (info / names[0]).write_text(f"Metadata-Version: 2.1\nName: stray-{kind}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[segacc]\nstray = stray_plugin\n")
    return folder


def script(*arguments: object, cwd: Path) -> Done:
    return start([str(Path(sys.executable).parent / "accelerate"), *map(str, arguments)], cwd, {})


def assert_untouched(done: Done, hostile: Path) -> None:
    assert_succeeded(done)
    assert not (hostile.parent / "ran").exists(), (hostile.parent / "ran").read_text()
    assert "stray" not in done.stdout + done.stderr


def test_python_m(hostile: Path) -> None:
    assert_untouched(segacc("plugins", cwd=hostile), hostile)
    assert_untouched(start([sys.executable, "-msegacc", "plugins"], hostile, {}), hostile)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_launch(hostile: Path, processes: int) -> None:
    config = (
        ROOT / "accelerate_configs" / ("cpu.yaml" if processes == 1 else "cpu_2_processes.yaml")
    )
    flags = ("--config_file", config, "--main_process_port", "0", "-m", "segacc", "plugins")
    assert_untouched(script("launch", *flags, cwd=hostile), hostile)


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
