"""Writes one small data set in the layouts that users have."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cli_tools import draw

COUNTS = {"train": 5, "val": 3}
SIZE = (48, 64)
COLORS = np.array([(128, 128, 128), (128, 64, 128), (64, 0, 128)], np.uint8)
NAMES = "background\ndisc\nbar\n"
TABLE = "name,r,g,b\nbackground,128,128,128\ndisc,128,64,128\nbar,64,0,128\n"

Change = Callable[[Any], Any]


def pictures(counts: dict[str, int] | None = None) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield split, name, image (H, W, 3) and label (H, W) of the pictures."""
    for split, count in (counts or COUNTS).items():
        for index in range(count):
            yield (split, f"{split}_{index:03d}", *draw((ord(split[0]), index), SIZE))


def write(
    root: Path,
    image: str,
    label: str,
    *,
    classes: str = "classes.txt",
    text: str = NAMES,
    change: Change = lambda label: label,
    counts: dict[str, int] | None = None,
) -> Path:
    """Write the pictures to paths such as `images/{split}/{name}.jpg`, and a class list."""
    for split, name, pixels, ids in pictures(counts):
        where = {"split": split, "name": name, "city": "bonn" if name[-1] in "02" else "ulm"}
        where["case"] = f"{split[0]}{name[-3:]}"
        for path, array in ((image, pixels), (label, change(ids))):
            file = root / path.format(**where)
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".npy":
                np.save(file, array)
            else:
                Image.fromarray(array).save(file)
    if text:
        (root / classes).write_text(text, encoding="utf-8")
    return root


def in_colors(label: Any) -> Any:
    """Return a label as colours."""
    return COLORS[label]


def mask(label: Any) -> Any:
    """Return a label of 0 and 255."""
    return (label > 0).astype(np.uint8) * np.uint8(255)


def sixteen(label: Any) -> Any:
    """Return a label of 16 bits."""
    return label.astype(np.uint16)


def lists(root: Path, line: str, *, header: str = "", ending: str = ".csv") -> Path:
    """Write train and val lists of `images/NAME.jpg` and `labels/NAME.png`."""
    write(root, "images/{name}.jpg", "labels/{name}.png")
    for wanted in COUNTS:
        rows = [line.format(name=name) for split, name, _, _ in pictures() if split == wanted]
        (root / f"{wanted}{ending}").write_text(header + "\n".join(rows) + "\n")
    return root


def voc(root: Path) -> Path:
    """Write the folders of VOC."""
    write(root, "JPEGImages/{name}.jpg", "SegmentationClass/{name}.png")
    write(root, "JPEGImages/{name}.jpg", "SegmentationObject/{name}.png")
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    for wanted in COUNTS:
        names = [name for split, name, _, _ in pictures() if split == wanted]
        (folder / f"{wanted}.txt").write_text("\n".join(names) + "\n")
    return root


def cities(root: Path) -> Path:
    """Write the folders of Cityscapes, with pictures to look at beside the labels."""
    image = "leftImg8bit/{split}/{city}/{name}_leftImg8bit.png"
    beside = "gtFine/{split}/{city}/{name}_gtFine"
    write(root, image, f"{beside}_labelIds.png")
    write(root, image, f"{beside}_color.png", change=in_colors)
    return write(root, image, f"{beside}_instanceIds.png")


def roboflow(root: Path) -> Path:
    """Write Roboflow's folders, with a class list in each."""
    spelled = {"train": 5, "valid": 3}
    path = "{split}/{name}_jpg.rf.a1b2"
    write(root, f"{path}.jpg", f"{path}_mask.png", text="", counts=spelled)
    for split in spelled:
        table = "Pixel Value, Class\n0, background\n1, disc\n2, bar\n"
        (root / split / "_classes.csv").write_text(table)
    return root


def via(root: Path) -> Path:
    """Write images, and polygons as VIA does."""
    write(root, "train2017/{name}.jpg", "train2017/{name}.jpg", text="")
    facts = {"a.jpg": {"filename": "a.jpg", "regions": [{"shape_attributes": {}}]}}
    (root / "via.json").write_text(json.dumps(facts))
    return root


def matlab(root: Path) -> Path:
    """Write images, and labels as MATLAB files."""
    write(root, "images/{split}/{name}.jpg", "images/{split}/{name}.jpg")
    for split, name, _, _ in pictures():
        file = root / "labels" / split / f"{name}.mat"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


