"""What a run tells a component and what it gets back: facts, losses, metrics, batches."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


IGNORE = 255
"""The class id of a pixel that counts for nothing, everywhere inside segacc."""

VERSION = "0.1.0"
"""Of segacc, which the folders that it writes carry."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a run knows before it builds its components."""

    num_classes: int
    """K, the ignored one not counted."""
    class_names: tuple[str, ...]
    ignore_index: int = 255
    crop_size: tuple[int, int] = (256, 256)
    """(height, width) in pixels of what the network sees in training."""
    num_channels: int = 3
    seed: int = 0
    class_weights: tuple[float, ...] | None = None
    """K factors that `--class-weights` asks the losses for; None where it was not given."""
    class_shares: tuple[float, ...] | None = None
    """K shares of the labelled pixels of the training split; None where nothing asked for them."""


class LossTerm(Protocol):
    """A loss as the loop uses it: a sum and its count, for a division that is always exact."""

    def count(self, labels: "Tensor") -> "Tensor":
        """Weigh labels (N, H, W) int64, 255 ignored: the float scalar that divides `sum`."""

    def sum(self, logits: Any, labels: "Tensor") -> "Tensor":
        """Sum over logits (N, K, h, w), at the size of labels (N, H, W) int64: a float scalar.

        A network's own loss is given the network's `queries` in place of logits.
        """


class MetricState(Protocol):
    """A metric as the loop uses it: states that add up over images and processes."""

    state: dict[str, "Tensor"]
    """Tensors whose sums over processes are the state of the whole split; integers stay exact.
    Empty for a metric that gathers by itself."""

    def update(self, predictions: "Tensor", labels: "Tensor") -> None:
        """Count predictions (N, H, W) int64 against labels (N, H, W) int64, 255 ignored.

        Of a metric with `wants_confidence` it has a third parameter `confidence`: (N, H, W)
        float32, the probability of the predicted class, 0..1.
        """

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return scores by name, a mapping for scores by class name; empty states give nan.

        All processes call it, when the states are added up; what the main process returns counts.
        """


class MetricFiles(Protocol):
    """What a metric with `writes` has beside."""

    def write(self, folder: Path) -> None:
        """Write files, no folders, into a folder; the main process calls it after `compute`."""


class BatchChange(Protocol):
    """An augmentation of whole batches: each sample's parameters are drawn in the worker.

    With `takes_bytes = True` it is given uint8 where the images still are. One that has
    `draws_unseen = True` does not look at pixels or sizes: a crop may leave scaling to the device.
    """

    def draw(self, image: "Tensor", label: "Tensor") -> "Tensor":
        """Draw the parameters of one sample: float32, of one shape for all samples.

        It is given plain tensors as they leave the worker, image (C, H, W) and label (H, W) uint8,
        or with `draws_unseen` a window; it may draw from torch, numpy and `random`.
        """

    def __call__(
        self, images: "Tensor", labels: "Tensor", drawn: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        """Change images (N, C, H, W) float32 in 0..255 and labels (N, H, W) uint8, on the device.

        Args:
            images: as `draw` saw them, or as the one before left them; with `takes_bytes` uint8
                unless one before it made them float32.
            labels: 255 is ignored.
            drawn: (N, ...) float32, what `draw` gave for each.

        Returns:
            The same shapes and dtypes. A sample's result must not depend on the others.
        """


@dataclass(frozen=True, kw_only=True)
class TransformersOptions:
    """What the options of an architecture of transformers start with."""

    config: Path | None = None
    """Folder whose config.json gives the sizes, in place of all other options."""

    def __post_init__(self) -> None:
        """Refuse what `config` would override."""
        others = [
            f.name
            for f in fields(self)
            if f.name != "config" and getattr(self, f.name) != f.default
        ]
        if self.config is not None and others:
            raise ValueError(f"config gives all sizes; leave {', '.join(others)} out")
