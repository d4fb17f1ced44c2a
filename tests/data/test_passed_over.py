"""Images that a data set passes over, or reads otherwise than is meant, are told."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tools import TINY, Warm, assert_refused, assert_succeeded, write_data
from segacc.data.samples import IMAGE_SUFFIXES, lost_samples
from segacc.hookspecs import Stream
from segacc.plugins.datasets.shard_files import LostSamples, ShardReader
from stream_tools import write_tar

pytest_plugins = ["cli_fixtures"]

READ = ", ".join(IMAGE_SUFFIXES)
ENDS = ("jpg", "png")


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
        f"2 files are skipped, such as {images}/a.heic: images with these endings are not read (1 "
        f".cr2, 1 .heic). Save them as PNG or in another supported format: {READ}",
        f"skipped: 1 subfolder of the image folders, such as {images}/more/yet, with 1 "
        "image. Move the images up, or list the files in a text file",
    )
    for line in lines:
        assert f"warning: {line}" in checked
        assert f"{line}." in trained
    assert any("4 training, 2 validation images" in line for line in trained)


@pytest.mark.slow
def test_nothing_is_said_of_data_that_is_read_whole(warm: Warm, root: Path, tmp_path: Path) -> None:
    (root / "images" / "train" / "._train0.jpg").write_bytes(b"x")
    (root / "images" / "train" / "Thumbs.db").write_bytes(b"x")
    for lines in told(warm, root, tmp_path):
        assert not any("skipped" in line for line in lines)


def turn(root: Path, orientation: int, size: tuple[int, int] | None = None) -> None:
    """Write the images as JPEG whose EXIF turns them; `size` is that of image and label."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for png in sorted((root / "images").rglob("*.png")):
        label = root / "annotations" / png.relative_to(root / "images")
        with Image.open(png) as picture, Image.open(label) as ids:
            box = (0, 0, *(size or picture.size))
            picture.crop(box).save(png.with_suffix(".jpg"), exif=exif, quality=95)
            ids.crop(box).save(label)
        png.unlink()


@pytest.mark.slow
def test_labels_of_stored_images_are_refused_until_it_is_said(
    warm: Warm, root: Path, tmp_path: Path
) -> None:
    turn(root, 6)
    label, image = (root / kind / "train" / f"train0.{end}" for kind, end in KINDS)
    text = (
        f"the label is 48x64 pixels (height x width), but {image} is read as 64x48: its EXIF turns "
        "it from 48x64 to 64x48. Add exif=stored to the options of the data set{now}, as in "
        "folder:root=DIR,exif=stored, if its labels are drawn on images as they are stored, or "
        "exif=upright if they are drawn on images as they are shown; a label of the other kind "
        "must be exported again."
    )
    for options, now in {"": "", ",exif=upright": ", which says exif=upright now"}.items():
        given = ("--dataset", f"folder:root={root}{options}")
        refused = warm(*TINY, *given, "--output-dir", "no", cwd=tmp_path)
        skip = "To skip up to N such files, add --skip-unreadable N."
        assert_refused(refused, f"{label}: {text.format(now=now)} {skip}")
        checked = warm("check-data", *given, cwd=tmp_path)
        assert checked.returncode == 1
        assert text.format(now=now).rstrip(".") in checked.stdout
    for lines in told(warm, root, tmp_path, exif="stored"):
        assert not any("EXIF" in line for line in lines)


KINDS = (("annotations", "png"), ("images", "jpg"))


@pytest.mark.slow
@pytest.mark.parametrize(("orientation", "size"), [(3, None), (6, (48, 48))])
def test_turns_that_sizes_do_not_tell_are_counted(
    warm: Warm, root: Path, tmp_path: Path, orientation: int, size: tuple[int, int] | None
) -> None:
    turn(root, orientation, size)
    line = (
        "train: of 4 images checked, 4 are rotated by EXIF, and their sizes do not show whether "
        "the labels are too. Add exif=upright to the options of the data set if labels match "
        "the rotated images (assumed), or exif=stored if they match the images as stored"
    )
    checked, trained = told(warm, root, tmp_path)
    assert f"warning: {line}" in checked and f"{line}." in trained
    for lines in told(warm, root, tmp_path, exif="upright"):
        assert not any("EXIF" in line for line in lines)


