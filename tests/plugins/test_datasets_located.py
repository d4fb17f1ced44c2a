"""Where the images of annotations are found: never another image, and never a prediction."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from annotation_tools import (
    SIZE,
    cvat_image,
    cvat_polygon,
    cvat_xml,
    dump,
    labelme_facts,
    shapes,
    studio_task,
)
from check_tools import chosen
from segacc.data.pictures import write_picture
from segacc.data.samples import build_splits
from segacc.errors import DataError
from segacc.hookspecs import DataSplits


def build(spec: str) -> DataSplits:
    """Build a data set as the command line does."""
    return build_splits(chosen(spec))


def said(spec: str, root: Path) -> str:
    """Return the error of a data set, without the folder."""
    with pytest.raises(DataError) as error:
        build(spec)
    return str(error.value).replace(f"{root}/", "").replace(str(root), "ROOT")


def images_of(spec: str, root: Path) -> list[str]:
    """Return the image files of the split train, relative to the folder."""
    samples = build(spec).splits["train"]
    return [Path(str(sample.image)).relative_to(root).as_posix() for sample in samples]  # type: ignore


def paint(root: Path, *names: str) -> None:
    """Write images."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(root / name)


def coco_of(path: Path, *names: str) -> Path:
    """Write a COCO file of images with one polygon each."""
    size = {"height": SIZE[0], "width": SIZE[1]}
    facts: dict[str, Any] = {"images": [], "annotations": []}
    facts["categories"] = [{"id": 1, "name": "disc"}]
    for key, name in enumerate(names):
        facts["images"].append({"id": key, "file_name": name, **size})
        one = {"id": key, "image_id": key, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
        facts["annotations"].append(one)
    return dump(path, facts)


def cvat_of(path: Path, *names: str, **more: str) -> Path:
    """Write a CVAT file of images with one polygon each."""
    inside = cvat_polygon(*shapes(0)[0], 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(cvat_xml([cvat_image(name, inside, **more) for name in names]))
    return path


# ------------------------------------------------------------------------------ names with folders
def test_the_folder_of_coco_s_images_is_the_one_with_their_whole_paths(tmp_path: Path) -> None:
    names = ["A/1.png", "B/1.png", "B/2.png", "B/3.png"]
    paint(tmp_path / "images", *names, "1.png", "C/1.png", "C/2.png", "C/3.png")
    path = tmp_path / "annotations" / "instances_train.json"
    for before, spec in (
        ("", str(tmp_path)),
        ("images/", f"coco:root={tmp_path}"),
        ("images\\", f"coco:annotations={path}"),
        ("/home/me/", str(tmp_path)),
        ("C:\\me\\", f"coco:root={tmp_path},images=images"),
    ):
        coco_of(path, *(f"{before}{name}" for name in names))
        assert images_of(spec, tmp_path / "images") == names
    coco_of(path, "x/2.png", "y/3.png")  # folders of another disk
    (tmp_path / "images/B/3.png").unlink()
    assert images_of(str(tmp_path), tmp_path / "images") == ["C/2.png", "C/3.png"]


def test_a_missing_image_is_not_that_of_another_folder(tmp_path: Path) -> None:
    paint(tmp_path / "images", "1.png", "B/1.png")
    path = cvat_of(tmp_path / "annotations.xml", "A/1.png", "B/1.png")
    data = build(f"cvat:root={path}")
    gone = tmp_path / "images/A/1.png"
    assert data.notes[0] == f"train: 1 of 2 annotated images is missing, such as {gone}"
    assert images_of(f"cvat:root={path}", tmp_path / "images") == ["A/1.png", "B/1.png"]


def test_names_of_video_frames_have_no_ending(tmp_path: Path) -> None:
    paint(
        tmp_path / "images", "frame_000000.PNG", "b/frame.1.png", "c/x.png", "c/x.jpg", "y.jpg.png"
    )
    path = cvat_of(tmp_path / "annotations.xml", "frame_000000", "b/frame.1", "c/x", "y.jpg")
    found = ["frame_000000.PNG", "b/frame.1.png", "c/x", "y.jpg"]  # not one of two; nor y.jpg.png
    assert images_of(f"cvat:root={path}", tmp_path / "images") == found


# ----------------------------------------------------------------------------- an image of two
def test_an_image_of_two_annotations_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "images", "1.png")
    ending = "Give each a file of its own, or keep one of the entries."
    both = f"the images day1/1.png and day2/1.png would both be read from images/1.png. {ending}"
    coco_of(tmp_path / "a.json", "day1/1.png", "day2/1.png")
    assert said(f"coco:root={tmp_path}", tmp_path) == f"a.json: {both}"
    cvat_of(tmp_path / "a.xml", "day1/1.png", "day2/1.png")
    assert said(f"cvat:root={tmp_path}", tmp_path) == f"a.xml: {both}"
    coco_of(tmp_path / "a.json", "1.png", "./1.png")
    assert "1.png and ./1.png would both" in said(f"coco:root={tmp_path}", tmp_path)

    task, other = (studio_task(tmp_path / "images/1.png", 0) for _ in range(2))
    other["data"]["image"] = other["data"]["image"].replace("0a1b2c3d", "ffffffff")
    dump(tmp_path / "tasks.json", [task, other])
    assert said(f"labelstudio:file={tmp_path}/tasks.json", tmp_path).startswith(
        "tasks.json: the images 0a1b2c3d-1.png and ffffffff-1.png would both be read from "
    )
    for name in ("a", "b"):
        dump(tmp_path / f"images/{name}.json", labelme_facts(tmp_path / "images/1.png", 0))
    assert said(f"labelme:root={tmp_path}/images", tmp_path) == (
        "--dataset labelme: images/a.json and images/b.json are both annotations of images/1.png. "
        "Correct the name of the image in one of them, or keep one, with the shapes of both."
    )


# ---------------------------------------------------------------------------------- predictions
@pytest.fixture
def proposals(tmp_path: Path) -> Path:
    """Write photos, and predictions for them as `segacc predict --format` does."""
    paint(tmp_path / "photos", "1.png", "inner/2.png")
    for name in ("1.png", "inner/2.png"):
        path = tmp_path / "proposals" / name
        write_picture(Image.new("L", SIZE[::-1]), path)
        facts = labelme_facts(path, 0) | {"imageData": None}
        up = "../" * (1 + name.count("/"))
        dump(path.with_suffix(".json"), facts | {"imagePath": f"{up}photos/{name}"})
    return tmp_path / "proposals"


def test_predictions_are_not_the_images_of_labelme(proposals: Path, tmp_path: Path) -> None:
    for spec in (str(proposals), f"labelme:root={proposals}"):
        assert said(spec, tmp_path) == (
            "proposals/1.json: its image ../photos/1.png is outside proposals, the folder that is "
            "read. Name the folder of the images, as in labelme:root=proposals,images=photos."
        )
    for root, more in ((proposals, f",images={tmp_path}/photos"), (tmp_path, "")):
        found = build(f"labelme:root={root}{more}").splits["train"]
        wanted = [tmp_path / "photos/1.png", tmp_path / "photos/inner/2.png"]
        assert [Path(str(one.image)).resolve() for one in found] == wanted  # type: ignore
    (tmp_path / "photos").rename(tmp_path / "other")
    assert said(str(proposals), tmp_path).startswith(
        "--dataset labelme: proposals/1.png is a picture that segacc wrote, such as a prediction, "
    )


def test_predictions_are_not_the_images_of_other_tools(proposals: Path, tmp_path: Path) -> None:
    for path in proposals.rglob("*.json"):
        path.unlink()
    path = coco_of(proposals / "coco.json", "1.png", "inner/2.png")
    ending = "Put the image in its place, or name the folder of the images as images=DIR."
    what = "is a picture that segacc wrote, such as a prediction, and not the image of"
    for spec in (str(proposals), f"coco:root={proposals}", f"coco:annotations={path}"):
        assert said(spec, tmp_path) == (
            f"--dataset coco: proposals/1.png {what} proposals/coco.json. {ending}"
        )
    for spec in (f"coco:root={tmp_path}", f"coco:annotations={path},images={tmp_path}/photos"):
        assert images_of(spec, tmp_path) == ["photos/1.png", "photos/inner/2.png"]
    path.unlink()
    dump(proposals / "tasks.json", [studio_task(proposals / "1.png", 0)])
    assert said(str(proposals), tmp_path).startswith(
        f"--dataset labelstudio: proposals/1.png {what}"
    )


def test_a_folder_with_annotations_of_several_tools_is_refused(tmp_path: Path) -> None:
    paint(tmp_path, "1.png", "2.png")
    coco_of(tmp_path / "coco.json", "1.png", "2.png")
    dump(tmp_path / "1.json", labelme_facts(tmp_path / "1.png", 0))
    (tmp_path / "2.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    assert said(str(tmp_path), tmp_path) == (
        "ROOT: it has annotations of several tools: coco, labelme, yolo. Choose with `--dataset "
        "coco:root=ROOT` or `--dataset labelme:root=ROOT` or `--dataset yolo:root=ROOT`."
    )
    assert images_of(f"coco:root={tmp_path}", tmp_path) == ["1.png", "2.png"]
    (tmp_path / "1.json").unlink()
    (tmp_path / "2.txt").write_text("0 0.5 0.5 0.2 0.2\n")  # a box, for detection
    (tmp_path / "gone.xml").symlink_to(tmp_path / "nowhere")
    assert images_of(str(tmp_path), tmp_path) == ["1.png", "2.png"]
    (tmp_path / "coco.json").unlink()
    (tmp_path / "2.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    cvat_of(tmp_path / "a.xml", "1.png")
    dump(tmp_path / "tasks.json", [studio_task(tmp_path / "1.png", 0)])
    assert "several tools: cvat, labelstudio, yolo. Choose" in said(str(tmp_path), tmp_path)


# --------------------------------------------------------------------------- several files of CVAT
def test_files_of_cvat_are_the_splits_that_their_folders_are_named_after(tmp_path: Path) -> None:
    for folder, subset in (("train", {}), ("val", {}), ("job", {"subset": "Test"})):
        paint(tmp_path / folder / "images", "x.png")
        cvat_of(tmp_path / folder / "annotations.xml", "x.png", **subset)
    (tmp_path / "job").rename(tmp_path / "testing")
    wanted = {"train": "train", "validation": "val", "test": "testing"}
    for spec in (str(tmp_path), f"cvat:root={tmp_path}"):
        splits = build(spec).splits
        for split, folder in wanted.items():
            paths = [one.image for one in splits[split]]  # type: ignore
            assert paths == [tmp_path / folder / "images/x.png"]
    cvat_of(tmp_path / "val/annotations.xml", "x.png", subset="Train")
    assert said(str(tmp_path), tmp_path) == (
        "val/annotations.xml: its images of the subset Train are of the split train, as those of "
        "another subset or file. Choose another subset in CVAT."
    )


@pytest.mark.parametrize("names", [("1/annotations.xml", "2/annotations.xml"), ("a.xml", "b.XML")])
def test_several_files_of_cvat_for_a_split_are_refused(
    names: tuple[str, str], tmp_path: Path
) -> None:
    for number, name in enumerate(names):
        cvat_of(tmp_path / name, f"{number}.png")
        paint((tmp_path / name).parent, f"{number}.png")
    first, second = names
    for spec, where in ((str(tmp_path), "ROOT"), (f"cvat:root={tmp_path}", "--dataset cvat")):
        assert said(spec, tmp_path) == (
            f"{where}: {first} and {second} are both files of CVAT for the split train. Name one, "
            f"as in cvat:root={second}; or join them, as in "
            f'mix:sets=["cvat:root={first}","cvat:root={second}"].'
        )
    joined = f'mix:sets=["cvat:root={tmp_path}/{first}","cvat:root={tmp_path}/{second}"]'
    assert len(build(joined).splits["train"]) == 2


@pytest.mark.parametrize("subset", ["../../evil", "/etc", "..", "a\\b"])
def test_a_subset_of_cvat_is_no_path(subset: str, tmp_path: Path) -> None:
    paint(tmp_path / "mine/images", "1.png")
    paint(tmp_path / "evil", "1.png")
    path = cvat_of(tmp_path / "mine/annotations.xml", "1.png", subset=subset)
    assert said(f"cvat:root={path}", tmp_path) == (
        f"mine/annotations.xml: {subset!r} is a path, not the name of a subset. Rename the subset "
        "in CVAT, e.g. as Train or Validation."
    )
