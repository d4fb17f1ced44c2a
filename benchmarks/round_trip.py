"""Convert whole data sets to COCO and back, and compare with the original labels.

    python benchmarks/round_trip.py              all four data sets, a few minutes
    python benchmarks/round_trip.py --report     write the table in docs/results.md again

The data sets lie in ../shared/data. `segacc convert --format coco` writes all their splits, once
with `--shapes polygons` and once with `--shapes masks` (run-length encoding); the data set `coco`
reads the files back. `lowest` is the IoU of the class and the image where it is lowest, `mean_iou`
the mean of the classes' IoU over all pixels, and `changed` the number of pixels whose class is
another one, or that are ignored or not any more. Such pixels lower the IoU, too.

benchmarks/results/round_trip.json holds the figures. Exit code 1 when `lowest` of polygons is below
0.99, or a pixel changed in masks.
"""

import argparse
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from page import PAGE, ROOT, fill, table

from segacc import convert
from segacc.commands.convert.images import Names, label_of
from segacc.data.samples import build_splits
from segacc.hookspecs import DataSplits
from segacc.registry import choose, load_registry

SHARED = ROOT.parent / "shared" / "data"
SOURCES = {
    "camvid": f"folder:root={SHARED / 'camvid'}",
    "ade20k_sample": f"folder:root={SHARED / 'ade20k_sample'}",
    "comma10k_mini": f"folder:root={SHARED / 'comma10k_mini'}",
    "nuclei_dsb2018": f"hub:path={SHARED / 'nuclei_dsb2018'}",
}
RESULTS = ROOT / "benchmarks" / "results" / "round_trip.json"
MARK = "<!-- round trip: benchmarks/round_trip.py --report -->"
PACKAGES = ("segacc", "numpy", "pycocotools")
LOWEST = 0.99
FORMS = ("polygons", "masks")

Pixels = NDArray[np.uint8]


def main() -> int:
    """Measure, print, write, and tell whether the promise is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    typed = parser.parse_args()
    if typed.report:
        return report(typed.output)
    found = dict[str, Any]()
    for name, source in SOURCES.items():
        found[name] = measured(source)
        print(f"{name}:  {json.dumps(found[name])}", flush=True)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    typed.output.write_text(json.dumps({"data": found, "versions": versions}, indent=1) + "\n")
    if typed.output == RESULTS:
        report(RESULTS)
    return int(not all(map(kept, found.values())))


def kept(found: dict[str, Any]) -> bool:
    """Tell whether polygons of a data set are near its labels, and its masks exact."""
    return bool(found["polygons"]["lowest"] >= LOWEST and not found["masks"]["changed"])


def measured(source: str) -> dict[str, Any]:
    """Convert a data set in both forms, and return how its labels came back."""
    data = opened(source)
    images = sum(len(samples) for samples in data.splits.values())
    return {"images": images} | {form: there_and_back(source, data, form) for form in FORMS}


def opened(source: str) -> DataSplits:
    """Open a data set."""
    return build_splits(choose(load_registry(), "dataset", source, "round_trip.py"))


def there_and_back(source: str, data: DataSplits, form: str) -> dict[str, Any]:
    """Convert a data set in one form, and compare what is read back."""
    names = data.labels.names
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        target = convert(source, Path(folder) / "coco", format="coco", shapes=form).folder
        seconds = time.perf_counter() - start
        # Without a class `background`, all classes have shapes.
        outside = "class" if names[0] == "background" else "ignore"
        back = opened(f"coco:root={target},background={outside}")
        found = compared(pairs(data, back), names)
    return {**found, "seconds": round(seconds, 1)}


def pairs(data: DataSplits, back: DataSplits) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Yield the name of each image, and its label as it was and as it came back, as classes."""
    classes = np.full(256, 255, np.uint8)
    for index, name in enumerate(back.labels.names):
        classes[index] = data.labels.names.index(name)
    for split, samples in data.splits.items():
        files = Names()
        for sample, again in zip(samples, back.splits[split], strict=True):
            name = f"{split}/{sample.id}"
            assert again.image.name == files.of(sample), f"{name} came back as {again.id}"
            yield name, label_of(sample, data.labels), classes[label_of(again, back.labels)]


def compared(pairs: Iterator[tuple[str, Pixels, Pixels]], names: tuple[str, ...]) -> dict[str, Any]:
    """Compare labels (H, W) uint8, where 255 is ignored, class by class."""
    total = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    lowest, place = 1.0, ""
    for image, before, after in pairs:
        cells = confusion(before, after, len(names))
        total += cells
        each = iou(cells)
        worst = int(np.nanargmin(each)) if not np.isnan(each).all() else 0
        if each[worst] < lowest:
            lowest, place = float(each[worst]), f"{names[worst]} in {image}"
    changed = total.sum() - total.diagonal().sum()
    return {
        "lowest": lowest,
        "where": place,
        "mean_iou": float(np.nanmean(iou(total))),
        "changed": int(changed),
        "pixels": int(total.sum()),
    }


def confusion(before: Pixels, after: Pixels, num_classes: int) -> NDArray[np.int64]:
    """Count pixels by class before and after (K + 1, K + 1); the last one is ignored."""
    rows, columns = (np.minimum(one, num_classes).astype(np.int64) for one in (before, after))
    size = num_classes + 1
    return np.bincount((rows * size + columns).ravel(), minlength=size**2).reshape(size, size)


def iou(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU of each class but the ignored one (K,); nan where it has no pixel."""
    both = cells.diagonal()
    union = cells.sum(0) + cells.sum(1) - both
    with np.errstate(invalid="ignore"):
        return (both / union)[:-1]


def report(path: Path) -> int:
    """Write the table of the results into docs/results.md."""
    result = json.loads(path.read_text())
    rows = []
    for name, one in result["data"].items():
        polygons, masks = one["polygons"], one["masks"]
        share = f"{polygons['changed'] / polygons['pixels']:.4%}"
        cells = [name, polygons["where"].partition(" in ")[0], str(one["images"])]
        figures = [f"{polygons['lowest']:.4f}", f"{polygons['mean_iou']:.5f}"]
        rows.append([*cells, *figures, share, str(masks["changed"])])
    head = ["data set", "class of the lowest IoU", "images", "lowest IoU", "mean_iou"]
    fill(PAGE, MARK, table([*head, "pixels changed", "by masks"], rows, words=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