@pytest.mark.slow
def test_twelve_bits_of_sixteen_are_told_and_read(warm: Warm, root: Path, tmp_path: Path) -> None:
    for png in sorted((root / "images").rglob("*.png")):
        with Image.open(png) as picture:
            grey = np.asarray(picture.convert("L"))
        Image.fromarray(grey.astype(np.uint16) << 4).save(png)
    most = max(
        int(np.asarray(Image.open(png)).max()) for png in (root / "images" / "train").iterdir()
    )
    assert 1024 <= most < 4096
    line = (
        "train: 4 images with 16 bits checked, and no value is above 4095: only the upper 8 of 16 "
        "bits are kept, which leaves 16 of 256 levels. Add bits=12 to the options of the data set "
        "if its values go from 0 to 4095, as in folder:root=DIR,bits=12"
    )
    checked, trained = told(warm, root, tmp_path)
    assert f"warning: {line}" in checked and f"{line}." in trained
    for lines in told(warm, root, tmp_path, bits="12"):
        assert not any("16 bits" in line for line in lines)
    best = tmp_path / "run" / "best"
    png = root / "images" / "train" / "train0.png"
    with Image.open(png) as picture:
        Image.fromarray((np.asarray(picture) >> 4).astype(np.uint8)).save(tmp_path / "eight.png")
    assert_succeeded(warm("predict", best, png, "eight.png", "--no-overlay", cwd=tmp_path))
    found = [(tmp_path / "predictions" / f"{n}.png").read_bytes() for n in ("train0", "eight")]
    assert found[0] == found[1], "the folder knows how many bits its images use"


def with_dots(root: Path, names: list[str]) -> Path:
    """Write a tar of samples of such names, and class names beside it."""
    members = {}
    for number, name in enumerate(names):
        for kind, ending in (("images", "jpg"), ("annotations", "png")):
            file = root / kind / "train" / f"train{number % 4}.png"
            members[f"{name}.{ending}"] = file.read_bytes()
    return write_tar(root / "train.tar", members)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "fields", "lost", "first"),
    [
        (["a_1.5m", "b_1.5m", "c_2.0m", "d_2.0m", "e_2.5m", "f_2.5m"], "", 2, "c_2.0m.jpg"),
        (["img", "img.v1", "img.v2", "b"], "image=jpg,label=png,", 2, "img.v1.jpg"),
        (["t_1.0", "t_1.1", "t_1.2", "t_1.3"], "image=0.jpg,label=0.png,", 3, "t_1.1.jpg"),
        (["a", "b", "c", "d"], "", 0, ""),
    ],
)
def test_samples_that_dots_lose_are_counted(
    warm: Warm, root: Path, tmp_path: Path, names: list[str], fields: str, lost: int, first: str
) -> None:
    tar = with_dots(root, names)
    given = f"shards:{fields}train={tar},validation={tar}"
    checked = assert_succeeded(warm("check-data", "--dataset", given, cwd=tmp_path))
    trained = assert_succeeded(
        warm(*TINY, "--dataset", given, "--output-dir", tmp_path / "run", cwd=tmp_path)
    )
    for split in ("train", "validation"):
        line = (
            f"{split}: {lost} samples lost in 1 shard checked, such as {first} in {tar}: the key "
            "of a sample ends at the first dot of the file name, and the rest of this name is not "
            "a known extension. Rewrite the tars without other dots in the names"
        )
        assert (f"warning: {line}" in checked.stdout.splitlines()) == bool(lost)
        assert (f"{line}." in trained.stdout.splitlines()) == bool(lost)
    assert ("lost" in checked.stdout) == ("lost" in trained.stdout) == bool(lost)


def test_files_with_dots_beside_a_sample_are_no_samples() -> None:
    lost = LostSamples("jpg", "seg.png")
    assert lost.of(["jpg", "seg.png", "depth.png", "thumb.jpg", "json"]) == []
    assert lost.of(["v1.jpg", "v1.seg.png"]) == ["v1.jpg"]
    assert lost.of(["json", "txt"]) == []
    assert lost.of(["webp", "json"]) == ["webp"]


def test_more_than_the_first_shard_is_checked_while_there_is_time(tmp_path: Path) -> None:
    names = {"a": ("x", "y"), "b": ("x", "y_1.5")}
    shards = [
        write_tar(tmp_path / f"{tar}.tar", {f"{key}.{end}": b"" for key in keys for end in ENDS})
        for tar, keys in names.items()
    ]
    paths = tuple(map(str, shards))
    stream = Stream(shards=paths, read=ShardReader(*ENDS), lost=LostSamples(*ENDS))
    (line,) = lost_samples("train", stream)
    assert line.startswith(
        f"train: 1 sample lost in 2 shards checked, such as y_1.5.jpg in {shards[1]}: "
    )
    assert lost_samples("train", stream, seconds=0) == []


def test_samples_taken_for_one_are_told_where_nothing_can_be_read(
    warm: Warm, root: Path, tmp_path: Path
) -> None:
    tar = with_dots(root, ["t_1.0", "t_1.1"])
    refused = warm("check-data", "--dataset", f"shards:train={tar}", cwd=tmp_path)
    assert_refused(
        refused,
        f"--dataset shards: {tar} contains 0.jpg, 0.png, 1.jpg, 1.png; image and label are "
        "ambiguous. Specify both, e.g. image=jpg,label=seg.png. If these are several samples, "
        "rename their files: the key of a sample ends at the first dot of the name, so there "
        "must be no other dot.",
    )
