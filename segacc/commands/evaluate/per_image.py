"""Pixel counts of each image by class, stored sparsely, from which any set of images is scored."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segacc.data.atomic import replacing
from segacc.errors import DataError
from segacc.kernels.counts import COUNTS, Floats, Ints, class_counts, divided, iou, mean_of_known

if TYPE_CHECKING:
    from torch import Tensor

FILE, REPORT = "per_image.parquet", "evaluation.json"
"""Files written by `segacc evaluate`: these counts, and the scores with their rules."""


@dataclass(frozen=True)
class ImageCounts:
    """Pixel counts of one image, for the n classes in its label or its prediction."""

    id: str
    classes: Ints
    """(n,) ascending."""
    counts: Ints
    """(n, 3): COUNTS."""

    @classmethod
    def of(cls, name: str, confusion: "Tensor") -> "ImageCounts":
        """Return the counts of an image by its confusion matrix (K, K) int64."""
        counts = class_counts(confusion)
        (classes,) = np.nonzero(counts.any(axis=1))
        return cls(name, classes, counts[classes])

    @property
    def mean_iou(self) -> float:
        """Mean IoU over these classes; nan if every pixel is ignored."""
        return float(mean_of_known(iou(self.counts)))

    @property
    def valid_pixels(self) -> int:
        """Number of pixels that are not ignored."""
        return int(self.counts[:, 1].sum())

    @property
    def overall_accuracy(self) -> float:
        """Share of the valid pixels predicted correctly; nan if every pixel is ignored."""
        return float(divided(self.counts[:, 0].sum(), self.counts[:, 1].sum()))


@dataclass(frozen=True)
class PerImage:
    """Counts of N images over K classes, stored for the T image-class pairs that occur."""

    names: tuple[str, ...]
    """K class names."""
    ids: tuple[str, ...]
    """N image ids, sorted, so that nothing depends on the number of processes."""
    starts: Ints
    """(N + 1,) start of each image's rows in `classes` and `counts`; the last is T."""
    classes: Ints
    """(T,)"""
    counts: Ints
    """(T, 3): COUNTS."""

    @classmethod
    def of(cls, names: tuple[str, ...], images: Iterable[ImageCounts]) -> "PerImage":
        """Combine the counts of images, sorted by id."""
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
        """Return the number of images."""
        return len(self.ids)

    def __iter__(self) -> Iterator[ImageCounts]:
        """Yield the counts of each image."""
        for name, first, last in zip(self.ids, self.starts[:-1], self.starts[1:], strict=True):
            yield ImageCounts(name, self.classes[first:last], self.counts[first:last])

    def among(self, ids: frozenset[str]) -> "PerImage":
        """Return the counts of the images with these ids."""
        return PerImage.of(self.names, (image for image in self if image.id in ids))

    def dense(self, first: int, last: int) -> Floats:
        """Return the counts of the images first..last-1: (n, K, 3)."""
        here = slice(self.starts[first], self.starts[last])
        image = np.repeat(np.arange(last - first), np.diff(self.starts[first : last + 1]))
        counts = np.zeros((last - first, len(self.names), 3))
        counts[image, self.classes[here]] = self.counts[here]
        return counts

    def total(self) -> Ints:
        """Sum the counts over all images: (K, 3) int64."""
        counts = np.zeros((len(self.names), 3), np.int64)
        np.add.at(counts, self.classes, self.counts)
        return counts

    def write(self, path: Path) -> None:
        """Write a parquet file with a row for each image: its counts as lists, and its two scores.

        A score is null if every pixel is ignored. The file's metadata `segacc` is JSON with the
        class names. The file is replaced atomically.
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
            **{name: lists(self.counts[:, column]) for column, name in enumerate(COUNTS)},
        }
        about = {"segacc": json.dumps({"classes": self.names})}
        with replacing(path) as part:
            parquet.write_table(pa.table(columns).replace_schema_metadata(about), part)

    @classmethod
    def read(cls, path: Path) -> "PerImage":
        """Read a file written by `write`.

        Raises:
            DataError: it is damaged, or another file.
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
                f"{path}: not a file written by `segacc evaluate` ({_first_line(error)})."
            ) from None
        starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        ids = tuple(table["id"].to_pylist())
        return cls(names, ids, starts, classes, np.stack(counts, axis=1))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
