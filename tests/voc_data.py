"""Lays out a small copy of PASCAL VOC 2012, with SBD's labels beside it."""

from pathlib import Path

from known_data import photo, save, scatter

# The colours as the devkit's pictures have them, listed in OpenCV's samples/data/dnn.
VOC_COLORS = (
    *((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)),
    *((0, 128, 128), (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0)),
    *((64, 0, 128), (192, 0, 128), (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0)),
    *((0, 192, 0), (128, 192, 0), (0, 64, 128)),
)
VOC_PALETTE = [*sum(VOC_COLORS, ()), *[0] * 3 * 234, 224, 224, 192]  # 255, the border, is cream
OBJECTS = (*range(21), 255)
VOC_LISTS = {
    "train": ("2007_000039", "2007_000032"),
    "val": ("2007_000033",),
    "trainval": ("2007_000032", "2007_000033", "2007_000039"),
}


def voc(root: Path, *, lists: tuple[str, ...] = ("train", "val", "trainval")) -> Path:
    """Write VOC2012 with three labelled images and two that only SBD labels."""
    for number, stem in enumerate((*VOC_LISTS["trainval"], "2008_000001", "2008_000002")):
        save(root / "JPEGImages" / f"{stem}.jpg", photo(number))
        if number < 3:
            raw = scatter(OBJECTS, number)
            save(root / "SegmentationClass" / f"{stem}.png", raw, VOC_PALETTE)
            save(root / "SegmentationObject" / f"{stem}.png", raw, VOC_PALETTE)
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    for name in lists:
        (folder / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in VOC_LISTS[name]))
    return root


def sbd(root: Path, text: str, name: str = "trainaug.txt") -> Path:
    """Add SBD's labels, without borders, and the list of them."""
    for number, stem in enumerate(("2007_000032", "2008_000001", "2008_000002")):
        raw = scatter(range(21), 10 + number)
        save(root / "SegmentationClassAug" / f"{stem}.png", raw)
    (root / "ImageSets" / "Segmentation" / name).write_text(text)
    return root
