"""`predict` writes raw ids: whatever the label map did to them in training is undone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli_tools import SHORT, TINY, Warm, assert_refused, assert_succeeded, write_data

pytest_plugins = ["cli_fixtures"]


def pixels(path: Path) -> Any:
    """Read a picture as it is stored."""
    return np.asarray(Image.open(path))


def rewrite(root: Path, table: Any, suffix: str = ".png") -> None:
    """Give the classes 0, 1, 2 of all labels the entries of a table: raw ids, or colours."""
    for path in sorted(root.glob("annotations/*/*.png")):
        label = table[pixels(path)]
        path.unlink()
        Image.fromarray(label).save(path.with_suffix(suffix))


def train_and_predict(warm: Warm, dataset: str, root: Path, cwd: Path) -> tuple[list[Any], float]:
    """Train, predict the validation images, score; return the maps and the overall accuracy."""
    assert_succeeded(warm(*SHORT, "--dataset", dataset, "--output-dir", "run", cwd=cwd))
    images = root / "images" / "validation"
    assert_succeeded(warm("predict", "run/best", images, "--output-dir", "maps", cwd=cwd))
    given = ("--dataset", dataset, "--num-workers", "0")
    assert_succeeded(warm("evaluate", "run/best", *given, cwd=cwd))
    evaluation = json.loads((cwd / "run/best/evaluation/evaluation.json").read_text())
    maps = [pixels(cwd / "maps" / f"validation{k}.png") for k in range(3)]
    return maps, evaluation["scores"]["overall_accuracy"]


def labels_of(root: Path) -> list[Any]:
    return [pixels(root / f"annotations/validation/validation{k}.png") for k in range(3)]


def accuracy(maps: list[Any], labels: list[Any]) -> float:
    """Return the share of equal pixels."""
    return float(np.mean([map_ == label for map_, label in zip(maps, labels, strict=True)]))


@pytest.mark.slow
def test_reduce_labels_is_undone(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", first=1)
    maps, scored = train_and_predict(warm, f"folder:root={root},reduce_labels=true", root, tmp_path)
    ids = set(np.unique(maps).tolist())
    assert ids <= {1, 2, 3} and len(ids) > 1
    assert scored == pytest.approx(accuracy(maps, labels_of(root)), abs=1e-12)


@pytest.mark.slow
def test_negative_ids_are_ignored_and_told(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    rewrite(root, np.array([0, 1, -100], np.int32), ".tif")
    dataset = f"folder:root={root},ignore=-100"
    maps, scored = train_and_predict(warm, dataset, root, tmp_path)
    assert {map_.dtype for map_ in maps} == {np.dtype(np.uint8)}
    labels = [pixels(path) for path in sorted(root.glob("annotations/validation/*.tif"))]
    right = [(map_ == label).sum() for map_, label in zip(maps, labels, strict=True)]
    assert scored == pytest.approx(sum(right) / sum((one >= 0).sum() for one in labels), abs=1e-12)
    evaluation = json.loads((tmp_path / "run/best/evaluation/evaluation.json").read_text())
    side = json.loads((tmp_path / "run/best/segacc.json").read_text())
    assert evaluation["ignored"] == side["terms"]["ignored"] == "raw ids -100, 255 ignored"


@pytest.mark.slow
def test_a_map_file_is_undone_and_ids_of_16_bits_are_written(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    rewrite(root, np.array([1007, 300, 301], np.uint16))
    (tmp_path / "map.yaml").write_text(
        "classes: {1007: ground, 300: disc, 301: bar, 5: sky}\n"
        "drop: [sky]\nmerge: {thing: [bar, disc]}\nrename: {ground: soil}\n"
    )
    maps, scored = train_and_predict(
        warm, f"folder:root={root},map={tmp_path}/map.yaml", root, tmp_path
    )
    assert {map_.dtype for map_ in maps} == {np.dtype(np.uint16)}
    assert set(np.unique(maps).tolist()) == {300, 1007}, "of what was merged, the lowest id"
    merged = [np.where(label == 301, 300, label) for label in labels_of(root)]
    assert scored == pytest.approx(accuracy(maps, merged), abs=1e-12)
    told = json.loads((tmp_path / "run/best/config.json").read_text())
    assert set(told["id2label"].values()) == {"soil", "thing"}


@pytest.mark.slow
def test_colours_become_rows_of_their_table(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    table = np.array([(10, 20, 30), (200, 0, 0), (0, 0, 200)], np.uint8)
    ids = labels_of(root)
    rewrite(root, table)
    lines = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip("abc", table.tolist(), strict=True)]
    (tmp_path / "colors.csv").write_text("\n".join(lines) + "\n")
    maps, scored = train_and_predict(
        warm, f"folder:root={root},colors={tmp_path}/colors.csv", root, tmp_path
    )
    assert len(set(np.unique(maps).tolist())) > 1
    assert scored == pytest.approx(accuracy(maps, ids), abs=1e-12)


@pytest.mark.slow
def test_ids_that_no_png_holds_are_refused_before_anything_is_written(
    warm: Warm, tmp_path: Path
) -> None:
    root = write_data(tmp_path / "data")
    rewrite(root, np.array([7, 8, 70_000], np.int32), ".tif")
    (tmp_path / "map.yaml").write_text("classes: {7: ground, 8: disc, 70000: bar}\n")
    dataset = f"folder:root={root},map={tmp_path}/map.yaml"
    assert_succeeded(warm(*TINY, "--dataset", dataset, "--output-dir", "run", cwd=tmp_path))
    done = warm("predict", "run/best", root / "images/validation", cwd=tmp_path)
    assert_refused(
        done,
        "The network's raw label ids go up to 70000, but a PNG can hold only 65535. In Python, "
        "segacc.Segmenter returns classes, and its labels.restore converts them to raw ids.",
    )
    assert not list((tmp_path / "predictions").glob("*"))
