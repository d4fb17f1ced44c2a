"""What is shipped: the wheel's files, and a declared dependency for everything that is imported."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from launches import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    command = [*build, "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = folder.glob("segacc-0.1.0-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_modules_the_data_set_and_the_licence(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if name.startswith("segacc/")}
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "segacc").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    recipes = {f"segacc/recipes/{path.name}" for path in (ROOT / "recipes").iterdir()}
    assert shipped == here | recipes
    assert {
        "segacc/plugins/datasets/data/nuclei/README.md",
        "segacc/plugins/datasets/data/nuclei/train.parquet",
        "segacc/plugins/datasets/data/nuclei/validation.parquet",
        "segacc/py.typed",
    } <= shipped
    licence = wheel.read("segacc-0.1.0.dist-info/licenses/LICENSE").decode()
    assert "Apache License" in licence
    assert (
        "segacc = segacc.__main__:script"
        in wheel.read("segacc-0.1.0.dist-info/entry_points.txt").decode()
    )


def imported(path: Path) -> set[str]:
    """Name the top-level packages that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def normal(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~; \[]", requirement)[0]).lower()


def test_everything_that_is_imported_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    users = [texts for name, texts in extras.items() if name != "dev"]
    texts = [*project["dependencies"], *(text for one in users for text in one)]
    declared = {normal(text) for text in texts}
    distributions = packages_distributions()
    undeclared = {
        (path.name, package)
        for path in (ROOT / "segacc").rglob("*.py")
        for package in imported(path) - set(sys.stdlib_module_names) - {"segacc"}
        if not declared & {normal(name) for name in distributions.get(package, [package])}
    }
    assert undeclared == set()
