"""What `predict` reads and writes: patterns, palettes, probabilities and areas."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tools import Warm, assert_refused, assert_succeeded, draw
from segacc.commands.demo import shown
from segacc.commands.export.images import files_of
from segacc.commands.predict.files import find_pictures, write_ids
from segacc.errors import OptionError, UnreadableError
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.segmenter import Segmenter
from segacc.hookspecs import Reading
from segacc.labels import LabelMap

pytest_plugins = ["cli_fixtures"]


def test_the_png_shows_the_classes_in_their_colours(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    image = data / "images/validation/validation0.png"
    assert_succeeded(warm("predict", trained, image, "--no-overlay", cwd=tmp_path))
    segmenter = Segmenter.from_pretrained(trained, "cpu")
    prediction, palette = segmenter(image), np.array(segmenter.labels.palette, np.uint8)
    with Image.open(tmp_path / "predictions/validation0.png") as written:
        assert written.mode == "P"
        assert np.array_equal(np.asarray(written), prediction)
        assert np.array_equal(np.asarray(written.convert("RGB")), palette[prediction])


def test_images_above_the_limit_are_refused(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    image = data / "images/validation/validation0.png"
    told = (
        "the image cannot be read: it has 3072 pixels (48x64), and up to 3071 are read. If memory"
    )
    done = warm("predict", trained, image, "--max-pixels", "3071", cwd=tmp_path)
    assert done.returncode == 1 and f"{image}: {told}" in done.stdout + done.stderr
    segmenter = Segmenter.from_pretrained(trained, "cpu", max_pixels=3071)
    with Image.open(image) as picture:
        for form in (image, picture, image.read_bytes()):
            with pytest.raises(UnreadableError, match="up to 3071 are read"):
                segmenter(form)
        segmenter.reading = Reading(max_pixels=3072)
        assert segmenter(image).shape == segmenter(picture).shape == (48, 64)


def test_raw_ids_index_the_palette_and_large_ones_have_none(tmp_path: Path) -> None:
    prediction = np.array([[0, 1], [2, 1]], np.uint8)
    for ids, mode in (((7, 255, 0), "P"), ((7, 300, 0), "I;16")):
        labels = LabelMap(("a", "b", "c"), {raw: k for k, raw in enumerate(ids)})
        path = tmp_path / f"{ids[1]}.png"
        write_ids(labels.restore(prediction), labels, path)
        with Image.open(path) as written:
            assert written.mode == mode
            assert np.asarray(written).tolist() == [[7, ids[1]], [0, ids[1]]]
            if mode == "P":
                shown = np.asarray(written.convert("RGB"))
                assert shown.tolist() == np.array(labels.palette)[prediction].tolist()


def test_probabilities_and_areas_are_those_of_the_prediction(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    images = data / "images" / "validation"
    for dtype, limit in (("uint8", 1 / 255), ("float16", 1e-3)):
        flags = ("--save-probabilities", dtype, "--areas", "--no-overlay", "--output-dir", dtype)
        assert_succeeded(warm("predict", trained, images, *flags, cwd=tmp_path))
        with (tmp_path / dtype / "areas.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["image", "class", "pixels", "share"]
        for picture in sorted(images.iterdir()):
            prediction = np.asarray(Image.open(tmp_path / dtype / picture.name))
            stored = np.load(tmp_path / dtype / f"{picture.stem}_probabilities.npz")
            found, names = stored["probabilities"], stored["classes"].tolist()
            assert names == ["background", "disc", "bar"] and str(found.dtype) == dtype
            assert found.shape == (3, *prediction.shape)
            shares = found / (255 if dtype == "uint8" else 1)
            assert abs(shares.astype(np.float64).sum(0) - 1).max() < 3 * limit
            of_it = np.take_along_axis(found, prediction[None].astype(int), 0)[0]
            assert (of_it == found.max(0)).all()
            mine = {row["class"]: row for row in rows if row["image"] == str(picture)}
            counts = np.bincount(prediction.ravel(), minlength=3)
            assert {k: int(row["pixels"]) for k, row in mine.items()} == {
                name: count for name, count in zip(names, counts.tolist(), strict=True) if count
            }
            assert sum(float(row["share"]) for row in mine.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "text", ["whole", "whole:short_side=40,pad=32", "slide:crop=32", "tta:scales=0.5/1,flip=true"]
)
def test_probabilities_under_every_protocol(trained: Path, data: Path, text: str) -> None:
    segmenter = Segmenter.from_pretrained(trained, "cpu")
    segmenter = segmenter.with_protocol(Protocol.parse(text, "test"))
    path = data / "images/validation/validation1.png"
    found = segmenter.probabilities(path, "float16")
    assert found.shape == (3, 48, 64)
    chosen = np.take_along_axis(found, segmenter(path)[None].astype(int), 0)[0]
    assert (chosen == found.max(0)).all()
    assert abs(found.astype(np.float64).sum(0) - 1).max() < 2e-3


def test_patterns_are_expanded_as_a_shell_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = Image.fromarray(draw((5, 5), (48, 64))[0])
    more = ("._a1.png", "Thumbs.db", "__MACOSX/._a1.png", ".cache/deep/c.png")
    for name in ("a1.png", "a2.png", "b1.png", ".a3.png", "a[1].png", "deep/er/c.png", *more):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "photos" / name, "PNG")

    def names(*given: str) -> list[str]:
        return [str(job.picture) for job in find_pictures(given, Path("out"))[0]]

    assert names("photos/a?.png") == ["photos/a1.png", "photos/a2.png"]
    assert names("photos/*.png")[0] == "photos/a1.png" and len(names("photos/*.png")) == 4
    assert names("photos/a[1].png") == ["photos/a[1].png"], "an existing path is not a pattern"
    assert names("photos/**/c.png") == ["photos/deep/er/c.png"]
    assert names("photos/b*") == ["photos/b1.png"] == names("photos/b1.png", "photos/Thumbs.db")
    assert len(names("photos")) == 4
    with pytest.raises(OptionError, match=r"^photos/Thumbs\.db: no image\.$"):
        names("photos/Thumbs.db")
    assert names("ph*/b1.png", str(tmp_path / "ph*/b1.png")) == ["photos/b1.png"]
    with pytest.raises(OptionError, match=r"^photos/\*\.gif: no file or folder matches this"):
        names("photos/*.gif")


def test_what_is_no_image_file_is_refused(warm: Warm, trained: Path, tmp_path: Path) -> None:
    for given, text in {
        "https://example.com/a.jpg": "https://example.com/a.jpg: a URL; images are read from files "
        "only. Download it first, e.g. with `curl -O https://example.com/a.jpg`, and give the "
        "file.",
        "clip.MP4": "clip.MP4: a video; only images are read. Write its frames to a folder first, "
        "e.g. with `mkdir frames && ffmpeg -i clip.MP4 frames/%06d.png`, and give the folder.",
        "-": "-: images are not read from standard input; give files or folders.",
    }.items():
        assert_refused(warm("predict", trained, given, cwd=tmp_path), text)


def test_predictions_may_be_replaced_and_other_files_may_not(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    """Such as the labels of the images."""
    image, label = (data / f"{kind}/train/train0.png" for kind in ("images", "annotations"))
    for _ in range(2):
        assert_succeeded(warm("predict", trained, image, cwd=tmp_path))
    before = label.read_bytes()
    assert_refused(
        warm("predict", trained, image, "--output-dir", label.parent, cwd=tmp_path),
        f"--output-dir {label.parent}: {label} would be overwritten, and it was not written by "
        "`segacc predict`. Choose another folder, or remove the file.",
    )
    assert label.read_bytes() == before


def test_other_tables_probabilities_and_settings_are_not_replaced(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    image, folder = data / "images/validation/validation0.png", tmp_path / "predictions"
    folder.mkdir()
    for name, *flags in (
        ("areas.csv", "--areas"),
        ("validation0_probabilities.npz", "--save-probabilities", "uint8"),
        ("labelstudio.xml", "--format", "labelstudio"),
    ):
        own = folder / name
        own.write_text("mine")
        done = warm("predict", trained, image, *flags, cwd=tmp_path)
        assert done.returncode == 2 and f"predictions/{name} " in done.stderr, done.stderr
        assert own.read_text() == "mine"
        own.unlink()
    (folder / "validation0_overlay.png").write_text("mine")
    flags = ["--no-overlay", "--areas", "--save-probabilities", "uint8"]
    for _ in range(2):  # its own files are replaced, and a file that it does not write is left
        assert_succeeded(warm("predict", trained, image, *flags, cwd=tmp_path))
    assert (folder / "validation0_overlay.png").read_text() == "mine"


def test_images_that_are_only_read_need_no_other_output_folder(tmp_path: Path) -> None:
    names = ["x.jpg", "x.png", "y.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = files_of([str(tmp_path / "x.*"), str(tmp_path)], tmp_path)
    assert [path.name for path in found] == names


def test_whatever_is_wrong_with_an_image_the_others_are_predicted(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    """Neither read, nor of known channels, nor with a name that its prediction can have."""
    folder = tmp_path / "photos"
    folder.mkdir()
    good = (data / "images/validation/validation0.png").read_bytes()
    (folder / "a.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((8, 8), np.int32)).save(folder / "b.tif")
    (folder / f"{'c' * 250}.png").write_bytes(good)
    (folder / "d.png").write_bytes(good)
    done = warm("predict", trained, folder, cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert f"{folder}/a.png: the image cannot be read: not an image of a known format." in lines
    assert any(one.startswith(f"{folder}/b.tif: the image has 32 bits") for one in lines), lines
    assert any(one.endswith("c.png: its prediction: File name too long.") for one in lines)
    assert lines[-1] == "1 of 4 predictions written to predictions"
    assert (tmp_path / "predictions" / "d_overlay.png").is_file()


def test_a_name_that_is_not_utf_8_is_one_failed_image(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    good = (data / "images/validation/validation0.png").read_bytes()
    (tmp_path / "photos").mkdir()
    for name in (b"bad\xff.png", b"fine.png"):
        (tmp_path / "photos" / os.fsdecode(name)).write_bytes(good)
    for kind, *flags in (("areas", "--areas"), ("tasks", "--format", "labelstudio")):
        done = warm("predict", trained, "photos", *flags, "--output-dir", kind, cwd=tmp_path)
        lines = done.stderr.splitlines()
        assert done.returncode == 1 and lines[-1] == f"1 of 2 predictions written to {kind}"
        assert "name is not UTF-8, so that no table or annotation can name it" in lines[-2]
    with (tmp_path / "areas/areas.csv").open(newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == {"photos/fine.png"}
    assert len(json.loads((tmp_path / "tasks/labelstudio.json").read_text())) == 1


@pytest.mark.parametrize("width", [1, 3])
def test_narrow_files_are_segmented(
    warm: Warm, trained: Path, data: Path, tmp_path: Path, width: int
) -> None:
    with Image.open(data / "images/validation/validation0.png") as picture:
        picture.crop((0, 0, width, 40)).save(tmp_path / "narrow.png")
    flags = ("--save-probabilities", "uint8", "--no-overlay")
    assert_succeeded(warm("predict", trained, "narrow.png", *flags, cwd=tmp_path))
    with Image.open(tmp_path / "predictions/narrow.png") as written:
        classes = np.asarray(written)
    with np.load(tmp_path / "predictions/narrow_probabilities.npz") as file:
        found = file["probabilities"]
    best = np.take_along_axis(found, classes[None].astype(np.int64), 0)[0]
    assert classes.shape == (40, width) and (best == found.max(0)).all()
    assert "seg-error" not in shown(
        Segmenter.from_pretrained(trained, "cpu"), str(tmp_path / "narrow.png")
    )
