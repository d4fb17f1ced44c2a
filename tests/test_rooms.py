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
