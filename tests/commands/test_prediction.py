"""`predict`: what transformers predicts, at the picture's size, in raw ids, and nothing is lost."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli_tools import (
    ROOT,
    Warm,
    assert_refused,
    assert_succeeded,
    draw,
    write_data,
)
from segacc.data.samples import IMAGE_SUFFIXES

pytest_plugins = ["cli_fixtures"]

VOC = ROOT.parent / "shared" / "data" / "deeplabv3_mobilenet_v2_voc"


def map_of(path: Path) -> Any:
    """Read a PNG of ids (H, W)."""
    return np.asarray(Image.open(path))


def as_transformers(model: Path, image: Path) -> Any:
    """Segment with transformers' own pipeline: class ids (H, W)."""
    from transformers import pipeline

    segment = pipeline("image-segmentation", model=str(model), device="cpu")
    ids = segment.model.config.label2id
    found = segment(str(image), subtask="semantic")
    map_ = np.full(found[0]["mask"].size[::-1], 255, np.uint8)
    for part in found:
        map_[np.asarray(part["mask"]) > 0] = ids[part["label"]]
    return map_


def test_predictions_are_those_of_transformers_pixel_for_pixel(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, size in enumerate([(48, 64), (61, 83), (130, 97)]):
        Image.fromarray(draw((9, number), size)[0]).save(pictures / f"{number}.png")
    assert_succeeded(warm("predict", trained / "best", pictures, cwd=tmp_path))
    seen = set()
    for picture in sorted(pictures.iterdir()):
        ours = map_of(tmp_path / "predictions" / picture.name)
        assert np.array_equal(ours, as_transformers(trained / "best", picture))
        seen |= set(np.unique(ours).tolist())
    assert len(seen) > 1


@pytest.mark.skipif(not VOC.is_dir(), reason="needs ../shared/data/deeplabv3_mobilenet_v2_voc")
def test_any_transformers_folder_is_scored_and_predicts_as_transformers_does(
    warm: Warm, tmp_path: Path
) -> None:
    config = json.loads((VOC / "config.json").read_text())
    names = [config["id2label"][str(k)] for k in range(len(config["id2label"]))]
    model = shutil.copytree(VOC, tmp_path / "voc")
    root = write_data(tmp_path / "data", counts={"validation": 2}, names=names, size=(240, 320))
    given = ("--dataset", f"folder:root={root}", "--num-workers", "0")
    assert_succeeded(warm("evaluate", model, *given, cwd=tmp_path))
    found = json.loads((model / "evaluation/evaluation.json").read_text())
    assert found["protocol"] == "whole:short_side=513"
    assert set(found["scores"]["per_category_iou"]) == set(names)
    images = root / "images" / "validation"
    assert_succeeded(warm("predict", model, images, "--output-dir", "maps", cwd=tmp_path))
    for image in images.iterdir():
        ours = map_of(tmp_path / "maps" / image.name)
        assert (ours == as_transformers(model, image)).mean() >= 0.999


def test_pictures_of_any_kind_are_segmented_at_their_size(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    pixels = draw((5, 5), (48, 64))[0]
    picture = Image.fromarray(pixels)
    folder = tmp_path / "folder"
    folder.mkdir()
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by 90 degrees
    picture.save(folder / "turned.jpg", exif=exif, quality=95)
    picture.save(folder / "plain.JPG", quality=95)
    picture.convert("L").save(folder / "grey.png")
    picture.convert("RGBA").save(folder / "alpha.png")
    picture.convert("P").save(folder / "palette.gif")
    picture.save(folder / "scan.tiff")
    (folder / "notes.txt").write_text("not a picture")
    picture.resize((40, 32)).save(tmp_path / "single [1].png")
    given = ("folder", "single [1].png", folder / "scan.tiff", "--output-dir", "out")
    done = assert_succeeded(warm("predict", trained / "best", *given, cwd=tmp_path))
    assert done.stderr == "7 of 7 predictions written to out\n"
    sizes = {
        path.name: (Image.open(path).size, Image.open(path).mode)
        for path in (tmp_path / "out").iterdir()
        if "_overlay" not in path.name
    }
    assert sizes == {
        "turned.png": ((48, 64), "P"),
        "plain.png": ((64, 48), "P"),
        "grey.png": ((64, 48), "P"),
        "alpha.png": ((64, 48), "P"),
        "palette.png": ((64, 48), "P"),
        "scan.png": ((64, 48), "P"),
        "single [1].png": ((40, 32), "P"),
    }
    scan, alpha = (map_of(tmp_path / "out" / f"{name}.png") for name in ("scan", "alpha"))
    assert np.array_equal(scan, alpha), "an opaque alpha channel changes nothing"
    overlay = np.asarray(Image.open(tmp_path / "out" / "scan_overlay.png"))
    assert overlay.shape[0] > 48 and overlay.shape[1] == 240, "a legend stands below"
    assert overlay.shape[2] == 3


def test_every_ending_that_is_listed_is_read_and_others_are_told(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    picture = Image.fromarray(draw((5, 5), (48, 64))[0])
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, ending in enumerate(IMAGE_SUFFIXES):
        one = picture.convert("1") if ending == ".pbm" else picture
        one.save(folder / f"p{place}{ending.upper() if place % 2 else ending}")
    (folder / "._p0.jpg").write_bytes(b"what macOS leaves")
    for name in ("a.heic", "b.HEIC", "c.dng", "notes.txt"):
        (folder / name).write_bytes(b"x")
    done = assert_succeeded(warm("predict", trained / "best", "photos", cwd=tmp_path))
    assert done.stderr.splitlines() == [
        "3 files are skipped, such as photos/a.heic: images with these endings are not read (1 "
        ".dng, 2 .heic). Save them as PNG or in another supported format: "
        f"{', '.join(IMAGE_SUFFIXES)}.",
        f"{len(IMAGE_SUFFIXES)} of {len(IMAGE_SUFFIXES)} predictions written to predictions",
    ]


def test_folders_inside_are_told_or_taken(warm: Warm, trained: Path, tmp_path: Path) -> None:
    picture = Image.fromarray(draw((5, 5), (48, 64))[0])
    for name in ("top", "day1/a", "day1/b", "day2/deep/a", ".hidden/a", "out/old"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "photos" / f"{name}.png")
    best, given = trained / "best", ("photos", "--output-dir", "photos/out", "--no-overlay")
    done = assert_succeeded(warm("predict", best, *given, cwd=tmp_path))
    assert done.stderr.splitlines() == [
        "photos: skipped 2 subfolders with 3 images, such as photos/day1; add --recursive to "
        "include them.",
        "1 of 1 predictions written to photos/out",
    ]
    for flag in ("-r", "--recursive"):
        shutil.rmtree(tmp_path / "photos" / "out")
        done = assert_succeeded(warm("predict", best, *given, flag, cwd=tmp_path))
        assert done.stderr == "4 of 4 predictions written to photos/out\n"
        out = tmp_path / "photos" / "out"
        found = {str(path.relative_to(out)) for path in out.rglob("*.png")}
        assert found == {"top.png", "day1/a.png", "day1/b.png", "day2/deep/a.png"}


def test_no_overlay_writes_none(warm: Warm, trained: Path, data: Path, tmp_path: Path) -> None:
    image = data / "images" / "train" / "train0.png"
    assert_succeeded(warm("predict", trained / "best", image, "--no-overlay", cwd=tmp_path))
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["train0.png"]


def test_an_unreadable_picture_is_named_and_the_rest_goes_on(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "images" / "train", tmp_path / "pictures")
    (tmp_path / "pictures" / "train1.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "pictures" / "train2.png").write_bytes(
        (data / "images" / "train" / "train2.png").read_bytes()[:2000]
    )
    done = warm("predict", trained / "best", "pictures", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[0] == (
        "pictures/train1.png: the image cannot be read: not an image of a known format."
    )
    assert lines[1].startswith("pictures/train2.png: the image cannot be read: ")
    assert lines[2:] == ["2 of 4 predictions written to predictions"]
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        *("train0.png", "train0_overlay.png", "train3.png", "train3_overlay.png")
    ]


@pytest.mark.slow
def test_a_picture_below_the_least_size_is_padded(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    for name, size in {"small": (20, 30), "usual": (48, 64)}.items():
        Image.fromarray(draw((1, 1), size)[0]).save(tmp_path / f"{name}.png")
    best, given = trained / "best", ("small.png", "usual.png")
    for protocol in ("whole", "whole:pad=1", "whole:size=48x64", "slide:crop=32"):
        assert_succeeded(warm("predict", best, *given, "--protocol", protocol, cwd=tmp_path))
        assert map_of(tmp_path / "predictions" / "small.png").shape == (20, 30)
    done = warm("predict", best, *given, "--protocol", "slide:crop=16", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == (
        "small.png: --protocol slide:crop=16,stride=11: the network supports only images of at "
        "least "
        "29 pixels per side, but a window is 16x16. Use --protocol slide:crop=29,stride=19, which "
        "uses sliding windows."
    )
    assert done.stderr.splitlines()[-1] == "0 of 2 predictions written to predictions"


def test_pictures_that_would_be_lost_are_refused(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    images, best = data / "images", trained / "best"
    shutil.copytree(images / "train", tmp_path / "a")
    Image.open(tmp_path / "a" / "train0.png").save(tmp_path / "a" / "train0.jpg")
    Image.open(tmp_path / "a" / "train0.png").save(tmp_path / "train0_overlay.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.heic").write_bytes(b"x")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    for given, text in {
        ("a",): "a/train0.jpg and a/train0.png would both be written as train0.png; use a "
        "different --output-dir for each.",
        ("a/train1.png", "--output-dir", "a"): "--output-dir a: a/train1.png would be "
        "overwritten; choose another folder.",
        ("a/train0.png", "train0_overlay.png", "--output-dir", "."): "--output-dir .: "
        "train0_overlay.png would be overwritten; choose another folder.",
        ("a/train0.png", "train0_overlay.png"): "a/train0.png and train0_overlay.png would both "
        "be written as train0_overlay.png; use a different --output-dir for each.",
        ("nope.png",): "nope.png: no such file or folder.",
        ("empty",): f"empty: no image in this folder; looked for {', '.join(IMAGE_SUFFIXES)}. "
        "1 file is skipped, such as empty/a.heic: images with these endings are not read (1 "
        ".heic). Save them as PNG or in another supported format: "
        f"{', '.join(IMAGE_SUFFIXES)}.",
        (str(data / "images"),): f"{data}/images: no image in this folder; looked for "
        f"{', '.join(IMAGE_SUFFIXES)}. {data}/images: skipped 2 subfolders with 7 images, such as "
        f"{data}/images/train; add --recursive to include them.",
        ("a/train1.png", "--output-dir", "a/train2.png"): "--output-dir: cannot create "
        "a/train2.png: a/train2.png is a file.",
    }.items():
        assert_refused(warm("predict", best, *given, cwd=tmp_path), text)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_a_terminal_shows_a_progress_bar(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    images = data / "images" / "train"
    done = warm.on_terminal("predict", trained / "best", images, cwd=tmp_path)
    assert done.returncode == 0
    assert "━" in done.stderr and "4/4" in done.stderr and "train3.png" in done.stderr
    assert done.stderr.rstrip().endswith("4 of 4 predictions written to predictions")
