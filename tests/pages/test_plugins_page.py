"""The code of docs/plugins.md is installed and trains as it stands there."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from cli_tools import ROOT, Warm, assert_succeeded
from plugin_tools import pip_install, write_distribution
from segacc.testing import check_augmentation, check_loss, registry_of

pytest_plugins = ["cli_fixtures"]

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
SMALLER = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", "32"),
    *("--batch-size", "2", "--num-workers", "0", "--max-steps", "1"),
)


def code(name: str) -> str:
    """Return the block of Python that begins with its file's name."""
    found = re.search(rf"^```python\n# {name}\.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.slow
def test_the_plugins_of_the_page(warm: Warm, tmp_path: Path) -> None:
    first = [line for line in code("segacc_soft").splitlines() if line]
    assert len(first) == 12
    sources = [
        write_distribution(tmp_path, f"segacc-{name}", code(f"segacc_{name}"))
        for name in ("soft", "brier")
    ]
    site = pip_install(tmp_path / "site", *sources)
    commands = [
        line.split()
        for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
        if "soft" in line or "brier" in line
    ]
    ran = []
    for words in commands:
        if words[0] == "pip":
            assert words == ["pip", "install", "./segacc-soft"]
            continue
        arguments = words[1:]
        if words[:2] == ["segacc", "train"]:
            arguments += SMALLER
        done = assert_succeeded(warm(*arguments, cwd=tmp_path, site=site))
        ran.append(done.stdout)
    assert len(ran) == 3 and "Width of the blur in pixels" in ran[0]
    assert (tmp_path / "runs/brier/best/model.safetensors").is_file()


def test_they_keep_the_contract() -> None:
    modules = [ModuleType(f"segacc_{name}") for name in ("soft", "brier")]
    for module in modules:
        exec(code(module.__name__), vars(module))
    soft, brier = map(registry_of, modules)
    check_augmentation(soft.find("augmentation", "soft", "this test"))
    check_loss(brier.find("loss", "brier", "this test"))
