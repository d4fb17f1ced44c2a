"""Pictures, compared by their pixels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from segacc.data.pictures import (
    GAP,
    PAPER,
    TILE,
    WRONG,
    Example,
    Pixels,
    colorize,
    draw_examples,
    draw_prediction,
    errors,
    legend,
    overlay,
    read_panels,
)
from segacc.training.tracking.curves import curves, draw_curves
from segacc.training.tracking.metrics import read_metrics

NAMES = ("background", "nucleus", "border")
PALETTE = ((40, 40, 40), (255, 200, 0), (200, 0, 80))


@pytest.fixture
def picture() -> tuple[Pixels, Pixels, Pixels]:
    """Image (24, 32, 3), label and prediction (24, 32); every class, ignored pixels, mistakes."""
    random = np.random.default_rng(0)
    image = random.integers(0, 200, (24, 32, 3), dtype=np.uint8)
    label = random.choice(np.array([0, 1, 2, 255], np.uint8), (24, 32))
    prediction = random.integers(0, 3, (24, 32), dtype=np.uint8)
    return image, label, prediction


def has_color(image: Image.Image, color: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == color).all(axis=2).any())


def test_colorize(picture: tuple[Pixels, Pixels, Pixels]) -> None:
    _, label, _ = picture
    colored = colorize(label, PALETTE)
    for k, color in enumerate(PALETTE):
        assert (colored[label == k] == color).all()
    ignored = colored[label == 255]
    assert (ignored == ignored[:, :1]).all()  # grey
    assert len(np.unique(ignored)) == 2  # of two kinds


def test_overlay_blends(picture: tuple[Pixels, Pixels, Pixels]) -> None:
    image, label, prediction = picture
    assert np.array_equal(overlay(image, prediction, PALETTE, alpha=0), image)
    assert np.array_equal(
        overlay(image, prediction, PALETTE, alpha=1), colorize(prediction, PALETTE)
    )
    half = overlay(image, label, PALETTE, alpha=0.5).astype(int)
    mean = (image.astype(float) + colorize(label, PALETTE)) / 2
    assert abs(half - mean)[label != 255].max() <= 0.5
    assert np.array_equal(half[label == 255], image[label == 255])


def test_errors_are_red_exactly_where_wrong(picture: tuple[Pixels, Pixels, Pixels]) -> None:
    image, label, prediction = picture
    shown = errors(image, label, prediction)
    red = (shown == WRONG).all(axis=2)
    assert np.array_equal(red, (label != prediction) & (label != 255))
    assert (shown[~red] == shown[~red][:, :1]).all()  # all else is grey
    assert np.array_equal(shown[label == 255], colorize(label, PALETTE)[label == 255])


def test_legend_shows_the_used_classes_only() -> None:
    drawn = legend(NAMES, PALETTE, [1, 255], 300)
    assert has_color(drawn, PALETTE[1])
    assert has_color(drawn, (205, 205, 205))
    assert not has_color(drawn, PALETTE[2])
    assert drawn.width == 300


def test_legend_wraps_and_never_runs_over() -> None:
    names = ("a very long name of a class",) * 20
    drawn = legend(names, ((200, 0, 80),) * 20, range(20), 250)
    assert drawn.height > 15 * 20
    assert (np.asarray(drawn)[:, -4:] == PAPER).all()  # nothing is cut at the right edge


def test_legend_shortens_a_name_wider_than_a_row() -> None:
    drawn = legend(("x" * 200,), ((200, 0, 80),), [0], 120)
    pixels = np.asarray(drawn)
    assert pixels.shape[1] == 120
    assert (pixels[:, -4:] == PAPER).all()


def test_prediction_keeps_the_picture_and_adds_a_legend(
    picture: tuple[Pixels, Pixels, Pixels],
) -> None:
    image, _, prediction = picture
    drawn = np.asarray(draw_prediction(image, prediction, NAMES, PALETTE))
    assert np.array_equal(drawn[:24, :32], overlay(image, prediction, PALETTE))
    assert drawn.shape[0] > 24 + 13
    assert drawn.shape[1] == 240


def example(name: str, height: int, width: int) -> Example:
    label = torch.zeros(height, width, dtype=torch.uint8)
    label[: height // 2] = 1
    label[-height // 8 :] = 255
    prediction = torch.zeros_like(label)
    prediction[: height // 4] = 1
    image = torch.full((3, height, width), 90, dtype=torch.uint8)
    return Example(name, image, label, prediction)


def test_panel_of_pictures_of_several_shapes(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "step-1.png"
    examples = [example("wide" * 40, 64, 512), example("small", 16, 16), example("tall", 300, 100)]
    draw_examples(examples, names=NAMES, palette=PALETTE, path=path, title="step 1")
    with Image.open(path) as panel:
        assert panel.width == 4 * 2 * TILE + 5 * GAP
        for color in (WRONG, *PALETTE[:2], (205, 205, 205)):
            assert has_color(panel, color)
        assert not has_color(panel, PALETTE[2])
    assert [file.name for file in path.parent.iterdir()] == ["step-1.png"]


def test_the_tiles_of_a_panel_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "panel.png"
    examples = [example("wide \u00fc", 128, 512), example("\udcff", 200, 150)]
    draw_examples(examples, names=NAMES, palette=PALETTE, path=path, title="step 1")
    for panel, one in zip(read_panels(path), examples, strict=True):
        label, prediction = one.label.numpy(), one.prediction.numpy()
        image = one.image.permute(1, 2, 0).numpy()
        size = label.shape
        wanted = {
            "image": image,
            "truth": colorize(label, PALETTE),
            "prediction": colorize(prediction, PALETTE),
            "error": errors(image, label, prediction),
        }
        assert (panel.id, set(panel.tiles)) == (one.id, set(wanted))
        assert panel.caption.startswith(f"{one.id}: ")
        for name, tile in panel.tiles.items():
            pixels = Image.fromarray(wanted[name]).resize(tile.size, Image.Resampling.NEAREST)
            assert tile.height == TILE or tile.width == 2 * TILE
            assert tile.width / tile.height == pytest.approx(size[1] / size[0], rel=0.01)
            if name != "error":  # whose stripes are drawn at the size of the tile
                known = ~np.isin(np.asarray(pixels), (165, 205)).any(axis=2)
                assert (np.asarray(tile) == np.asarray(pixels))[known].mean() > 0.98, name
    Image.new("RGB", (8, 8)).save(path)
    assert read_panels(path) == []


def test_panel_error_share(tmp_path: Path) -> None:
    path = tmp_path / "panel.png"
    draw_examples([example("a", 256, 256)], names=NAMES, palette=PALETTE, path=path, title="")
    with Image.open(path) as panel:
        red = (np.asarray(panel) == WRONG).all(axis=2)
    assert red.sum() == 64 * 256  # the quarter in which class 1 was missed
    assert np.flatnonzero(red.any(axis=0)).min() == GAP + 3 * (256 + GAP)


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_rows() -> list[dict[str, Any]]:
    train = [
        {"kind": "train", "step": k, "loss": 1 / k, "losses": {"a": 1 / k}, "lr": 1e-3 / k}
        for k in range(1, 40)
    ]
    scores = [
        {
            "kind": "eval",
            "step": k,
            "best": k < 30,
            "mean_iou": 0.5,
            "per_category_iou": {"b": k / 40},
        }
        for k in (10, 20, 30)
    ]
    return [*train, *scores]


def test_curves() -> None:
    figure = curves(run_rows(), best_by="per_category_iou/b")
    loss, lr, scores = figure.axes
    assert (loss.get_ylabel(), lr.get_ylabel()) == ("loss", "learning rate")
    assert scores.get_title() == "best per_category_iou/b 0.5000 at step 20"
    assert [line.get_label() for line in scores.lines[:2]] == ["per_category_iou/b", "mean_iou"]
    assert np.array_equal(scores.lines[-1].get_xdata(), [20])
    figure.draw_without_rendering()
    assert not texts_overlap(figure)


def test_curves_of_both_kinds_of_weights_are_told_apart() -> None:
    rows = [{**row, "weights": "raw", "best": False} for row in run_rows() if row["kind"] == "eval"]
    rows += [{**row, "weights": "ema", "best": True, "mean_iou": 0.6} for row in rows]
    scores = curves([*run_rows()[:39], *rows], best_by="mean_iou").axes[2]
    lines = {line.get_label(): line for line in scores.lines[:2]}
    assert list(lines) == ["mean_iou", "mean_iou (EMA)"]
    assert list(lines["mean_iou"].get_ydata()) == [0.5] * 3
    assert list(lines["mean_iou (EMA)"].get_ydata()) == [0.6] * 3
    assert len({line.get_linestyle() for line in lines.values()}) == 2
    assert scores.get_title() == "best mean_iou 0.6000 at step 30"


def test_the_validation_loss_is_drawn_with_that_of_training() -> None:
    rows = run_rows()
    found = [{**row, "val_loss": 2.5} if row["kind"] == "eval" else row for row in rows]
    loss = curves(found, best_by="mean_iou").axes[0]
    assert [line.get_label() for line in loss.lines][-1] == "val_loss"
    assert list(loss.lines[-1].get_ydata()) == [2.5] * 3
    null = [{**row, "val_loss": None} if row["kind"] == "eval" else row for row in rows]
    assert "val_loss" not in {line.get_label() for line in curves(null, best_by="b").axes[0].lines}


def test_curves_are_written(tmp_path: Path) -> None:
    write_metrics(tmp_path / "metrics.jsonl", run_rows())
    path = tmp_path / "pictures" / "curves.png"
    draw_curves(tmp_path / "metrics.jsonl", path)
    with Image.open(path) as drawn:
        assert drawn.width > 1000
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]


def texts_overlap(figure: Figure) -> bool:
    """Compare the boxes of all titles, axis names and legends."""
    texts = [t for a in figure.axes for t in (a.title, a.xaxis.label, a.yaxis.label)]
    for axes in figure.axes:
        legends = axes.get_legend()
        texts += legends.get_texts() if legends else []
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    return any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("rows", [[], run_rows()[:1], [{**run_rows()[-1], "mean_iou": None}]])
def test_curves_of_a_run_that_hardly_began(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_metrics(tmp_path / "metrics.jsonl", rows)
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_a_half_written_last_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
