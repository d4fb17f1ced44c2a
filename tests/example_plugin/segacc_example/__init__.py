"""An example plugin for segacc: one component of each kind. Copy it and change it.

Importing this module is cheap: torch, numpy and Pillow are imported where they are needed.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

import segacc
from segacc import Augmentation, Dataset, DataSplits, Facts, LabelMap, Loss, Metric, Sample

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class UNetOptions:
    """Options of unet_small."""

    width: Annotated[int, Ge(1)] = 16
    """Channels at full resolution; each level below has twice as many."""
    depth: Annotated[int, Ge(1), Le(6)] = 3
    """How often the resolution is halved."""


def build_unet(options: UNetOptions, facts: Facts) -> "segacc.model.SegmentationModel":
    """Build the network with random weights; logits at the image's size."""
    from segacc_example.unet import UNet

    return UNet(options.width, options.depth, facts.num_channels, facts.num_classes)


@dataclass(frozen=True, kw_only=True)
class ShapesOptions:
    """Options of shapes."""

    num_images: Annotated[int, Ge(1)] = 64
    """Images of the training split; the validation split has a quarter as many."""
    size: Annotated[int, Ge(16)] = 64
    """Height and width of the images in pixels."""
    seed: Annotated[int, Ge(0)] = 0
    """Other shapes for another number."""


@dataclass(frozen=True)
class Shapes(Sequence[Sample]):
    """A rectangle and a circle on noise, drawn when asked for, from seed and index alone."""

    split: str
    num_images: int
    size: int
    seed: tuple[int, int]

    def __len__(self) -> int:
        """Count the images."""
        return self.num_images

    def __getitem__(self, index: Any) -> Any:
        """Draw one Sample: an RGB picture and its label, both as PNG."""
        import numpy as np

        if not 0 <= index < self.num_images:
            raise IndexError(index)
        random = np.random.default_rng((*self.seed, index))
        y, x = np.mgrid[: self.size, : self.size]
        label = np.zeros((self.size, self.size), np.uint8)
        top, left = random.integers(0, self.size // 2, 2)
        tall, wide = random.integers(self.size // 6, self.size // 2, 2)
        label[top : top + tall, left : left + wide] = 1
        centre_y, centre_x = random.integers(self.size // 4, self.size, 2)
        radius = random.integers(self.size // 10 + 1, self.size // 4)
        label[(y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius**2] = 2
        colours = random.integers(
            [(0, 0, 0), (150, 0, 0), (0, 0, 150)], [(90, 90, 90), (255, 99, 99), (99, 99, 255)]
        )
        noise = random.integers(0, 30, (self.size, self.size, 3))
        image = np.clip(colours[label] + noise, 0, 255).astype(np.uint8)
        return Sample(_png(image), _png(label), f"{self.split}-{index}")


def _png(array: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def build_shapes(options: ShapesOptions) -> DataSplits:
    """Make two splits that share no image."""
    counts = {"train": options.num_images, "validation": max(1, options.num_images // 4)}
    splits = {
        split: Shapes(split, count, options.size, (options.seed, number))
        for number, (split, count) in enumerate(counts.items())
    }
    return DataSplits(splits, LabelMap.plain(("background", "rectangle", "circle")))


def build_quarter_turn(options: Any, facts: Facts) -> Callable[..., Any]:
    """Build torchvision's rotation by 90 degrees, which moves image and label together."""
    from torchvision.transforms import v2

    turn = v2.RandomRotation((90, 90), expand=True)  # height and width change places
    sometimes: Callable[..., Any] = v2.RandomApply([turn], 0.5)
    return sometimes


class Dice:
    """1 - soft Dice, averaged over the classes of one image (Milletari et al. 2016, V-Net).

    An image's loss does not depend on the others of its batch, so sum and count, both over
    images, give the same mean however the batch is cut. Dice over a whole batch would not.
    """

    smooth = 1.0
    """Pixels added above and below the fraction, so that an absent class does not divide by 0."""

    def __init__(self, options: segacc.LossOptions, facts: Facts) -> None:
        """Keep what is needed; segacc itself multiplies the loss by `options.weight`."""
        self.ignore_index = facts.ignore_index

    def count(self, labels: "Tensor") -> "Tensor":
        """Count the images of labels (N, H, W) with a pixel not ignored: a float32 scalar."""
        return (labels != self.ignore_index).any(-1).any(-1).sum().float()

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over images, of logits (N, K, h, w) resized to labels (N, H, W): a float32 scalar."""
        from torch.nn.functional import one_hot

        from segacc.kernels.resize import resize_to_labels

        valid = (labels != self.ignore_index).unsqueeze(1)  # (N, 1, H, W)
        guess = resize_to_labels(logits, labels).softmax(1) * valid  # (N, K, H, W)
        classes = one_hot(labels.where(valid.squeeze(1), 0), logits.shape[1])  # (N, H, W, K)
        truth = classes.permute(0, 3, 1, 2) * valid
        pixels = (-2, -1)
        overlap = 2 * (guess * truth).sum(pixels) + self.smooth  # (N, K)
        dice = overlap / (guess.sum(pixels) + truth.sum(pixels) + self.smooth)
        return (1 - dice.mean(1)).sum()


class PixelCounts:
    """How many pixels of each class there are in the labels, and how many were predicted."""

    def __init__(self, options: Any, facts: Facts) -> None:
        """Start at zero; integers add up over processes without rounding."""
        import torch

        self.names, self.ignore = facts.class_names, facts.ignore_index
        self.state = {
            name: torch.zeros(len(self.names), dtype=torch.int64)
            for name in ("labelled", "predicted")
        }

    def update(self, predictions: "Tensor", labels: "Tensor") -> None:
        """Count predictions (N, H, W) and labels (N, H, W) where the label is not ignored."""
        valid = labels != self.ignore
        for name, classes in (("labelled", labels), ("predicted", predictions)):
            counts = classes[valid].long().bincount(minlength=len(self.names))
            self.state[name] = self.state[name].to(counts.device) + counts

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return the counts by class, and area_error: the share of pixels in surplus classes."""
        labelled, predicted = self.state["labelled"].double(), self.state["predicted"].double()
        surplus = (predicted - labelled).clamp(min=0).sum() / labelled.sum()
        return {
            "area_error": surplus.item(),
            "labelled_pixels": dict(zip(self.names, labelled.tolist(), strict=True)),
            "predicted_pixels": dict(zip(self.names, predicted.tolist(), strict=True)),
        }


@segacc.hookimpl
def segacc_architectures() -> Iterator[segacc.Architecture]:
    yield segacc.Architecture(
        name="unet_small", summary="U-Net of plain torch", options=UNetOptions, build=build_unet
    )


@segacc.hookimpl
def segacc_datasets() -> Iterator[Dataset]:
    yield Dataset(
        name="shapes", summary="shapes on noise", options=ShapesOptions, build=build_shapes
    )


@segacc.hookimpl
def segacc_augmentations() -> Iterator[Augmentation]:
    yield Augmentation(name="quarter_turn", summary="turn by 90 degrees", build=build_quarter_turn)


@segacc.hookimpl
def segacc_losses() -> Iterator[Loss]:
    yield Loss(name="soft_dice", summary="1 - soft Dice of each image", build=Dice)


@segacc.hookimpl
def segacc_metrics() -> Iterator[Metric]:
    yield Metric(
        name="pixel_counts",
        summary="labelled and predicted pixels by class, and the error of area",
        build=PixelCounts,
        lower_is_better=("area_error",),
    )
