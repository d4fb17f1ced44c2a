"""Images that a data set passes over, or reads otherwise than is meant, are told."""

from pathlib import Path

import pytest
from PIL import Image

from cli_tools import TINY, Warm, assert_succeeded, write_data
from segacc.samples import IMAGE_SUFFIXES

pytest_plugins = ["cli_fixtures"]

READ = ", ".join(IMAGE_SUFFIXES)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write a data set of four training and two validation samples."""
    return write_data(tmp_path / "d", counts={"train": 4, "validation": 2})


def told(warm: Warm, root: Path, tmp_path: Path, **options: str) -> tuple[list[str], list[str]]:
    """Return what check-data and the start of a run say."""
    given = ",".join((f"folder:root={root}", *(f"{k}={v}" for k, v in options.items())))
    checked = assert_succeeded(warm("check-data", "--dataset", given, cwd=tmp_path))
    run = ("--dataset", given, "--output-dir", tmp_path / "run", "--overwrite")
    trained = assert_succeeded(warm(*TINY, *run, cwd=tmp_path))
    return checked.stdout.splitlines(), trained.stdout.splitlines()


def test_usual_endings_are_read_and_others_told(warm: Warm, root: Path, tmp_path: Path) -> None:
    images = root / "images" / "train"
    for number, ending in enumerate((".jfif", ".JPE", ".jp2", ".pgm")):
        png = images / f"train{number}.png"
        with Image.open(png) as picture:
            (picture.convert("L") if ending == ".pgm" else picture).save(images / f"x{ending}")
        (images / f"x{ending}").rename(images / f"train{number}{ending}")
        png.unlink()
    (images / "a.heic").write_bytes(b"x")
    (images / "b.CR2").write_bytes(b"x")
    (images / "more" / "yet").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(images / "more" / "yet" / "c.jpg")
    checked, trained = told(warm, root, tmp_path)
    lines = (
        f"2 files are passed over, as {images}/a.heic: images of such endings are not read (1 "
        f".cr2, 1 .heic). Save them as PNG, or in another format that is read: {READ}",
        f"not looked into: 1 folder inside those of the images, as {images}/more/yet, with 1 "
        "image. Move the images up, or name the files in a list",
    )
    for line in lines:
        assert f"warning: {line}" in checked
        assert f"{line}." in trained
    assert any("4 training, 2 validation images" in line for line in trained)


def test_nothing_is_said_of_data_that_is_read_whole(warm: Warm, root: Path, tmp_path: Path) -> None:
    (root / "images" / "train" / "._train0.jpg").write_bytes(b"x")
    (root / "images" / "train" / "Thumbs.db").write_bytes(b"x")
    for lines in told(warm, root, tmp_path):
        assert not any("passed over" in line or "looked into" in line for line in lines)
