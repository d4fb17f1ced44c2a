"""Fixtures of the command line's tests; a test module asks for them by `pytest_plugins`."""

from pathlib import Path

import pytest

from cli_tools import SHORT, Warm, add_plugin, assert_succeeded, warm_segacc, write_data

STRAY = ("yaml", "typing", "pathlib", "multiprocessing", "torch", "stray_plugin")
"""Modules of the folder `hostile`."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the small data set once; tests that spoil one make their own."""
    return write_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="session")
def warm() -> Warm:
    """Return what runs segacc with torch already imported."""
    return warm_segacc()


@pytest.fixture(scope="session")
def trained(data: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the tiny SegFormer once; return its run folder."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert_succeeded(
        warm(*SHORT, "--dataset", f"folder:root={data}", "--output-dir", folder, cwd=folder.parent)
    )
    return folder


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Make a folder whose modules leave a file behind when they are imported, and a plugin."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in STRAY:
        code = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__ + ' ')\n"
        (folder / f"{name}.py").write_text(code + "raise ImportError(__file__)\n")
    return add_plugin(folder)
