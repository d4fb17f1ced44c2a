"""Faulty annotation files are refused: the annotation, its image, and what is wrong."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotation_tools import (
    coco_facts,
    cvat_image,
    cvat_polygon,
    cvat_xml,
    dump,
    labelme_facts,
    picture,
    png,
    rle,
    studio_task,
)
from segacc.data.codecs import picture_size
from segacc.errors import DataError
from segacc.labels.annotations.coco import read_coco
from segacc.labels.annotations.cvat import read_cvat
from segacc.labels.annotations.draw import draw
from segacc.labels.annotations.labelme import read_labelme
from segacc.labels.annotations.labelstudio import read_labelstudio
from segacc.labels.annotations.yolo import read_yolo

SQUARE = [(10, 10), (20, 10), (20, 20), (10, 20)]


def said(read: Callable[[], Any], root: Path) -> str:
    """Return the error, without the folder."""
    with pytest.raises(DataError) as error:
        read()
    return str(error.value).replace(f"{root}/", "")


# ------------------------------------------------------------------------------------------- COCO
def change(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Change the first annotation."""
    return lambda facts: facts["annotations"][0].update(values)


def twice(part: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    """Repeat the first entry of a list with other values."""
    return lambda facts: facts[part].append({**facts[part][0], **values})


BOX = {"segmentation": [], "bbox": [1, 2, 3, 4]}
FIRST = "a.json: annotation 7 (image train0.png): "
COCO: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "two corners": (
        change(segmentation=[[1, 2, 3, 4]]),
        f"{FIRST}its polygon has 2 corners; at least 3 enclose an area.",
    ),
    "an odd number": (
        change(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
        f"{FIRST}its corners are 7 numbers; expected pairs of x and y.",
    ),
    "no numbers": (
        change(segmentation=[[1, 2, 3, 4, 5, "x"]]),
        f"{FIRST}its corners are not all pairs of numbers.",
    ),
    "not finite": (
        change(segmentation=[[1, 2, 3, 4, 5, float("nan")]]),
        f"{FIRST}its corners are not all finite numbers.",
    ),
    "outside": (
        change(segmentation=[[100, 2, 130, 4, 130, 60]]),
        f"{FIRST}it extends over x 100 to 130 and y 2 to 60, outside its image of 48x64 pixels "
        "(height x width); perhaps the image was resized after it was annotated.",
    ),
    "a category in a gap": (
        change(category_id=4),
        f"{FIRST}its category_id is 4, which no category has (3 disc, 18 bar).",
    ),
    "a missing category": (
        change(category_id=None),
        f'{FIRST}its "category_id" is null; expected a whole number.',
    ),
    "an unknown image": (
        change(image_id=5),
        "a.json: annotation 7: its image_id is 5, which no image of the file has.",
    ),
    "an RLE of another size": (
        change(segmentation={"size": [64, 48], "counts": "abc"}),
        f"{FIRST}its RLE has the size [64, 48], its image [48, 64] (height, width).",
    ),
    "counts that do not fill": (
        change(segmentation={"size": [48, 64], "counts": [10, 20]}),
        f"{FIRST}the counts of its RLE add up to 30; expected 3072.",
    ),
    "counts of another type": (
        change(segmentation={"size": [48, 64], "counts": [-10, 20]}),
        f'{FIRST}the "counts" of its RLE are neither a text nor whole numbers.',
    ),
    "no outline and no box": (
        change(segmentation=[], bbox=[]),
        f"{FIRST}it has neither a segmentation nor a box.",
    ),
    "several": (
        lambda facts: [one.update(segmentation=[[1, 2]]) for one in facts["annotations"]],
        f"{FIRST}its polygon has 1 corner; at least 3 enclose an area. 3 more: annotation 8 "
        "(image train0.png), annotation 9 (image train1.png), annotation 10 (image train1.png).",
    ),
    "two categories of one name": (
        twice("categories", id=9),
        "a.json: the categories name disc twice. Give each category a name of its own, or merge "
        "them in the file.",
    ),
    "two categories of one id": (
        twice("categories", name="dot"),
        'a.json: category 3 of the list: its id 3 is also that of "disc".',
    ),
    "an image named twice": (
        twice("images", id=9),
        "a.json: the images list train0.png twice. Keep one of the entries, with the annotations "
        "of both.",
    ),
    "two images of one id": (
        twice("images", file_name="b.png"),
        "a.json: image 3 of the list: its id 100 is also that of train0.png.",
    ),
    "an image without a size": (
        lambda facts: facts["images"][1].pop("width"),
        'a.json: image 2 of the list: it has no "width".',
    ),
    "a size of nothing": (
        lambda facts: facts["images"][1].update(width=0),
        "a.json: image 2 of the list: its size is 48x0 (height x width); expected pixels.",
    ),
    "boxes only": (
        lambda facts: [one.update(BOX) for one in facts["annotations"]],
        "a.json: its annotations are boxes without outlines, which are for detection: none of the "
        "4 has a segmentation. Export polygons or masks.",
    ),
    "results": (
        lambda facts: facts.pop("categories"),
        "a.json: not a COCO file of annotations: it has the keys images, annotations; expected "
        'lists "images", "annotations" and "categories".',
    ),
    "panoptic labels": (
        change(segments_info=[]),
        "a.json: this is COCO's panoptic format, whose labels are PNG files. Export instances "
        "(polygons or RLE), or convert the PNG files to class ids and use --dataset folder.",
    ),
}


@pytest.mark.parametrize(("spoil", "text"), COCO.values(), ids=COCO)
def test_a_faulty_coco_file_is_refused(
    spoil: Callable[[dict[str, Any]], Any], text: str, tmp_path: Path
) -> None:
    facts = coco_facts(tmp_path, 2)
    spoil(facts)
    path = dump(tmp_path / "a.json", facts)
    assert said(lambda: read_coco(path), tmp_path) == text


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{]")
    text = "a.json: the COCO file is not valid JSON: Expecting property name enclosed in double"
    assert said(lambda: read_coco(path), tmp_path).startswith(text)
    missing = said(lambda: read_coco(tmp_path / "b.json"), tmp_path)
    assert missing == "b.json: the COCO file cannot be read: No such file or directory."


def test_a_crowd_and_a_box_are_ignored_and_a_supercategory_is_left_out(tmp_path: Path) -> None:
    facts = coco_facts(tmp_path, 1)
    top = {"id": 0, "name": "things", "supercategory": "none"}
    facts["categories"] = [
        top,
        *({**one, "supercategory": "things"} for one in facts["categories"]),
    ]
    crowd = np.zeros((48, 64))
    crowd[:, 60:] = 1
    facts["annotations"][0] |= {"iscrowd": 1, "segmentation": rle(crowd, 1)}
    facts["annotations"][1] |= {"segmentation": [], "bbox": [2, 3, 4, 5]}
    square = [part for corner in SQUARE for part in corner]
    facts["annotations"].append({**facts["annotations"][1], "id": 99, "segmentation": [square]})
    path = dump(tmp_path / "a.json", facts)
    found = read_coco(path)
    assert found.names == ("disc", "bar")
    box = "1 annotation has a box and no outline: the pixels of the box are ignored"
    assert found.notes == (f"{path}: {box}",)
    expected = np.zeros((48, 64))
    expected[:, 60:] = expected[3:8, 2:6] = 255
    expected[10:20, 10:20] = 2
    label = draw(found.images[0].shapes, (48, 64), {"disc": 1, "bar": 2})
    np.testing.assert_array_equal(label, expected)


def test_an_unused_category_that_is_its_own_supercategory_is_a_class(tmp_path: Path) -> None:
    facts = coco_facts(tmp_path, 1)
    facts["categories"].append({"id": 20, "name": "person", "supercategory": "person"})
    found = read_coco(dump(tmp_path / "a.json", facts))
    assert found.names == ("disc", "bar", "person")


# ------------------------------------------------------------------------------------------- YOLO
YOLO = {
    "0 0.5 0.5 0.2 0.2": (
        "five numbers are a box, which is a label for detection, not for segmentation. Export "
        "polygons (YOLO segmentation) from your annotation tool"
    ),
    "2 0.1 0.1 0.5 0.1 0.5 0.5": (
        "its class is 2; expected an index from 0 to 1 into the 2 class names"
    ),
    "-1 0.1 0.1 0.5 0.1 0.5 0.5": (
        "its class is -1; expected an index from 0 to 1 into the 2 class names"
    ),
    "0 10 10 50 10 50 40": (
        "its coordinates go from 10 to 50; expected fractions of the image's width and height, "
        "from 0 to 1"
    ),
    "0 0.1 0.1 0.5 0.1 0.5": "its corners are 5 numbers; expected pairs of x and y",
    "0 0.1 0.1": "its polygon has 1 corner; at least 3 enclose an area",
    "nan 0.1 0.1 0.5 0.1 0.5 0.5": (
        "its class is nan; expected an index from 0 to 1 into the 2 class names"
    ),
    "inf 0.1 0.1 0.5 0.1 0.5 0.5": (
        "its class is inf; expected an index from 0 to 1 into the 2 class names"
    ),
    "disc 0.1 0.1 0.5 0.1": "'disc 0.1 0.1 0.5 0.1': expected numbers, `class x y x y ...`",
}


@pytest.mark.parametrize(("line", "text"), YOLO.items(), ids=YOLO)
def test_a_faulty_line_of_yolo_is_refused(line: str, text: str, tmp_path: Path) -> None:
    path = picture(tmp_path, 0)
    path.with_suffix(".txt").write_text(f"0 0.1 0.1 0.5 0.1 0.5 0.5\n{line}\n")
    images = read_yolo([path], ["disc", "bar"], picture_size).images
    assert said(lambda: images[0], tmp_path) == f"train0.txt: line 2: {text}."


def test_an_image_without_a_text_file_is_all_background(tmp_path: Path) -> None:
    paths = [picture(tmp_path, k) for k in range(2)]
    paths[0].with_suffix(".txt").write_text("1 -0.05 0 1.05 0 1 1\n")
    found = read_yolo(paths, ["disc", "bar"], picture_size)
    assert [len(one.shapes) for one in found.images] == [1, 0]
    assert found.notes == (f"1 image has no text file, so all pixels are background: {paths[1]}",)
    paths[0].with_suffix(".txt").unlink()
    assert said(lambda: read_yolo(paths, ["disc"], picture_size), tmp_path) == (
        "train0.png: neither this image nor the 1 others of the split have a text file of "
        "polygons, such as train0.txt."
    )


# ---------------------------------------------------------------------------------------- labelme
LABELME: dict[str, tuple[dict[str, Any], str]] = {
    "two corners": (
        {"points": [[1, 2], [3, 4]]},
        "its polygon has 2 corners; at least 3 enclose an area",
    ),
    "an unknown type": (
        {"shape_type": "cube"},
        "its shape_type is cube; segacc reads polygon, rectangle, circle, mask, and skips lines",
    ),
    "a circle of one point": (
        {"shape_type": "circle", "points": [[1, 2]]},
        "its circle has 1 point; expected 2",
    ),
    "a mask that is no picture": (
        {"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "AAAA"},
        "its mask is not a PNG in base64",
    ),
    "a mask outside": (
        {"shape_type": "mask", "points": [[70, 1], [70, 1]], "mask": png([[1]])},
        "it extends over x 70 to 71 and y 1 to 2, outside its image of 48x64 pixels (height x "
        "width); perhaps the image was resized after it was annotated",
    ),
    "a mask of another size": (
        {"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": png([[1]])},
        "its mask has 1x1 pixels (height x width); its points span 2x2",
    ),
}


@pytest.mark.parametrize(("values", "text"), LABELME.values(), ids=LABELME)
def test_a_faulty_shape_of_labelme_is_refused(
    values: dict[str, Any], text: str, tmp_path: Path
) -> None:
    facts = labelme_facts(picture(tmp_path, 0), 0)
    facts["shapes"][0].update(values)
    path = dump(tmp_path / "a.json", facts)
    where = 'a.json: shape 1, "disc" (image train0.png): '
    assert said(lambda: read_labelme([path]), tmp_path) == f"{where}{text}."


@pytest.mark.parametrize("label", ["", " "])
def test_an_empty_label_is_refused_and_spaces_around_one_are_left_out(
    label: str, tmp_path: Path
) -> None:
    facts = labelme_facts(picture(tmp_path, 0), 0)
    facts["shapes"] = [facts["shapes"][0] | {"label": one} for one in ("disc", " disc ", "bar\n")]
    assert read_labelme([dump(tmp_path / "a.json", facts)]).names == ("bar", "disc")
    facts["shapes"].append(facts["shapes"][0] | {"label": label})
    path, where = dump(tmp_path / "a.json", facts), f'shape 4, "{label}" (image train0.png)'
    told = "its label is empty; give it a class in the tool"
    assert said(lambda: read_labelme([path]), tmp_path) == f"a.json: {where}: {told}."
    xml = tmp_path / "a.xml"
    xml.write_text(cvat_xml([cvat_image("a.png", cvat_polygon(label, SQUARE, 0))], ()))
    where = f'shape 1, a polygon "{label}" (image a.png)'
    assert said(lambda: read_cvat(xml), tmp_path) == f"a.xml: {where}: {told}."


def test_shapes_of_labelme_without_an_area_are_counted_and_ignored_ones_are_ignored(
    tmp_path: Path,
) -> None:
    facts = labelme_facts(picture(tmp_path, 0), 0)
    kinds = {"point": 1, "line": 2, "linestrip": 4}
    facts["shapes"] = [
        {"label": "edge", "points": [[k, k] for k in range(count)], "shape_type": kind}
        for kind, count in kinds.items()
    ]
    box = {"points": [[2, 3], [6, 8]], "shape_type": "rectangle"}
    facts["shapes"] += [{**box, "label": "__ignore__"}, {"label": "a", "points": SQUARE}]
    found = read_labelme([dump(tmp_path / "a.json", facts)])
    assert found.names == ("a",)
    told = (
        "3 shapes without an area left out (1 of type line, 1 of type linestrip, 1 of type point)"
    )
    assert found.notes == (f"{tmp_path}: {told}",)
    expected = np.zeros((48, 64))
    expected[3:8, 2:6], expected[10:20, 10:20] = 255, 1
    np.testing.assert_array_equal(draw(found.images[0].shapes, (48, 64), {"a": 1}), expected)


# ------------------------------------------------------------------------------------------- CVAT
CVAT = {
    "an unknown label": (
        cvat_polygon("dot", SQUARE, 0),
        'shape 1, a polygon "dot" (image a.png): its label is none of the task\'s: disc, bar',
    ),
    "one corner": (
        cvat_polygon("bar", SQUARE[:1], 0),
        'shape 1, a polygon "bar" (image a.png): its polygon has 1 corner; at least 3 enclose an '
        "area",
    ),
    "runs that do not fill": (
        '<mask label="bar" rle="1, 2" left="0" top="0" width="2" height="2"/>',
        'shape 1, a mask "bar" (image a.png): the runs of its rle add up to 3; expected 4, the '
        "pixels of its 2x2 box",
    ),
    "a run of more than 64 bits": (
        f'<mask label="bar" rle="1, {1 << 70}" left="0" top="0" width="2" height="2"/>',
        f'shape 1, a mask "bar" (image a.png): the runs of its rle add up to {(1 << 70) + 1}; '
        "expected 4, the pixels of its 2x2 box",
    ),
    "a mask outside": (
        '<mask label="bar" rle="0, 1" left="9" top="50" width="1" height="1"/>',
        'shape 1, a mask "bar" (image a.png): it extends over x 9 to 10 and y 50 to 51, outside '
        "its image of 48x64 pixels (height x width); perhaps the image was resized after it was "
        "annotated",
    ),
    "a box without a side": (
        '<box label="bar" xtl="1" ytl="2" xbr="5"/>',
        'shape 1, a box "bar" (image a.png): it has no "ybr"',
    ),
    "an unknown kind": (
        '<blob label="bar"/>',
        'shape 1, a blob "bar" (image a.png): segacc reads polygons, boxes, ellipses and masks, '
        "and skips lines",
    ),
}


@pytest.mark.parametrize(("inside", "text"), CVAT.values(), ids=CVAT)
def test_a_faulty_shape_of_cvat_is_refused(inside: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(cvat_xml([cvat_image("a.png", inside)]))
    assert said(lambda: read_cvat(path), tmp_path) == f"a.xml: {text}."


def test_other_files_of_cvat_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<annotations><track id='0'/></annotations>")
    assert said(lambda: read_cvat(path), tmp_path) == (
        "a.xml: this is `CVAT for video`, whose tracks are interpolated between frames. Export the "
        "task as `CVAT for images 1.1`, which has the shapes of each frame."
    )
    path.write_text(cvat_xml([cvat_image("a.png", ""), cvat_image("a.png", "")]))
    assert said(lambda: read_cvat(path), tmp_path) == (
        "a.xml: the images list a.png twice. Export each task by itself, or keep one of the "
        "entries."
    )
    path.write_text(cvat_xml([cvat_image("a.png", "")], ("disc", "disc")))
    assert said(lambda: read_cvat(path), tmp_path) == (
        "a.xml: the labels name disc twice. Rename one of them in CVAT."
    )
    path.write_text("<annotations>")
    assert "a.xml: the CVAT file is not valid XML: no element" in said(
        lambda: read_cvat(path), tmp_path
    )


def test_boxes_and_ellipses_of_cvat_may_be_turned_and_lines_are_counted(tmp_path: Path) -> None:
    inside = (
        '<box label="bar" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90" z_order="2"/>'
        '<ellipse label="disc" cx="40" cy="20" rx="10" ry="5" rotation="90" z_order="1"/>'
        '<polyline label="bar" points="1,1;2,2" z_order="0"/><tag label="disc"/>'
    )
    path = tmp_path / "a.xml"
    path.write_text(cvat_xml([cvat_image("a.png", inside)]))
    found = read_cvat(path)[""]
    assert found.notes == (f"{path}: 1 shape without an area left out (1 of type polyline)",)
    label = draw(found.images[0].shapes, (48, 64), {"disc": 1, "bar": 2})
    assert (label[5:25, 15:25] == 2).all()
    assert (label == 2).sum() == 200
    rows, columns = np.nonzero(label == 1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 29, 35, 44)


# ----------------------------------------------------------------------------------- Label Studio
def region(**values: Any) -> Callable[[dict[str, Any]], Any]:
    """Change the first region of a task, or its value."""
    own = {"original_width", "image_rotation", "type"}

    def change_task(task: dict[str, Any]) -> None:
        first = task["annotations"][0]["result"][0]
        first.update({key: one for key, one in values.items() if key in own})
        first["value"].update({key: one for key, one in values.items() if key not in own})

    return change_task


def bitmask(mask: Any) -> str:
    """Return the data URL of a bitmask region: black pixels on a clear background."""
    alpha = np.asarray(mask, np.uint8)[..., None] * np.uint8(255)
    data = io.BytesIO()
    Image.fromarray(np.concatenate([np.zeros((*alpha.shape[:2], 3), np.uint8), alpha], 2)).save(
        data, format="PNG"
    )
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


STUDIO: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "two corners": (
        region(points=[[1, 2], [3, 4]]),
        "region r0disc (image 0a1b2c3d-train0.png): its polygon has 2 corners; at least 3 enclose "
        "an area",
    ),
    "two labels": (
        region(polygonlabels=["disc", "bar"]),
        "region r0disc (image 0a1b2c3d-train0.png): it has 2 labels; expected one class",
    ),
    "pixels for percents": (
        region(points=[[10, 20], [300, 40], [300, 100]]),
        "region r0disc (image 0a1b2c3d-train0.png): it extends over x 6.4 to 192 and y 9.6 to 48, "
        "outside its image of 48x64 pixels (height x width); perhaps the image was resized after "
        "it was annotated",
    ),
    "a turned image": (
        region(image_rotation=90),
        "region r0disc (image 0a1b2c3d-train0.png): the image was turned by 90 degrees while it "
        "was annotated; turn it back in Label Studio, or turn the image file",
    ),
    "a label that is a number": (
        region(polygonlabels=[5]),
        "region r0disc (image 0a1b2c3d-train0.png): its label is 5; expected a text",
    ),
    "an empty label": (
        region(polygonlabels=[" "]),
        "region r0disc (image 0a1b2c3d-train0.png): its label is empty; give it a class in the "
        "tool",
    ),
    "labels that are no list": (
        region(polygonlabels="disc"),
        'region r0disc (image 0a1b2c3d-train0.png): its "polygonlabels" is "disc"; expected a '
        "list [...]",
    ),
    "a corner of 400 digits": (
        region(points=[[10**400, 2], [3, 4], [5, 6]]),
        "region r0disc (image 0a1b2c3d-train0.png): its corners are not all pairs of numbers",
    ),
    "a region of a video": (
        region(type="videorectangle"),
        "region r0disc (image 0a1b2c3d-train0.png): its type is videorectangle; segacc reads "
        "brush, bitmask, polygon, rectangle, ellipse, and skips lines",
    ),
    "a bitmask of another size": (
        region(type="bitmasklabels", bitmasklabels=["disc"], imageDataURL=bitmask(np.ones((9, 8)))),
        "region r0disc (image 0a1b2c3d-train0.png): its bitmask has 9x8 pixels (height x width), "
        "its image 48x64",
    ),
    "a bitmask that is no PNG": (
        region(type="bitmasklabels", bitmasklabels=["disc"], imageDataURL="data:image/png;base64,"),
        "region r0disc (image 0a1b2c3d-train0.png): its imageDataURL is not a PNG in base64",
    ),
    "two sizes": (
        region(original_width=80),
        "task 40: its regions state several sizes (height, width): [(48, 64), (48, 80)]",
    ),
    "numbers of annotations": (
        lambda task: task.update(annotations=[70]),
        "task 40: its annotations are only numbered, not included",
    ),
    "no image": (
        lambda task: task.update(data={"text": "a"}),
        "task 40: it has 0 images; expected one, as its data's image",
    ),
}


@pytest.mark.parametrize(("spoil", "text"), STUDIO.values(), ids=STUDIO)
def test_a_faulty_region_of_label_studio_is_refused(
    spoil: Callable[[dict[str, Any]], Any], text: str, tmp_path: Path
) -> None:
    task = studio_task(picture(tmp_path, 0), 0)
    spoil(task)
    path = dump(tmp_path / "a.json", [task])
    assert said(lambda: read_labelstudio(path), tmp_path) == f"a.json: {text}."


@pytest.mark.parametrize("kind", ["bitmasklabels", "bitmask"])
def test_the_opaque_pixels_of_a_bitmask_are_its_class(kind: str, tmp_path: Path) -> None:
    task, mask = studio_task(picture(tmp_path, 0), 0), np.zeros((48, 64), np.uint8)
    mask[5:40:3, 7:60:2] = 1
    first, second = task["annotations"][0]["result"]
    labels = "bitmasklabels" if kind == "bitmasklabels" else "labels"
    first |= {"type": kind, "value": {"imageDataURL": bitmask(mask), labels: ["disc"]}}
    second |= {"type": "choices", "value": {"choices": ["clear"]}}  # which is no region
    found = read_labelstudio(dump(tmp_path / "a.json", [task]))
    assert found.names == ("disc",)
    label = draw(found.images[0].shapes, (48, 64), {"disc": 1})
    np.testing.assert_array_equal(label, mask)


def test_other_exports_of_label_studio_are_refused(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.json", [{"id": 1, "image": "a.png", "label": []}])
    assert said(lambda: read_labelstudio(path), tmp_path) == (
        "a.json: the tasks have no list of annotations, as in the export `JSON-MIN` or in tasks "
        "that are not labelled. Export them as `JSON`."
    )
    path = dump(tmp_path / "a.json", {"images": []})
    assert said(lambda: read_labelstudio(path), tmp_path) == (
        "a.json: not a JSON export of Label Studio, which is a list of tasks."
    )


def test_the_newest_annotation_that_is_not_cancelled_is_used(tmp_path: Path) -> None:
    tasks = [studio_task(picture(tmp_path, k), k) for k in range(3)]
    old = json.loads(json.dumps(tasks[0]["annotations"][0]))
    cancelled = {**old, "was_cancelled": True, "updated_at": "2030-01-01"}
    tasks[0]["annotations"][0] |= {"result": [], "updated_at": "2025-01-01T00:00:00Z"}
    tasks[0]["annotations"] += [old, cancelled]
    tasks[1]["annotations"] = [cancelled]
    tasks[2]["data"] = {"image": "/data/local-files/?d=some%20folder/train2.png"}
    path = dump(tmp_path / "a.json", tasks)
    found = read_labelstudio(path)
    assert [(one.name, len(one.shapes)) for one in found.images] == [
        ("0a1b2c3d-train0.png", 0),
        ("some folder/train2.png", 2),
    ]
    assert found.notes == (
        f"{path}: 1 task without an annotation that is not cancelled left out",
        f"{path}: 1 task with several annotations; the newest is used",
    )


def test_regions_of_label_studio_are_turned_about_their_first_corner(tmp_path: Path) -> None:
    task = studio_task(picture(tmp_path, 0), 0)
    facts = {"original_width": 64, "original_height": 48, "from_name": "l", "to_name": "image"}
    box = {"x": 50, "y": 50, "width": 25, "height": 12.5, "rotation": 90}
    oval = {"x": 25, "y": 25, "radiusX": 12.5, "radiusY": 12.5, "rotation": 0}
    task["annotations"][0]["result"] = [
        {**facts, "id": "a", "type": "rectangle", "value": box},
        {**facts, "id": "a", "type": "labels", "value": {**box, "labels": ["bar"]}},
        {**facts, "id": "b", "type": "ellipselabels", "value": {**oval, "ellipselabels": ["disc"]}},
        {**facts, "id": "c", "type": "keypointlabels", "value": {"keypointlabels": ["disc"]}},
        {"id": "d", "type": "choices", "value": {"choices": ["night"]}},
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
    ]
    found = read_labelstudio(dump(tmp_path / "a.json", [task]))
    assert [re.sub(".*: ", "", note) for note in found.notes] == [
        "1 shape without an area left out (1 of type keypoint)"
    ]
    label = draw(found.images[0].shapes, (48, 64), {"disc": 1, "bar": 2})
    rows, columns = np.nonzero(label == 2)  # from (32, 24), 16 wide and 6 high
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (24, 39, 26, 31)
    assert (label == 2).sum() == 16 * 6
    rows, columns = np.nonzero(label == 1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 17, 8, 23)
