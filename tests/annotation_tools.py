"""Writes the same pictures as the files of annotation tools, and draws their labels on its own."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools import mask as coco_mask

from cli_tools import draw
from segacc.data.sample_pair import read_sample
from segacc.hookspecs import DataSplits

SIZE = (48, 64)
COUNTS = {"train": 4, "val": 2}
Shapes = list[tuple[str, list[tuple[float, float]]]]
"""Class and corners of each polygon, from the lowest to the uppermost."""


def shapes(number: int) -> Shapes:
    """Return the polygons of a picture: a disc with a bar across it; the last one has none."""
    if number == 3:
        return []
    angles = np.arange(12) * np.pi / 6
    x, y, radius = 20.3 + 5 * number, 22.7, 11.4
    disc = [(x + radius * np.cos(a), y + radius * np.sin(a)) for a in angles]
    bar = [(8.2, 30.1), (58.6, 26.3), (58.9, 36.2), (9.1, 40.3)]
    return [("disc", [(round(x, 2), round(y, 2)) for x, y in disc]), ("bar", bar)]


def expected(number: int, names: tuple[str, ...] = ("background", "disc", "bar")) -> Any:
    """Draw the label (48, 64) of a picture with matplotlib: pixels whose centres are inside."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    label = np.zeros(SIZE, np.uint8)
    for name, corners in shapes(number):
        inside = Outline(corners).contains_points(centres).reshape(SIZE)
        label[inside] = names.index(name)
    return label


def labels_of(data: DataSplits, split: str = "train") -> dict[str, Any]:
    """Read a split as training does; return its labels (H, W) by the ids of the samples."""
    samples = data.splits[split]
    return {one.id: read_sample(one, data.labels)[1].numpy() for one in samples}  # type: ignore


def picture(folder: Path, number: int, split: str = "train") -> Path:
    """Write a picture of noise with a disc and a bar."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}{number}.png"
    Image.fromarray(draw((len(split), number), SIZE)[0]).save(path)
    return path


def coco_facts(folder: Path, count: int, split: str = "train") -> dict[str, Any]:
    """Return COCO's facts of some pictures in a folder, whose categories have ids with gaps."""
    categories = [{"id": 3, "name": "disc"}, {"id": 18, "name": "bar"}]
    ids = {one["name"]: one["id"] for one in categories}
    facts: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    for number in range(count):
        path = picture(folder, number, split)
        size = {"height": SIZE[0], "width": SIZE[1]}
        facts["images"].append({"id": 100 + number, "file_name": path.name, **size})
        for name, corners in shapes(number):
            flat = [part for corner in corners for part in corner]
            one = {"id": 7 + len(facts["annotations"]), "image_id": 100 + number, "iscrowd": 0}
            facts["annotations"].append(
                {**one, "category_id": ids[name], "segmentation": [flat], "bbox": [], "area": 1}
            )
    return facts


def dump(path: Path, content: Any) -> Path:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco(root: Path) -> str:
    """Write Roboflow's folders: a file beside the images of each split."""
    for split, count in COUNTS.items():
        folder = root / split.replace("val", "valid")
        dump(folder / "_annotations.coco.json", coco_facts(folder, count, split))
    return f"coco:root={root}"


def rle(label: Any, value: int) -> dict[str, Any]:
    """Encode the pixels of a value as COCO does."""
    found = coco_mask.encode(np.asfortranarray(label == value).astype(np.uint8))
    return {"size": found["size"], "counts": found["counts"].decode()}


def yolo(root: Path) -> str:
    """Write Ultralytics' folders with a data.yaml, whose path is that of another disk."""
    for split, count in COUNTS.items():
        for number in range(count):
            path = picture(root / "images" / split, number, split)
            lines = [
                " ".join([str(("disc", "bar").index(name)), *_fractions(corners)])
                for name, corners in shapes(number)
            ]
            text = root / "labels" / split / f"{path.stem}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text("\n".join(lines))
    places = "path: ../datasets/mine\ntrain: images/train\nval: images/val\n"
    (root / "data.yaml").write_text(f"{places}names:\n  0: disc\n  1: bar\n")
    return f"yolo:root={root}"


