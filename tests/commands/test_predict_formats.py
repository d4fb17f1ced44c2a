"""`segacc predict --format`: predictions as annotations that tools open, equal to the PNGs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import segacc
from cli_tools import NAMES, Warm, assert_refused, assert_succeeded
from segacc.labels.annotations.coco import read_coco
from segacc.labels.annotations.draw import draw
from segacc.labels.annotations.labelme import read_labelme
from segacc.labels.annotations.labelstudio import read_labelstudio
from segacc.labels.annotations.shapes import AnnotatedImage

pytest_plugins = ["cli_fixtures"]

VALUES = {name: k for k, name in enumerate(NAMES)}


def photos(data: Path, root: Path) -> Path:
    """Copy images into a folder, and one into a folder inside it, whose name has a space."""
    for name in ("validation0", "validation1", "inner one/validation2"):
        path = root / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((data / "images/validation" / path.name).read_bytes())
    return root / "photos"


def predictions(root: Path) -> dict[str, Any]:
    """Read the PNGs of class indices by stem."""
    found = [path for path in root.rglob("*.png") if "overlay" not in path.name]
    return {path.stem: np.array(Image.open(path)) for path in found}


def assert_same(images: Any, wanted: dict[str, Any]) -> None:
    """Compare the shapes of images with predictions."""
    assert len(images) == len(wanted) == 3
    for image in images:
        label = wanted[Path(image.name).stem]
        assert np.array_equal(draw(image.shapes, image.size, VALUES), label), image.name


def run(warm: Warm, trained: Path, tmp_path: Path, *flags: str) -> dict[str, Any]:
    usual = ("photos", "-r", "--no-overlay", "--tolerance", "0", "--output-dir", "out")
    done = assert_succeeded(warm("predict", trained, *usual, *flags, cwd=tmp_path))
    assert done.stderr.endswith("3 of 3 predictions written to out\n")
    return predictions(tmp_path / "out")


def test_coco(warm: Warm, trained: Path, data: Path, tmp_path: Path) -> None:
    photos(data, tmp_path)
    wanted = run(warm, trained, tmp_path, "--format", "coco")
    assert any(len(np.unique(label)) > 1 for label in wanted.values())  # else nothing is tested
    found = read_coco(tmp_path / "out/coco.json")
    assert found.names == NAMES[1:]
    names = ["validation0.png", "validation1.png", "inner one/validation2.png"]
    assert sorted(one.name for one in found.images) == sorted(names)
    assert_same(found.images, wanted)


def test_labelme(warm: Warm, trained: Path, data: Path, tmp_path: Path) -> None:
    photos(data, tmp_path)
    wanted = run(warm, trained, tmp_path, "--format", "labelme")
    files = sorted((tmp_path / "out").rglob("*.json"))
    found = read_labelme(files)
    for file, image in zip(files, found.images, strict=True):
        picture = file.parent / image.name
        assert picture.resolve().is_relative_to(tmp_path / "photos") and picture.is_file()
    assert_same(found.images, wanted)


def test_label_studio(warm: Warm, trained: Path, data: Path, tmp_path: Path) -> None:
    photos(data, tmp_path)
    wanted = run(warm, trained, tmp_path, "--format", "labelstudio")
    tasks = json.loads((tmp_path / "out/labelstudio.json").read_text())
    urls = sorted(task["data"]["image"] for task in tasks)
    assert urls[0] == "/data/local-files/?d=photos/inner%20one/validation2.png"
    assert all("annotations" not in task for task in tasks)
    for task in tasks:  # as they are after an annotator has accepted them
        task["annotations"] = task.pop("predictions")
    (tmp_path / "accepted.json").write_text(json.dumps(tasks))
    assert_same(read_labelstudio(tmp_path / "accepted.json").images, wanted)
    config = (tmp_path / "out/labelstudio.xml").read_text()
    assert config.count('value="disc"') == config.count('value="bar"') == 2
    assert "background=" in config and 'value="background"' not in config


def test_yolo(warm: Warm, trained: Path, data: Path, tmp_path: Path) -> None:
    photos(data, tmp_path)
    wanted = run(warm, trained, tmp_path, "--format", "yolo")
    names = ["disc", "bar"]
    told = (tmp_path / "out/yolo/data.yaml").read_text()
    assert told == "train: images/train\nnames:\n  0: disc\n  1: bar\n"
    files = list((tmp_path / "out/yolo/labels/train").rglob("*.txt"))
    assert "inner one" in {path.parent.name for path in files} and len(files) == 3
    for path in files:
        label = np.zeros_like(wanted[path.stem])
        for line in path.read_text().splitlines():
            number, *values = line.split()
            corners = np.array(values, float).reshape(-1, 2) * label.shape[::-1]
            rle = coco_mask.frPyObjects([corners.ravel().tolist()], *label.shape)
            label[coco_mask.decode(rle)[..., 0] == 1] = VALUES[names[int(number)]]
        assert np.array_equal(label, wanted[path.stem])


@pytest.mark.parametrize("kind", ["coco", "yolo", "labelme", "labelstudio"])
def test_annotations_are_not_overwritten(
    warm: Warm, trained: Path, data: Path, tmp_path: Path, kind: str
) -> None:
    image, flags = data / "images/validation/validation0.png", ("--format", kind)
    first = segacc.predict(trained, image, output_dir=tmp_path / "predictions", format=kind)
    written = {"coco": "coco.json", "yolo": "yolo", "labelstudio": "labelstudio.json"}
    path = Path("predictions", written.get(kind, ""))
    assert first.annotations == tmp_path / path and first.annotations.exists()
    path = path / "validation0.json" if kind == "labelme" else path
    done = warm("predict", trained, image, *flags, cwd=tmp_path)
    assert_refused(
        done,
        f"--output-dir predictions: {path} exists, and may have been corrected by hand, so it is "
        "not overwritten. Choose another folder, or remove it.",
    )
    assert_succeeded(warm("predict", trained, image, cwd=tmp_path))  # as before


@pytest.mark.parametrize("flag", ["--tolerance", "--shapes", "--image-url"])
def test_settings_of_outlines_need_a_format(warm: Warm, tmp_path: Path, flag: str) -> None:
    value = {"--tolerance": "1", "--shapes": "masks", "--image-url": "https://x/"}[flag]
    assert_refused(
        warm("predict", "model", "photos", flag, value, cwd=tmp_path),
        f"{flag}: only has an effect on outlines; add --format with coco, yolo, labelme or "
        "another format of a tool, or leave it out.",
    )


def test_an_image_that_fails_is_not_in_the_file(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    folder = photos(data, tmp_path)
    (folder / "broken.png").write_bytes(b"no picture")
    done = warm("predict", trained, "photos", "--format", "coco", cwd=tmp_path)
    assert done.returncode == 1 and "2 of 3 predictions written" in done.stderr
    found: list[AnnotatedImage] = list(read_coco(tmp_path / "predictions/coco.json").images)
    assert [one.name for one in found] == ["validation0.png", "validation1.png"]
