"""The round trip through COCO's files: what is counted, and what was found on whole data sets."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmark_tools import load
from cli_tools import write_data


def test_labels_come_back_from_coco(tmp_path: Path) -> None:
    trip = load("round_trip")
    data = write_data(tmp_path / "data", counts={"train": 2, "validation": 1})
    found = trip.measured(f"folder:root={data}")
    assert found["images"] == 3 and found["masks"]["changed"] == 0
    assert found["masks"]["pixels"] == found["polygons"]["pixels"] > 0
    assert 0.95 < found["polygons"]["lowest"] <= 1


def test_the_lowest_iou_is_that_of_one_class_in_one_image() -> None:
    trip = load("round_trip")
    before = np.array([[0, 0, 1, 1], [255, 255, 1, 1]], np.uint8)
    after = before.copy()
    after[0, 3] = 255  # 3 of 4 pixels of class 1 are left
    after[1, 0] = 0  # class 0 has one more
    pairs = [("first", before, before), ("second", before, after)]
    found = trip.compared(iter(pairs), ("wall", "sky", "unused"))
    assert found["lowest"] == pytest.approx(2 / 3) and found["where"] == "wall in second"
    assert found["mean_iou"] == pytest.approx((4 / 5 + 7 / 8) / 2)
    assert (found["changed"], found["pixels"]) == (2, 16)
    masks = {"changed": 0}
    assert not trip.kept({"polygons": found, "masks": masks})
    found["lowest"] = 0.99
    assert trip.kept({"polygons": found, "masks": masks})
    assert not trip.kept({"polygons": found, "masks": {"changed": 1}})


def test_the_page_holds_the_figures_of_whole_data_sets(tmp_path: Path) -> None:
    trip = load("round_trip")
    told = json.loads(trip.RESULTS.read_text())["data"]
    counts = {name: one["images"] for name, one in told.items()}
    assert list(counts) == list(trip.SOURCES) and counts["camvid"] == 468
    assert all(map(trip.kept, told.values()))
    page = trip.PAGE.read_text()
    trip.PAGE = tmp_path / "results.md"
    trip.PAGE.write_text(page)
    assert trip.report(trip.RESULTS) == 0
    assert trip.PAGE.read_text() == page