def _fractions(corners: list[tuple[float, float]]) -> list[str]:
    return [f"{x / SIZE[1]:.6f} {y / SIZE[0]:.6f}" for x, y in corners]


def labelme_facts(path: Path, number: int) -> dict[str, Any]:
    """Return what labelme writes about a picture."""
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {
                "label": name,
                "points": [list(corner) for corner in corners],
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for name, corners in shapes(number)
        ],
        "imagePath": path.name,
        "imageData": base64.b64encode(path.read_bytes()).decode(),
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    }


def labelme(root: Path) -> str:
    """Write labelme's files beside the pictures, in a folder for each split."""
    for split, count in COUNTS.items():
        for number in range(count):
            path = picture(root / split, number, split)
            dump(path.with_suffix(".json"), labelme_facts(path, number))
    return f"labelme:root={root}"


def cvat_xml(images: list[str], labels: tuple[str, ...] = ("disc", "bar")) -> str:
    """Return CVAT's XML with some elements <image>."""
    told = "".join(
        f"<label><name>{name}</name><color>#ff0000</color><type>any</type><attributes/></label>"
        for name in labels
    )
    meta = f"<meta><project><id>1</id><labels>{told}</labels></project></meta>"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f"{meta}{''.join(images)}</annotations>"
    )


def cvat_image(name: str, inside: str, **more: str) -> str:
    """Return CVAT's element of an image."""
    told = "".join(f' {key}="{value}"' for key, value in more.items())
    return (
        f'<image id="0" name="{name}" width="{SIZE[1]}" height="{SIZE[0]}"{told}>{inside}</image>'
    )


def cvat_polygon(name: str, corners: list[tuple[float, float]], z_order: int) -> str:
    """Return CVAT's element of a polygon."""
    points = ";".join(f"{x},{y}" for x, y in corners)
    return (
        f'<polygon label="{name}" source="manual" occluded="0" points="{points}" '
        f'z_order="{z_order}"></polygon>'
    )


def cvat(root: Path) -> str:
    """Write CVAT's export of a project; the shapes are not in the order of their layers."""
    images = []
    for split, count in COUNTS.items():
        for number in range(count):
            path = picture(root / "images", number, split)
            layers = [cvat_polygon(*shape, z) for z, shape in enumerate(shapes(number))]
            subset = {"train": "Train", "val": "Validation"}[split]
            images.append(cvat_image(path.name, "".join(reversed(layers)), subset=subset))
    (root / "annotations.xml").write_text(cvat_xml(images), encoding="utf-8")
    return f"cvat:root={root}"


def studio_task(path: Path, number: int) -> dict[str, Any]:
    """Return Label Studio's task of a picture."""
    result = [
        {
            "original_width": SIZE[1],
            "original_height": SIZE[0],
            "image_rotation": 0,
            "value": {
                "points": [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in corners],
                "closed": True,
                "polygonlabels": [name],
            },
            "id": f"r{number}{name}",
            "from_name": "label",
            "to_name": "image",
            "type": "polygonlabels",
            "origin": "manual",
        }
        for name, corners in shapes(number)
    ]
    return {
        "id": 40 + number,
        "annotations": [
            {
                "id": 70 + number,
                "completed_by": 1,
                "result": result,
                "was_cancelled": False,
                "created_at": "2024-05-01T10:00:00.000000Z",
                "updated_at": "2024-05-01T10:00:00.000000Z",
            }
        ],
        "file_upload": f"0a1b2c3d-{path.name}",
        "predictions": [],
        "data": {"image": f"/data/upload/3/0a1b2c3d-{path.name}"},
    }


def labelstudio(root: Path) -> str:
    """Write Label Studio's export beside the pictures as they were before they were uploaded."""
    paths = [picture(root / "images", number) for number in range(COUNTS["train"])]
    dump(root / "export.json", [studio_task(path, number) for number, path in enumerate(paths)])
    return f"labelstudio:file={root / 'export.json'}"


TOOLS: dict[str, Callable[[Path], str]] = {
    one.__name__: one for one in (coco, yolo, labelme, cvat, labelstudio)
}


def png(mask: Any) -> str:
    """Return a mask as labelme writes it: a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(mask, np.uint8) * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
