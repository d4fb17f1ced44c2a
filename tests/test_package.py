"""What is shipped: the wheel's files, and a declared dependency for everything that is imported."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from launches import ROOT

SMALL = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", "64"),
    *("--batch-size", "2", "--num-workers", "0", "--max-steps", "2", "--eval-every", "2"),
    *("--eval-split", "validation[:4]"),
)


RECIPES = """
from segacc.settings import recipes
names = [name for name in recipes.recipe_names() if recipes.read_recipe(name)]
print(recipes.recipe_folder(), *names)
"""


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


@pytest.mark.slow
@pytest.mark.launch
def test_the_installed_wheel_trains_and_predicts(
    wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In a new environment and an empty folder, where no clone is on the path."""
    folder = tmp_path_factory.mktemp("user")
    environment, work = folder / "env", folder / "work"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    [site] = environment.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others))  # torch and the like are not installed anew
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", "-q"]
    flags = ["--no-deps", "--no-index", "--ignore-installed", wheel.filename]
    subprocess.run([*pip, *flags], check=True, timeout=120)

    def run(*command: str) -> str:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        more = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        words = [str(environment / "bin" / command[0]), *command[1:]]
        done = subprocess.run(
            words, cwd=work, env=kept | more, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    place = run("python", "-c", "import segacc; print(segacc.__file__)").strip()
    assert Path(place) == site / "segacc" / "__init__.py"
    assert run("python", "-c", RECIPES).split() == [
        str(site / "segacc" / "recipes"),
        *sorted(path.stem for path in (ROOT / "recipes").iterdir()),
    ]
    told = run("segacc", "train", *SMALL, "--output-dir", "run")
    assert "nuclei: 166 training, 4 validation images" in told and "finished at step 2/2" in told
    image = work / "run/pictures/step-00000002.png"
    run("segacc", "predict", "run", str(image), "--output-dir", "predictions")
    assert (work / "predictions" / image.name).is_file()
