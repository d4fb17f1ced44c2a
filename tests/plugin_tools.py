"""Writes plugin distributions, installs them with pip in throw-away folders, runs segacc there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TESTS = Path(__file__).parent
EXAMPLE = TESTS / "example_plugin"

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "{version}"

[project.entry-points.segacc]
{points}

[tool.hatch.build.targets.wheel]
include = ["*.py"]
"""


def write_distribution(
    parent: Path,
    name: str,
    source: str,
    *,
    version: str = "1.0",
    entry_points: Mapping[str, str] | None = None,
    more_modules: Mapping[str, str] | None = None,
) -> Path:
    """Write a distribution of one module, with one entry point `main` unless told otherwise."""
    folder, module = parent / name, name.replace("-", "_")
    folder.mkdir(parents=True)
    points = entry_points or {"main": module}
    lines = "\n".join(f'{key} = "{value}"' for key, value in points.items())
    text = PYPROJECT.format(name=name, version=version, points=lines)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    for called, content in {module: source, **(more_modules or {})}.items():
        (folder / f"{called}.py").write_text(content, encoding="utf-8")
    return folder


def pip_install(target: Path, *sources: Path) -> Path:
    """Install source folders with pip into `target`, which then only has to be put on the path."""
    flags = [
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    where = ["--target", str(target), *map(str, sources)]
    command = [sys.executable, "-m", "pip", "install", *flags, *where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def offer(site: Path, distribution: str, *files: Path) -> Path:
    """Put a module, and those that it imports, into a folder, with an entry point for the first."""
    site.mkdir()
    for file in files:
        shutil.copy(file, site)
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[segacc]\nmain = {files[0].stem}\n")
    return site


def run_python(
    arguments: Sequence[str], *, target: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run this Python from the repository root with `target` on its path."""
    path = os.pathsep.join(map(str, filter(None, [target, os.environ.get("PYTHONPATH")])))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_segacc(
    arguments: Sequence[str], *, target: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m segacc` as `run_python` does."""
    return run_python(["-m", "segacc", *arguments], target=target, **environment)
