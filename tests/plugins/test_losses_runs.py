"""Losses in real runs: several at once, each logged, and the same however the batch is cut."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tools import Warm, assert_refused, assert_succeeded, metrics, write_data

pytest_plugins = ["cli_fixtures"]

TERMS = {
    "cross_entropy": "cross_entropy",
    "dice": "dice:weight=0.5",
    "jaccard": "jaccard",
    "focal": "focal:gamma=1.5",
    "tversky": "tversky:alpha=0.4,beta=0.6",
    "lovasz": "lovasz:weight=0.5",
    "ohem": "ohem:min_kept=0.1",
    "boundary": "boundary",
}
SETTINGS = (
    *("--arch", "segformer:variant=tiny,drop_path=0,dropout=0", "--weights", "none"),
    *("--freeze-batchnorm", "--crop-size", "64", "--max-steps", "2", "--log-every", "1"),
    *("--num-workers", "0", "--num-pictures", "0", "--lr", "0.01", "--output-dir", "run"),
)


def losses(*names: str) -> list[str]:
    return [part for name in names for part in ("--loss", TERMS.get(name, name))]


def cut(batch: int, accumulation: int) -> list[str]:
    sizes = ("--batch-size", batch, "--gradient-accumulation-steps", accumulation)
    return [*SETTINGS, *map(str, sizes), *losses(*TERMS)]


@pytest.mark.slow
@pytest.mark.launch
def test_all_at_once_are_logged_and_do_not_depend_on_the_cut(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    """One process with 4 images, and two with two micro-batches of one image each."""
    given, found = ("--dataset", f"folder:root={data}"), {}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    assert_succeeded(warm(*cut(4, 1), *given, cwd=tmp_path / "whole"))
    assert_succeeded(warm(*cut(1, 2), *given, cwd=tmp_path / "cut", processes=2))
    for name in ("whole", "cut"):
        rows = metrics(tmp_path / name / "run", "train")
        assert [row["step"] for row in rows] == [1, 2]
        assert all(list(row["losses"]) == list(TERMS) for row in rows)
        for row in rows:
            assert row["loss"] == pytest.approx(sum(row["losses"].values()), rel=1e-6)
        found[name] = np.array([list(row["losses"].values()) for row in rows])
    assert (found["whole"] > 0).all()
    np.testing.assert_allclose(found["cut"][0], found["whole"][0], rtol=1e-5)
    np.testing.assert_allclose(found["cut"][1], found["whole"][1], rtol=1e-3)


def test_a_binary_run(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "two", names=("ground", "shape", "rest"))
    for path in (root / "annotations").rglob("*.png"):
        Image.fromarray(np.minimum(np.array(Image.open(path)), 1)).save(path)
    (root / "classes.txt").write_text("ground\nshape\n")
    given = (*SETTINGS, "--batch-size", "2", "--dataset", f"folder:root={root}")
    terms = ("bce:pos_weight=3", "lovasz")
    assert_succeeded(warm(*given, *losses(*terms), cwd=tmp_path))
    rows = metrics(tmp_path / "run", "train")
    assert all(list(row["losses"]) == ["bce", "lovasz"] for row in rows)
    assert all(0 < value < 5 for row in rows for value in row["losses"].values())


def test_bce_of_three_classes_is_refused(warm: Warm, data: Path, tmp_path: Path) -> None:
    given = (*SETTINGS, "--batch-size", "2", "--dataset", f"folder:root={data}")
    assert_refused(
        warm(*given, "--loss", "bce", cwd=tmp_path),
        "--loss bce: it needs two classes, background and foreground; the data "
        "set has 3: background, disc, bar. Use cross_entropy or focal.",
    )
