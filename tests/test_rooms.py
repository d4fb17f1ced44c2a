"""Where things live: what is checked before torch is loaded does without it."""

import subprocess
import sys
from pathlib import Path

import pytest

from launches import ROOT

HEAVY = ("accelerate", "datasets", "evaluate", "matplotlib", "torch", "torchvision", "transformers")
# Everything that reads what was typed, up to a checked plan, and the components' records.
LIGHT = [
    "segacc",
    "segacc.commands.check_data.command",
    "segacc.commands.cli",
    "segacc.commands.demo",
    "segacc.commands.evaluate.command",
    "segacc.commands.export.benchmark",
    "segacc.commands.export.command",
    "segacc.commands.plugins.command",
    "segacc.commands.predict.command",
    "segacc.commands.push",
    "segacc.commands.report.command",
    "segacc.commands.report.page",
    "segacc.commands.train",
    "segacc.data.decode",
    "segacc.data.quick_check",
    "segacc.data.scan",
    "segacc.data.splits",
    "segacc.evaluation.model_folder",
    "segacc.labels",
    "segacc.model",
    "segacc.registry",
    "segacc.settings.sources",
    "segacc.training.plan",
    "segacc.training.saving.upload",
    "segacc.training.tracking.record",
    "segacc.training.tracking.trackers",
]


def plugin_modules() -> list[str]:
    files = sorted((ROOT / "segacc/plugins").rglob("*.py"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]


@pytest.mark.parametrize("modules", [LIGHT, plugin_modules()], ids=["rooms", "plugins"])
def test_what_comes_before_torch_loads_none(modules: list[str], tmp_path: Path) -> None:
    script = (
        "import importlib, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    loaded = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "    assert not loaded, f'{module} loads {loaded}'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


BEFORE_TORCH = """
import sys
from segacc.__main__ import main
sys.argv = ["segacc", *{arguments!r}]
code = main()
assert code == 2 and not {heavy!r} & set(sys.modules), set(sys.modules)
"""


@pytest.mark.parametrize("more", [[], ["--processes", "2"]], ids=["one", "two"])
def test_an_error_in_the_layout_of_a_data_set_comes_before_torch(
    more: list[str], tmp_path: Path
) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train" / "a.png").touch()
    arguments = ["train", "--dataset", f"folder:root={tmp_path}", *more]
    script = BEFORE_TORCH.format(arguments=arguments, heavy=set(HEAVY))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().startswith("segacc: --dataset"), done.stderr.decode()


@pytest.mark.slow
def test_the_launcher_of_several_processes_imports_neither_torchvision_nor_transformers() -> None:
    script = (
        "import sys\n"
        "from accelerate.commands.launch import multi_gpu_launcher\n"
        "from segacc.training.processes import launch\n"
        "assert not {'torchvision', 'torch._dynamo', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_the_tree_in_contributing_is_the_tree() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text[text.index("## The tree") : text.index("## Where a change goes")]
    told = {line.split("`")[1].rstrip("/") for line in tree.splitlines() if line[:3] == "| `"}
    found = {
        path.name
        for path in (ROOT / "segacc").iterdir()
        if path.name not in ("__init__.py", "__pycache__", "py.typed")
    }
    assert told == found