LISTED = "names=classes.txt"
LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "images and masks by split": (
        lambda root: write(root, "images/{split}/{name}.jpg", "masks/{split}/{name}.png"),
        f"images=images,labels=masks,{LISTED}",
    ),
    "one folder with a suffix": (
        lambda root: write(root, "{name}.jpg", "{name}_mask.png"),
        f"images=.,labels=.,label_suffix=_mask,{LISTED}",
    ),
    "one folder with the same names": (
        lambda root: write(root, "{name}.jpg", "{name}.png"),
        f"images=.,labels=.,{LISTED}",
    ),
    "the same names by split": (
        lambda root: write(root, "{split}/{name}.jpg", "{split}/{name}.png"),
        f"images=SPLIT,labels=SPLIT,{LISTED}",
    ),
    "a folder for each image": (
        lambda root: write(root, "{case}/image.jpg", "{case}/mask.png"),
        f"images=.,labels=.,image_suffix=image,label_suffix=mask,{LISTED}",
    ),
    "a folder for each image by split": (
        lambda root: write(root, "{split}/{name}/{name}.jpg", "{split}/{name}/{name}_mask.png"),
        f"images=SPLIT,labels=SPLIT,label_suffix=_mask,{LISTED}",
    ),
    "without splits": (
        lambda root: write(root, "images/{name}.jpg", "masks/{name}.png"),
        f"images=images,labels=masks,{LISTED}",
    ),
    "a suffix by split": (
        lambda root: write(root, "images/{split}/{name}.jpg", "masks/{split}/{name}_mask.png"),
        f"images=images,labels=masks,label_suffix=_mask,{LISTED}",
    ),
    "mmseg": (
        lambda root: write(root, "img_dir/{split}/{name}.jpg", "ann_dir/{split}/{name}.png"),
        f"images=img_dir,labels=ann_dir,{LISTED}",
    ),
    "split in front of images": (
        lambda root: write(root, "{split}_images/{name}.jpg", "{split}_masks/{name}.png"),
        f"images=SPLIT_images,labels=SPLIT_masks,{LISTED}",
    ),
    "kaggle": (
        lambda root: write(
            root,
            "{split}/{name}.png",
            "{split}_labels/{name}_L.png",
            classes="class_dict.csv",
            text=TABLE,
            change=in_colors,
        ),
        "images=SPLIT,labels=SPLIT_labels,label_suffix=_L,colors=class_dict.csv",
    ),
    "voc": (
        voc,
        "images=JPEGImages,labels=SegmentationClass,train=ImageSets/Segmentation/train.txt,"
        f"validation=ImageSets/Segmentation/val.txt,{LISTED}",
    ),
    "cities": (
        cities,
        "images=leftImg8bit,labels=gtFine,image_suffix=_leftImg8bit,"
        f"label_suffix=_gtFine_labelIds,{LISTED}",
    ),
    "coco's years": (
        lambda root: write(root, "images/{split}2017/{name}.jpg", "labels/{split}2017/{name}.png"),
        f"images=images/SPLIT2017,labels=labels/SPLIT2017,{LISTED}",
    ),
    "lists with a header": (
        lambda root: lists(root, "images/{name}.jpg,labels/{name}.png", header="image,mask\n"),
        f"train=train.csv,validation=val.csv,{LISTED}",
    ),
    "lists that begin with the label": (
        lambda root: lists(
            root, "labels/{name}.png,images/{name}.jpg", header="label_path,image_path\n"
        ),
        f"train=train.csv,validation=val.csv,{LISTED}",
    ),
    "lists without a header": (
        lambda root: lists(root, "images/{name}.jpg labels/{name}.png", ending=".txt"),
        f"train=train.txt,validation=val.txt,{LISTED}",
    ),
    "lists of names": (
        lambda root: lists(root, "{name}", ending=".txt"),
        f"images=images,labels=labels,train=train.txt,validation=val.txt,{LISTED}",
    ),
    "roboflow": (
        roboflow,
        "images=SPLIT,labels=SPLIT,label_suffix=_mask,names=train/_classes.csv",
    ),
    "binary": (
        lambda root: write(
            root, "images/{split}/{name}.jpg", "masks/{split}/{name}.png", text="", change=mask
        ),
        "images=images,labels=masks,binary=true",
    ),
    "colours": (
        lambda root: write(
            root,
            "images/{split}/{name}.jpg",
            "masks/{split}/{name}.png",
            classes="colormap.txt",
            text="# label:color_rgb:parts:actions\n" + TABLE[11:].replace(",", ":", 1),
            change=in_colors,
        ),
        "images=images,labels=masks,colors=colormap.txt",
    ),
    "numpy": (
        lambda root: write(
            root,
            "images/{split}/{name}.jpg",
            "masks/{split}/{name}.npy",
            change=lambda label: label.astype(np.int64),
        ),
        f"images=images,labels=masks,{LISTED}",
    ),
    "numpy beside the images": (
        lambda root: write(root, "{split}/{name}.jpg", "{split}/{name}.npy"),
        f"images=SPLIT,labels=SPLIT,{LISTED}",
    ),
    "16 bits": (
        lambda root: write(
            root, "images/{split}/{name}.jpg", "masks/{split}/{name}.png", change=sixteen
        ),
        f"images=images,labels=masks,{LISTED}",
    ),
}
"""Layouts, with the options that are found."""

FLAT = (
    *("one folder with a suffix", "one folder with the same names", "without splits"),
    "a folder for each image",
)
"""Layouts without a validation split."""
