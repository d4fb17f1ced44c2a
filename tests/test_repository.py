"""Files for other programs: continuous integration, pre-commit, citation, and the site."""

import re
import tomllib
from typing import Any

import yaml

from launches import ROOT
from segacc.contracts import VERSION

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def floor(package: str) -> tuple[int, ...]:
    """Return the oldest version of a package of the extra `dev`."""
    [text] = [one for one in PROJECT["optional-dependencies"]["dev"] if one.startswith(package)]
    return tuple(map(int, text.partition(">=")[2].split(".")))


def test_continuous_integration_runs_commands_that_there_are() -> None:
    workflow = read(".github/workflows/ci.yml")
    jobs = workflow["jobs"]
    assert set(jobs) == {"check", "test", "oldest", "wheel", "docs"}
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    for used in (step["uses"] for step in steps if "uses" in step):
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", used), "pinned to a major version"
    shell = "\n".join(step["run"] for step in steps if "run" in step)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    used = set(re.findall(r"make ([a-z][a-z-]*)", shell))
    assert used == {"check", "test-all", "test-oldest", "docs"} and used <= set(targets)


def test_pre_commit_has_the_ruff_of_make_check() -> None:
    hooks = {
        hook["id"]: one for one in read(".pre-commit-config.yaml")["repos"] for hook in one["hooks"]
    }
    assert {"ruff-check", "ruff-format", "check-yaml"} <= set(hooks)
    version = tuple(map(int, hooks["ruff-check"]["rev"].removeprefix("v").split(".")))
    assert version >= floor("ruff")


def test_the_citation_names_this_version() -> None:
    citation = read("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert str(citation["version"]) == VERSION
    assert citation["license"] == PROJECT["license"]
    assert citation["abstract"] == PROJECT["description"]
    assert citation["authors"] == [{"name": "The segacc authors"}]


def test_each_page_is_in_the_menu_of_the_site() -> None:
    nav = read("mkdocs.yml")["nav"]
    named = [page for part in nav for value in part.values() for page in pages(value)]
    here = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert sorted(named) == sorted({*here, "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"})


def test_links_of_the_files_at_the_root_lead_somewhere() -> None:
    """Those of docs/ are checked when the site is built."""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)\s]+)\)|^\[.+\]: (\S+)$", text, re.MULTILINE)
        local = [one.partition("#")[0] for pair in links for one in pair if one]
        missing = [one for one in local if "://" not in one and not (ROOT / one).exists()]
        assert missing == []


def pages(value: Any) -> list[str]:
    """Return the pages of an entry of the menu."""
    return [value] if isinstance(value, str) else [page for one in value for page in one.values()]
