"""Interfaces between a training run and its components: facts, losses, metrics, augmentations."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

from annotated_types import Ge, Le

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray
    from torch import Tensor


IGNORE = 255
"""ignore_index inside segacc: pixels with this label are excluded from losses and metrics."""

MAX_PIXELS = 200_000_000
"""Default limit on the pixels of an image file, which is decoded only below it."""

MAX_BYTES = 1 << 30
"""Default limit on the bytes of an image file, which is read only below it."""

VERSION = "0.1.0"
"""Version of segacc, stored in the folders that it writes."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Properties of a run that are known before its components are built."""

    num_classes: int
    """K, without the ignored class."""
    class_names: tuple[str, ...]
    ignore_index: int = IGNORE
    crop_size: tuple[int, int] = (256, 256)
    """(height, width) in pixels of the training crop."""
    num_channels: int = 3
    seed: int = 0
    class_weights: tuple[float, ...] | None = None
    """K factors computed for `--class-weights`; None if the flag was not given."""
    class_shares: tuple[float, ...] | None = None
    """K fractions of the labelled training pixels; None if no component needs them."""


@runtime_checkable
class Drawn(Protocol):
    """A label that is drawn when it is read, from the shapes in an annotation file.

    It must be picklable, and `str()` names it in errors.
    """

    @property
    def file(self) -> Path:
        """The annotation file; a cache of the label is built again when it changes."""

    @property
    def rules(self) -> str:
        """Whatever else the pixels depend on, such as options, for the key of a cache."""

    def read_bytes(self) -> bytes:
        """Draw it and return an encoded label image.

        Raises:
            DataError: the annotation is faulty.
        """

    def outlines(self) -> "Sequence[NDArray[float64]]":
        """Return the outlines, (N, 2) each: x and y of the corners in pixels of the image."""


class LossTerm(Protocol):
    """A loss as the training loop uses it: a sum and its divisor, so accumulation stays exact.

    Logits and labels are on the device of the process; other tensors must be moved there. The
    option `weight` of `LossOptions` is applied by segacc.
    """

    def count(self, labels: "Tensor") -> "Tensor":
        """Return the divisor of `sum` for labels (N, H, W) int64, 255 ignored: a float scalar."""

    def sum(self, logits: Any, labels: "Tensor") -> "Tensor":
        """Sum the loss over logits (N, K, h, w) and labels (N, H, W) int64: a float scalar.

        Logits are of any float dtype and usually smaller than the labels, see
        `segacc.kernels.resize.resize_to_labels`. It is also called for each auxiliary head.

        A network's own loss gets the network's `queries` in place of logits.
        """


class MetricState(Protocol):
    """A metric as the evaluation loop uses it: its state is additive over images and processes."""

    state: dict[str, "Tensor"]
    """Tensors that are summed over processes to give the state of the whole split; integers stay
    exact. Empty for a metric that gathers its state itself. They are created on the CPU; `update`
    replaces them by sums on the device of its arguments."""

    def update(self, predictions: "Tensor", labels: "Tensor") -> None:
        """Add predictions (N, H, W) int64 and labels (N, H, W) int64, 255 ignored, to the state.

        Both are on the device of the process.

        A metric with `wants_confidence` takes a third parameter `confidence`: (N, H, W) float32,
        the probability of the predicted class, 0..1. One with `wants_log_odds` takes a further one,
        `log_odds`: (N, H, W) float32, log(p / (1 - p)) for the probability p of the second class.
        """

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return scores by name; a score may be a mapping by class name. An empty state gives nan.

        Called on all processes after the states are summed; only the main process's result is used.
        """


class MetricSums(Protocol):
    """The additional method of a metric with `from_confusion`.

    Each image is counted once for all these metrics, and for the counts of `segacc evaluate`.
    """

    def add(self, confusion: "Tensor") -> None:
        """Add an image to the state, as `update` would, from its confusion matrix.

        Args:
            confusion: (K, K) int64, pixels by label (rows) and prediction (columns), without
                those labelled 255; not to be changed in place.
        """


class MetricFiles(Protocol):
    """The additional method of a metric with `writes`."""

    def write(self, folder: Path) -> None:
        """Write files, no subfolders, to a folder; called on the main process after `compute`."""


class BatchChange(Protocol):
    """An augmentation of whole batches; the parameters of each sample are drawn in the worker.

    With `takes_bytes = True` it accepts images that are still uint8. `draws_unseen = True` declares
    that `draw` does not depend on pixels or sizes, so that a crop before it can be deferred.
    `knows_padding = True` declares a fourth argument: for each image the rows and columns, as two
    slices, that are not padding of a crop, or None if there is no padding; it is empty after an
    augmentation on the device without this.
    """

    def draw(self, image: "Tensor", label: "Tensor") -> "Tensor":
        """Draw the parameters of one sample: float32, with the same shape for all samples.

        The arguments are plain tensors as they leave the worker, image (C, H, W) and label (H, W)
        uint8, or with `draws_unseen` an unscaled crop. It may use the generators of torch, numpy
        and `random`.
        """

    def __call__(
        self, images: "Tensor", labels: "Tensor", drawn: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        """Transform images (N, C, H, W) float32 in 0..255 and labels (N, H, W) uint8 on the device.

        Args:
            images: as passed to `draw`, or as returned by the previous augmentation; with
                `takes_bytes` uint8 unless a previous augmentation returned float32.
            labels: 255 is ignored.
            drawn: (N, ...) float32, the result of `draw` for each sample.

        Returns:
            Images and labels of the same shapes and dtypes. The result for one sample must not
            depend on the others.
        """


@dataclass(frozen=True, kw_only=True)
class TransformersOptions:
    """Base class for the options of an architecture from transformers."""

    config: Path | None = None
    """Folder with a config.json that defines the network, in place of all other options."""

    def __post_init__(self) -> None:
        """Reject options that `config` would override."""
        others = [
            f.name
            for f in fields(self)
            if f.name != "config" and getattr(self, f.name) != f.default
        ]
        if self.config is not None and others:
            raise ValueError(f"config defines the whole network; leave out {', '.join(others)}")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the image files of a data set are interpreted."""

    exif: Literal["upright", "stored"] | None = None
    """Orientation of images with an EXIF rotation: `upright` applies it to image and label;
    `stored` ignores it. Default: upright, and an image whose label matches its size only as stored
    is an error."""
    bits: Annotated[int, Ge(8), Le(16)] = 16
    """Number of bits used in 16-bit images, e.g. `bits=12` for values 0..4095; 8-bit images are
    read as they are."""
    max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS
    """Maximum number of pixels of an image or label file; larger ones are refused before they are
    decoded."""
    max_bytes: Annotated[int, Ge(1)] = MAX_BYTES
    """Maximum size in bytes of an image or label file, also inside a tar or a parquet file; larger
    ones are refused before they are read."""


USUAL = Reading()
