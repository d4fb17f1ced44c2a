"""`segacc plugins new`: what it writes is installed by pip, keeps the contract, and trains."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli_tools import Warm, assert_refused, assert_succeeded, environment, metrics
from plugin_tools import pip_install

pytest_plugins = ["cli_fixtures"]

SHORT = (
    *("--weights", "none", "--crop-size", "32", "--batch-size", "2", "--max-steps", "2"),
    *("--eval-every", "2", "--num-workers", "0", "--log-every", "1", "--output-dir", "run"),
)


@pytest.mark.slow
def test_a_new_plugin_is_installed_tested_and_trained(warm: Warm, tmp_path: Path) -> None:
    done = assert_succeeded(warm("plugins", "new", "street_net", cwd=tmp_path))
    folder = tmp_path / "segacc-street-net"
    assert done.stdout == (
        "segacc-street-net/pyproject.toml\n"
        "segacc-street-net/segacc_street_net/__init__.py\n"
        "segacc-street-net/segacc_street_net/network.py\n"
        "segacc-street-net/tests/test_street_net.py\n"
        "segacc-street-net/README.md\n"
        "install it with   pip install -e segacc-street-net\n"
        "test it with      python -m pytest segacc-street-net\n"
        "train it with     segacc train --arch street_net\n"
    )
    site = pip_install(tmp_path / "site", folder)
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(site)),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "2 passed" in tested.stdout
    trained = warm("--arch", "street_net:width=8", *SHORT, cwd=tmp_path, site=site)
    assert_succeeded(trained)
    assert trained.stdout.startswith("street_net:width=8: ")
    assert len(metrics(tmp_path / "run", "train")) == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "Street",
            '"Street" is not a valid name: use lower-case letters, digits and _, starting with a '
            "letter, as in my_net.",
        ),
        (
            "segformer",
            'the architecture "segformer" already exists, in segacc. Choose another name.',
        ),
        ("there", "segacc-there already exists. Choose another name."),
    ],
)
def test_nothing_is_written_over(warm: Warm, tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "segacc-there").mkdir()
    done = warm("plugins", "new", name, cwd=tmp_path)
    assert_refused(done, f"segacc plugins new: {reason}")
    assert [path.name for path in tmp_path.iterdir()] == ["segacc-there"]
    assert not any((tmp_path / "segacc-there").iterdir())
