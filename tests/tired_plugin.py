"""A plugin whose code passes all checks before training and fails later; `case` says where.

`offered` in tests/plugins/test_plugin_late.py offers it in the process of a test.
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

import segacc
from cli_tools import draw


@dataclass(frozen=True)
class Options:
    """Where the code fails, and after how many calls."""

    case: str = ""
    calls: int = 4


class Tired:
    """Raises after some calls."""

    def __init__(self, options: Options) -> None:
        self.case, self.left = options.case, options.calls

    def at(self, case: str) -> None:
        """Count a call in `case`, or in `case-1` on process 1 alone."""
        self.left -= self.case in (case, f"{case}-{os.environ.get('RANK')}")
        if self.left < 0 and self.case == "memory":
            raise torch_error()
        if self.left < 0:
            raise ValueError("too tired")


def torch_error() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Loss(Tired):
    """Cross-entropy."""

    def count(self, labels: Any) -> Any:
        self.at("count")
        return (labels != 255).sum().float()

    def sum(self, logits: Any, labels: Any) -> Any:
        from torch.nn.functional import cross_entropy

        from segacc.kernels.resize import resize_to_labels

        self.at("sum")
        self.at("memory")
        full = backward_of(self).apply(resize_to_labels(logits, labels))
        found = cross_entropy(full, labels, ignore_index=255, reduction="sum")
        self.left -= self.case == "vector"
        return found[None] if self.case == "vector" and self.left < 0 else found


def backward_of(loss: Loss) -> Any:
    from torch.autograd import Function

    class Through(Function):
        @staticmethod
        def forward(ctx: Any, logits: Any) -> Any:
            return logits.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            loss.at("backward")
            return gradient

    return Through


def network(options: Options, facts: segacc.Facts) -> Any:
    from torch import nn

    from segacc.model import Logits, SegmentationModel

    class Network(SegmentationModel):
        def __init__(self) -> None:
            super().__init__()
            self.tired = Tired(options)
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
            self.head = nn.Conv2d(4, facts.num_classes, 1)

        def on_step(self, step: int, total: int) -> None:
            self.tired.at("on_step")

        def forward(self, images: Any) -> Any:
            self.tired.at("forward" if self.training else "evaluation")
            logits = self.head(self.body(images).relu())
            bare = self.tired.case == "bare" and not self.training
            return logits if bare else Logits(logits)

    return nn.Linear(1, 1) if options.case == "linear" else Network()


def weights(options: Options) -> None:
    Tired(options).at("weights")


class Change(Tired):
    """Changes nothing."""

    def __call__(self, image: Any, label: Any) -> Any:
        self.at("worker")
        self.at("device")
        return image, label


class BatchChange(Tired):
    """Changes nothing."""

    def draw(self, image: Any, label: Any) -> Any:
        import torch

        self.at("draw")
        return torch.zeros(1)

    def __call__(self, images: Any, labels: Any, drawn: Any) -> Any:
        self.at("batch")
        return images, labels


def augmentation(options: Options, facts: segacc.Facts) -> Any:
    return BatchChange(options) if options.case in ("draw", "batch") else Change(options)


class Share(Tired):
    """The share of the correct pixels."""

    def __init__(self, options: Options, facts: segacc.Facts) -> None:
        import torch

        super().__init__(options)
        self.state = {"right": torch.zeros(2, dtype=torch.int64)}

    def update(self, predictions: Any, labels: Any) -> None:
        import torch

        self.at("update")
        valid = labels != 255
        found = torch.stack([(predictions == labels)[valid].sum(), valid.sum()])
        self.state["right"] = self.state["right"].to(labels.device) + found

    def compute(self) -> Any:
        right, count = self.state["right"].tolist()
        if count > 2000:
            self.at("compute")
        if self.case == "empty" or self.case == "list":
            return right / count if self.case == "empty" else [right]
        return {"share": right / count if count else float("nan")}


class Lazy(Sequence[segacc.Sample]):
    """Samples that are made on access."""

    def __init__(self, options: Options) -> None:
        self.tired = Tired(options)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):
            raise IndexError(index)
        self.tired.at("lazy")
        files = [io.BytesIO(), io.BytesIO()]
        for file, pixels in zip(files, draw((5, index), (48, 64)), strict=True):
            Image.fromarray(pixels).save(file, format="png")
        sample = segacc.Sample(*(file.getvalue() for file in files), str(index))
        return tuple(files) if self.tired.case == "tuple" else sample


def data(options: Options) -> Any:
    lazy: Any = {"set": {1, 2}, "files": [b"", b""]}.get(options.case, Lazy(options))
    labels = segacc.LabelMap.plain(("background", "disc", "bar"))
    splits: Any = {"train": lazy, "validation": lazy}
    return splits if options.case == "dict" else segacc.DataSplits(splits, labels)


@segacc.hookimpl
def segacc_losses() -> Iterator[segacc.Loss]:
    yield segacc.Loss(
        name="tired", summary="s", options=Options, build=lambda options, facts: Loss(options)
    )


@segacc.hookimpl
def segacc_architectures() -> Iterator[segacc.Architecture]:
    yield segacc.Architecture(
        name="tired", summary="s", options=Options, build=network, default_weights=weights
    )


@segacc.hookimpl
def segacc_augmentations() -> Iterator[segacc.Augmentation]:
    yield segacc.Augmentation(
        name="tired",
        summary="s",
        options=Options,
        build=augmentation,
        on=lambda options: {"draw": "batch"}.get(options.case, options.case),
    )


@segacc.hookimpl
def segacc_metrics() -> Iterator[segacc.Metric]:
    yield segacc.Metric(name="tired", summary="s", options=Options, build=Share)


@segacc.hookimpl
def segacc_datasets() -> Iterator[segacc.Dataset]:
    yield segacc.Dataset(name="tired", summary="s", options=Options, build=data)
