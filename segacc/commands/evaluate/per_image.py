"""What each scored image adds to the counts, kept sparse: any set of images is scored from it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segacc.contracts import IGNORE
from segacc.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FILE, REPORT = "per_image.parquet", "evaluation.json"
"""What `segacc evaluate` writes: these counts, and the scores with their terms."""
COUNTS = ("hit", "labelled", "predicted")
"""What is counted of each class: pixels that are right, that are labelled so, that are predicted
so. Pixels labelled 255 are in none of them."""


def iou(counts: NDArray[Any]) -> Floats:
    """Return hit / (labelled + predicted - hit) of counts (..., 3); nan for a class in neither."""
    hit, labelled, predicted = np.moveaxis(counts, -1, 0)
    return divided(hit, labelled + predicted - hit)


def divided(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Divide arrays of one shape; nan where `whole` is 0."""
    result = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def mean_of_known(values: Floats) -> Floats:
    """Return means over the last axis, nan left out; nan where all are."""
    known = ~np.isnan(values)
    return divided(np.where(known, values, 0).sum(-1), known.sum(-1))


@dataclass(frozen=True)
class ImageCounts:
    """The pixels of one image by class, for the n classes in its label or its prediction."""

    id: str
    classes: Ints
    """(n,) ascending."""
    counts: Ints
    """(n, 3): COUNTS."""

    @property
    def mean_iou(self) -> float:
        """The mean IoU over these classes; nan where every pixel is ignored."""
        return float(mean_of_known(iou(self.counts)))

    @property
    def valid_pixels(self) -> int:
        """The pixels that are not ignored."""
        return int(self.counts[:, 1].sum())

    @property
    def overall_accuracy(self) -> float:
        """The share of them that is right; nan where every pixel is ignored."""
        return self.counts[:, 0].sum() / self.valid_pixels if self.valid_pixels else np.nan


def count_image(name: str, prediction: "Tensor", label: "Tensor", num_classes: int) -> ImageCounts:
    """Count a prediction (H, W) uint8 against a label (H, W) uint8, 255 ignored, on its device."""
    import torch

    label = label.to(prediction.device)
    valid = label != IGNORE
    truth, said = label[valid], prediction[valid]
    parts = (truth[truth == said], truth, said)
    counts = torch.stack([part.bincount(minlength=num_classes) for part in parts], 1).cpu().numpy()
    (classes,) = np.nonzero(counts.any(axis=1))
    return ImageCounts(name, classes, counts[classes])


@dataclass(frozen=True)
class PerImage:
    """The counts of N images over K classes, T of the N x K pairs being there."""

    names: tuple[str, ...]
    """K class names."""
    ids: tuple[str, ...]
    """N, sorted, so that nothing depends on the number of processes."""
    starts: Ints
    """(N + 1,): where in the next two each image's classes begin, and at last T."""
    classes: Ints
    """(T,)"""
    counts: Ints
    """(T, 3): COUNTS."""

    @classmethod
    def of(cls, names: tuple[str, ...], images: Iterable[ImageCounts]) -> "PerImage":
        """Put images together, sorted by id."""
        ordered = sorted(images, key=lambda image: image.id)
        lengths = [len(image.classes) for image in ordered]
        return cls(
            names,
            tuple(image.id for image in ordered),
            np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
            np.concatenate([np.zeros(0, np.int64), *(image.classes for image in ordered)]),
            np.concatenate([np.zeros((0, 3), np.int64), *(image.counts for image in ordered)]),
        )

    def __len__(self) -> int:
        """Count the images."""
        return len(self.ids)

    def __iter__(self) -> Iterator[ImageCounts]:
        """Yield them one by one."""
        for name, first, last in zip(self.ids, self.starts[:-1], self.starts[1:], strict=True):
            yield ImageCounts(name, self.classes[first:last], self.counts[first:last])

    def among(self, ids: frozenset[str]) -> "PerImage":
        """Keep some of the images."""
        return PerImage.of(self.names, (image for image in self if image.id in ids))

    def dense(self, first: int, last: int) -> Floats:
        """Return the counts of the images from `first` to before `last`: (n, K, 3)."""
        here = slice(self.starts[first], self.starts[last])
        image = np.repeat(np.arange(last - first), np.diff(self.starts[first : last + 1]))
        counts = np.zeros((last - first, len(self.names), 3))
        counts[image, self.classes[here]] = self.counts[here]
        return counts

    def total(self) -> Ints:
        """Add up all images: (K, 3) int64."""
        counts = np.zeros((len(self.names), 3), np.int64)
        np.add.at(counts, self.classes, self.counts)
        return counts

    def write(self, path: Path) -> None:
        """Write a parquet file: a row for each image, its counts as lists, and its two scores.

        A score is null where every pixel is ignored. The file's metadata `segacc` is JSON and
        holds the class names. It appears whole or not at all.
        """
        import pyarrow as pa
        from pyarrow import parquet

        rows = list(self)

        def lists(values: Ints) -> Any:
            return pa.ListArray.from_arrays(pa.array(self.starts, pa.int32()), pa.array(values))

        def scores(name: str) -> Any:
            return pa.array([getattr(row, name) for row in rows], pa.float64(), from_pandas=True)

        columns = {
            "id": pa.array(self.ids, pa.string()),
            "mean_iou": scores("mean_iou"),
            "overall_accuracy": scores("overall_accuracy"),
            "valid_pixels": pa.array([row.valid_pixels for row in rows], pa.int64()),
            "classes": lists(self.classes),
            **{name: lists(self.counts[:, place]) for place, name in enumerate(COUNTS)},
        }
        about = {"segacc": json.dumps({"classes": self.names})}
        temporary = path.with_name(f".{path.name}.tmp")
        parquet.write_table(pa.table(columns).replace_schema_metadata(about), temporary)
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> "PerImage":
        """Read what `write` wrote.

        Raises:
            DataError: it is damaged, or something else.
        """
        import pyarrow as pa
        from pyarrow import compute, parquet

        try:
            table = parquet.read_table(path, columns=["id", "classes", *COUNTS])
            names = tuple(json.loads(table.schema.metadata[b"segacc"])["classes"])
            lengths = compute.list_value_length(table["classes"]).to_numpy()
            classes, *counts = (
                table[name].combine_chunks().flatten().to_numpy() for name in ("classes", *COUNTS)
            )
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: not a file that `segacc evaluate` wrote ({_first_line(error)})."
            ) from None
        starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        ids = tuple(table["id"].to_pylist())
        return cls(names, ids, starts, classes, np.stack(counts, axis=1))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
