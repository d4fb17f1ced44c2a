"""The benchmark of exactness runs, with its smallest settings, and writes what it finds."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmark_tools import load
from cli_tools import assert_succeeded, warm_segacc
from launches import ROOT


@pytest.fixture
def exactness() -> ModuleType:
    return load("exactness")


@pytest.mark.slow
@pytest.mark.launch
def test_cuts_are_compared_beside_the_mean_of_means(
    exactness: ModuleType, shared: Path, tmp_path: Path
) -> None:
    """In forks; the command line is that of the other benchmarks."""
    output = tmp_path / "exactness.json"
    code = (ROOT / "benchmarks/exactness_run.py").read_text()

    def start(processes: int, *arguments: str) -> None:
        assert_succeeded(warm_segacc().code(code, *arguments, cwd=ROOT, processes=processes))

    found = exactness.measure(4, True, exactness.FEW, output, start)
    told = json.loads(output.read_text())
    assert exactness.met(found) and exactness.met(told)
    whole, cut, usual = told["runs"]
    assert [(one["way"], one["precision"], one["cut"]) for one in told["runs"]] == [
        ("segacc", "float64", [1, 8, 1]),
        ("segacc", "float64", [2, 2, 2]),
        ("usual", "float64", [2, 2, 2]),
    ]
    assert [one["processes"] for one in told["runs"]] == [1, 2, 2]
    assert all(len(one["losses"]) == 4 for one in told["runs"])
    assert all(one["alone"] for one in told["runs"])
    np.testing.assert_allclose(cut["losses"], whole["losses"], rtol=1e-6)
    assert 0 < cut["weights_apart"] < 1e-10 < 1e-3 < usual["weights_apart"]
    assert cut["confusion"] == whole["confusion"]
    assert cut["largest_relative_difference"] < 1e-6 < usual["largest_relative_difference"]
    assert np.sum(whole["confusion"]) == whole["pixels"] > 300_000  # two pictures of 480x360
    assert exactness.table(told)[-1].startswith("| mean of means | float64 | 2x2x2 | ")


def result(**changed: object) -> dict[str, object]:
    """What a run leaves behind, without what is not read again."""
    ours = {
        **{"way": "segacc", "precision": "float64", "cut": [1, 4, 2], "alone": True},
        **{"first_relative_difference": 1e-7, "largest_relative_difference": 2e-7},
        **{"mean_iou": 0.25, "weights_apart": 1e-15},
        **{"same_confusion": True, "pixels_elsewhere": 0, "pixels": 4000},
    }
    usual = {**ours, "way": "usual", "cut": [2, 4, 1], "largest_relative_difference": 0.125}
    usual |= {"same_confusion": False, "pixels_elsewhere": 1234, "weights_apart": 0.5}
    versions = {"torch": "1.2", "accelerate": "3.4"}
    return {"steps": 60, "seconds": 99, "runs": [{**ours, **changed}, usual], "versions": versions}


def test_the_page_is_written_from_the_result(exactness: ModuleType, tmp_path: Path) -> None:
    exactness.RESULT, exactness.PAGE = tmp_path / "exactness.json", tmp_path / "results.md"
    exactness.PAGE.write_text(f"before\n{exactness.MARK}\nold\n{exactness.MARK}\nafter\n")
    exactness.RESULT.write_text(json.dumps(result()))
    assert exactness.report() == 0 == exactness.report()
    assert exactness.PAGE.read_text().splitlines() == [
        *("before", exactness.MARK, ""),
        "| step | numbers | cut | first loss | largest of 60 losses | final confusion matrix "
        "| weights apart | mean_iou |",
        "|---|---|---|---:|---:|---|---:|---:|",
        "| segacc | float64 | 1x4x2 | 1.0e-07 | 2.0e-07 | the same | 1.0e-15 | 0.2500 |",
        "| mean of means | float64 | 2x4 | 1.0e-07 | 1.2e-01 | 1,234 of 4,000 pixels elsewhere "
        "| 5.0e-01 | 0.2500 |",
        *("", "99 s in all; torch 1.2, accelerate 3.4.", ""),
        *(exactness.MARK, "after"),
    ]


def test_only_what_segacc_promises_is_asked_for(exactness: ModuleType) -> None:
    assert exactness.met(result())  # the mean of means may do what it likes
    assert not exactness.met(result(largest_relative_difference=2e-5))
    assert not exactness.met(result(same_confusion=False))
    assert not exactness.met(result(alone=False))
    changed = {"largest_relative_difference": 2e-5, "same_confusion": False}
    assert exactness.met(result(precision="float32", **changed))  # as rounding makes it


def test_numbers_stand_in_rows(exactness: ModuleType) -> None:
    told = {"runs": [{"losses": [1.5, 2.5], "confusion": [[1, 2], [3, 4]]}]}
    text = exactness.one_row_a_line(json.dumps(told, indent=1))
    assert json.loads(text) == told
    assert '"losses": [ 1.5, 2.5 ]' in text and text.count("\n") == 10
