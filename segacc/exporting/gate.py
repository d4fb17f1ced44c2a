"""The proof of an exported file: it predicts real images as the network in torch does."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segacc.evaluation.predict import predict
from segacc.evaluation.scores import finite
from segacc.evaluation.segmenter import Segmenter
from segacc.kernels.counts import class_counts, iou
from segacc.kernels.resize import confusion
from segacc.model import Logits

BARS = {"float32": (0.999, 0.001), "half": (0.995, 0.003)}
"""For each precision the least share of equal pixels, and the largest difference of mean_iou."""


@dataclass(frozen=True)
class Picture:
    """A real image, with its label if it has one."""

    id: str
    image: Tensor
    """(C, H, W) uint8."""
    label: Tensor | None = None
    """(H, W) uint8, 255 ignored."""
    source: Path | bytes | None = None
    """Its encoded file; None for a sample of a stream."""


@dataclass(frozen=True)
class Compared:
    """An image predicted by torch and by the file."""

    id: str
    size: tuple[int, int]
    equal: float
    """Share of the pixels with the same class."""
    gap: float
    """Largest difference of a logit; inf if their shapes differ, nan for a file that returns
    classes."""
    largest: float
    """Largest absolute logit of torch."""


@dataclass
class Proof:
    """The comparison of an exported file with the network in torch."""

    precision: str
    names: tuple[str, ...]
    padded: bool = False
    """Whether images were padded with a rounded colour."""
    images: list[Compared] = field(default_factory=list)
    counts: dict[str, Tensor] = field(default_factory=dict)
    """Confusion matrices (K, K) of `torch` and `file` over the labelled images."""

    @property
    def equal(self) -> float:
        """Share of equal pixels over all images."""
        pixels = [math.prod(one.size) for one in self.images]
        same = sum(one.equal * count for one, count in zip(self.images, pixels, strict=True))
        return same / sum(pixels)

    @property
    def worst(self) -> Compared:
        """The image with the most different pixels."""
        return min(self.images, key=lambda one: one.equal)

    def iou(self, which: str) -> list[float]:
        """Return the IoU of each class; nan for one that does not occur."""
        return each_iou(self.counts[which])

    def mean_iou(self, which: str) -> float | None:
        """Return the mean IoU of the classes that occur; None without labels."""
        return mean_iou(self.counts[which]) if which in self.counts else None

    @property
    def loss(self) -> float | None:
        """How much mean_iou is lower in the file than in torch; None without labels."""
        before, after = self.mean_iou("torch"), self.mean_iou("file")
        return None if before is None or after is None else before - after

    @property
    def failure(self) -> str:
        """Why the file is not as good as its precision demands; empty if it is."""
        if self.precision not in BARS:
            return ""
        least, most = BARS[self.precision]
        if self.equal >= least and abs(self.loss or 0.0) <= most:
            return ""
        reasons = []
        if self.equal < least:
            reasons.append(f"{100 * self.equal:.3f} % of the pixels are equal, not {100 * least:g}")
        if abs(self.loss or 0.0) > most:
            reasons.append(f"mean_iou differs by {abs(self.loss or 0.0):.4f}, more than {most:g}")
        worst = self.worst
        size = "x".join(map(str, worst.size))
        told = f"{' and '.join(reasons)}. The worst image is {worst.id} ({size}, "
        told += f"{100 * worst.equal:.2f} % equal"
        if not math.isnan(worst.gap):
            told += f"; logits differ by up to {worst.gap:.3g}, the largest is {worst.largest:.3g}"
        return f"{told}). {self.likely()}"

    def likely(self) -> str:
        """Return the likely reason of a failure."""
        sizes = {one.size for one in self.images if one.equal >= BARS["float32"][0]}
        bad = {one.size for one in self.images if one.equal < BARS["float32"][0]}
        gaps = [one.gap / max(one.largest, 1e-12) for one in self.images]
        if self.precision == "half":
            return "Likely reason: values too large or too close for float16; leave out --half."
        if any(math.isnan(gap) for gap in gaps):
            return "Likely reason: an image is resized differently; export without --argmax."
        if max(gaps) == math.inf:
            return "The logits have other shapes: images are padded to another size."
        if self.padded:
            return "Likely reason: 8 bits round the colour of padding; give --input float32."
        if sizes and bad and not sizes & bad:
            return (
                "Images of some sizes are right and of others wrong: likely reason: the network "
                "computes a size in Python, which is fixed in the file; give --size HxW."
            )
        if max(gaps) < 1e-3:
            return (
                "The logits are nearly equal: likely reason: the network is hardly trained, so "
                "that its classes have nearly equal logits."
            )
        return "Likely reason: an operation of the network is converted wrongly."

    def to_dict(self) -> dict[str, Any]:
        """Return the proof for FILE.json."""
        labelled = "torch" in self.counts
        classes = (
            {
                name: {"torch": before, "file": after}
                for name, before, after in zip(
                    self.names, self.iou("torch"), self.iou("file"), strict=True
                )
            }
            if labelled
            else {}
        )
        found: dict[str, Any] = finite(
            {
                "passed": not self.failure,
                "precision": self.precision,
                "num_images": len(self.images),
                "equal_pixels": self.equal,
                "worst_image": {"id": self.worst.id, "equal_pixels": self.worst.equal},
                "largest_logit_difference": max(one.gap for one in self.images),
                "mean_iou": {key: self.mean_iou(key) for key in ("torch", "file")},
                "per_category_iou": classes,
            }
        )
        return found


class Watched:
    """Runs a network and keeps its logits, or compares them with those of an earlier run."""

    def __init__(self, network: Any, before: "Watched | None" = None) -> None:
        """Watch a network; `before` ran on the same images."""
        self.network, self.before = network, before
        self.kept: list[Tensor] = []
        self.gap, self.largest = 0.0, 0.0

    def __call__(self, images: Tensor) -> Logits:
        """Run the network."""
        found: Logits = self.network(images)
        if self.before is None:
            self.kept.append(found.main)
            self.largest = max(self.largest, found.main.abs().max().item())
        else:
            other = self.before.kept.pop(0)
            same = other.shape == found.main.shape
            gap = (other - found.main).abs().max().item() if same else math.inf
            self.gap = max(self.gap, gap)
        return found


def compare(
    pictures: Sequence[Picture] | Iterator[Picture],
    torch_one: Segmenter,
    file_one: Segmenter,
    precision: str,
) -> Proof:
    """Predict images with torch and with the file, and compare.

    Args:
        pictures: the images.
        torch_one: the network in torch, under the protocol of the file.
        file_one: the file.
        precision: that of the file.
    """
    one_hot = file_one.network.one_hot
    proof = Proof(precision, torch_one.labels.names)
    for picture in pictures:
        first = Watched(torch_one.network)
        second = Watched(file_one.network, None if one_hot else first)
        image = picture.image.to(torch_one.device)
        mine = predict(first, torch_one.network, image, torch_one.protocol).cpu()
        theirs = predict(second, file_one.network, image, file_one.protocol).cpu()
        size = (mine.shape[0], mine.shape[1])
        proof.padded |= rounds(file_one) and is_padded(file_one, size)
        equal = (mine == theirs).double().mean().item()
        gap = math.nan if one_hot else second.gap
        proof.images.append(Compared(picture.id, size, equal, gap, first.largest))
        if picture.label is not None:
            for name, classes in (("torch", mine), ("file", theirs)):
                counted = confusion(classes[None], picture.label[None], len(proof.names))
                proof.counts[name] = proof.counts.get(name, torch.zeros_like(counted)) + counted
    return proof


def rounds(segmenter: Segmenter) -> bool:
    """Return whether a file gets a colour of padding that was rounded to 8 bits."""
    found = getattr(segmenter.network, "dtype", torch.float32) == torch.uint8
    return found and not segmenter.network.one_hot


def is_padded(segmenter: Segmenter, size: tuple[int, int]) -> bool:
    """Return whether an image of (height, width) is padded before the network sees it."""
    protocol = segmenter.protocol
    seen = protocol.seen_size(size)
    return protocol.padded(seen, segmenter.network.size_rule) != seen


def each_iou(matrix: Tensor) -> list[float]:
    """Return the IoU of each class from a confusion matrix (K, K); nan for one that is absent."""
    found: list[float] = iou(class_counts(matrix)).tolist()
    return found


def mean_iou(matrix: Tensor) -> float | None:
    """Return the mean IoU of the classes that occur; None if none does."""
    known = [value for value in each_iou(matrix) if not math.isnan(value)]
    return sum(known) / len(known) if known else None
