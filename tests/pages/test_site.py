"""The documentation as a site: generated pages are up to date, and mkdocs finds nothing wrong."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli_tools import ROOT

DOCS = ROOT / "docs"
ELSEWHERE = re.compile(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^>]*>")
"""A file that a page would fetch from another server."""


def generated() -> dict[str, str]:
    """Return what docs/tools/generate.py writes, by file name."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "tools" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


def test_generated_pages_are_up_to_date() -> None:
    """If this fails, run `make docs`."""
    pages = generated()
    assert sorted(pages) == ["components.md", "options.md", "tutorial.ipynb"]
    for name, text in pages.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"{name}: run `make docs`"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Strictly: a link or an anchor that leads nowhere is a warning, and a page beside the menu."""
    pytest.importorskip("material", reason="mkdocs-material is not installed: the extra `docs`")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")}
    assert {f"{path.stem}.html" for path in DOCS.glob("*.md")} <= pages
    assert {"CONTRIBUTING.html", "CHANGELOG.html"} <= pages
    assert (tmp_path / "recipes" / "tutorial.yaml").is_file()
    for name in pages:
        found = ELSEWHERE.findall((tmp_path / name).read_text(encoding="utf-8"))
        assert found == [], name
