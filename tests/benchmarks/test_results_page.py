"""The tables of docs/results.md are those of benchmarks/results."""

import json
from pathlib import Path
from typing import Any

from benchmark_tools import FOLDER, load

STEP = {"images_per_second": 12.3, "peak_gib": 4.56, "mfu": 0.31}
GPU: dict[str, Any] = {
    "device": "GPU X",
    "versions": {"torch": "1.2"},
    "left_out": ["EoMT-L,compiled"],
    "cases": {
        "check": {"steps": 2},
        "kernels": {"loss": {"plain": 0.004, "segacc": 0.002, "ratio": 2.0}},
        "EoMT-L,eager": {
            **{"batch": 8, "ratio": 1.5, "plain": {**STEP, "mfu": None}, "segacc": STEP},
            "files": {**STEP, "data_wait": 0.02},
        },
        "EoMT-L,other": {"failed": "no memory"},
    },
}


def test_the_page_is_that_of_the_results(tmp_path: Path) -> None:
    page = load("page")
    text = page.PAGE.read_text(encoding="utf-8")
    page.PAGE = tmp_path / "results.md"
    page.PAGE.write_text(text, encoding="utf-8")
    page.main()
    assert page.PAGE.read_text(encoding="utf-8") == text


def test_the_table_of_the_gpu() -> None:
    assert load("page").gpu(GPU)[2:] == [
        "| EoMT-L, eager | 8 | 12 | 12 | 12 | 4.6 | 4.6 |  | 31% | 2% | 1.50 |",
        "| EoMT-L, other | failed |  |  |  |  |  |  |  |  |  |",
        "",
        "|  | ms: plain | segacc | compiled | plain / segacc |",
        "|---|---:|---:|---:|---:|",
        "| loss | 4.00 | 2.00 |  | 2.00 |",
        "",
        "GPU X; torch 1.2. Left out: EoMT-L,compiled.",
    ]


def test_the_tables_of_scaling_and_evaluation() -> None:
    page, paper = load("page"), load("scaling_paper")
    one = {"seconds": 0.05, "size": 4e6, "batch": 8, "source": "measured"}
    lines = page.scaling(
        {
            "processes": {"2": {"seconds": 1.0, "seconds_without_exchange": 0.5, "bytes": 4e6}},
            "paper": {"SegFormer-b0": {**one, **paper.paper(**one)}},
        }
    )
    assert "| 2 | 1.000 | 0.500 | 4.0 |" in lines
    assert len([line for line in lines if line.startswith("| SegFormer-b0 | 4 | 50, me")]) == 3
    told = {
        **{"images": 50, "rounds": 3, "threads": 2, "ratio": 1.25, "of_forward": 0.9},
        "images_per_second": {"tutorial": 1.0, "segacc": 1.25, "forward": 1.4},
        "memory_mb": {"tutorial": 900.4, "segacc": 100.0},
        "memory_many_mb": {"images": 500, "segacc": 101.0},
        "versions": {"torch": "1.2"},
    }
    assert page.evaluate(told)[2:5] == [
        "| tutorial | 1.00 | 900 |  |",
        "| segacc | 1.25 | 100 | 101 |",
        "| forward | 1.40 |  |  |",
    ]


def test_no_benchmark_has_the_name_of_a_package_that_transformers_looks_for() -> None:
    """A script's folder is first on the path, where the package would be looked for."""
    import importlib.util
    import re

    found = importlib.util.find_spec("transformers")
    assert found is not None and found.origin is not None
    code = (Path(found.origin).parent / "utils" / "import_utils.py").read_text()
    wanted = set(re.findall(r"_is_package_available\(\"(\w+)\"", code))
    assert "kernels" in wanted and len(wanted) > 30
    assert not wanted & {path.stem for path in FOLDER.glob("*.py")}


def test_results_are_json() -> None:
    for path in (FOLDER / "results").glob("*.json"):
        assert json.loads(path.read_text()), path
