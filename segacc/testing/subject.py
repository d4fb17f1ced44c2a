"""An architecture under test: how it is built, called and trained."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from segacc.contracts import Facts, LossTerm
from segacc.hookspecs import Architecture
from segacc.loop import loss_sums
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.testing.tools import Report, facts_of, registry_of, some_images, some_labels


@dataclass(frozen=True)
class Subject:
    """An architecture with options, and run facts that its size rule accepts."""

    report: Report
    record: Architecture
    options: Any
    facts: Facts

    def build(
        self, *, seed: int = 0, num_classes: int = 0, options: Any = None, **facts: Any
    ) -> SegmentationModel:
        """Build the network like a run, with random weights from `seed`, in evaluation mode."""
        if num_classes:
            facts |= {"num_classes": num_classes}
            facts |= {"class_names": facts_of(num_classes).class_names}
        told = replace(self.facts, **facts)
        torch.manual_seed(seed)
        network = self.record.build(self.options if options is None else options, told)
        kind = f"{type(network).__module__}.{type(network).__qualname__}"
        fine = isinstance(network, SegmentationModel)
        self.report.require(fine, "build() to return a segacc.model.SegmentationModel", kind)
        network.num_channels = told.num_channels
        network.eval()
        return network

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels that the network accepts."""
        return self.facts.crop_size

    def images(self, network: SegmentationModel, size: tuple[int, int] = (0, 0)) -> Tensor:
        """Return a batch of two normalized images (2, C, H, W) float32."""
        images = some_images(size if size[0] else self.size)
        channels = [k % 3 for k in range(network.num_channels)]
        return network.normalize(images[:, channels])

    def labels(self, num_classes: int = 0) -> Tensor:
        """Return labels (2, H, W) int64 for such a batch."""
        return some_labels(self.size, num_classes or self.facts.num_classes)

    def loss(self, network: SegmentationModel, logits: Logits, labels: Tensor) -> Tensor:
        """Return a run's loss for one micro-batch: a float scalar."""
        losses = losses_of(network, self.facts)
        run: Any = SimpleNamespace(losses=losses)
        counts = torch.stack([loss.count(labels) for loss in losses.values()])
        return (loss_sums(run, logits, labels) / counts.where(counts > 0, 1)).sum()


def losses_of(network: SegmentationModel, facts: Facts) -> dict[str, LossTerm]:
    """Return the network's own losses, or cross-entropy."""
    if own := network.losses(facts):
        return own
    record = registry_of().find("loss", "cross_entropy", "segacc.testing")
    return {"cross_entropy": record.build(record.options(), facts)}


def subject_of(record: Architecture, options: Any) -> Subject:
    """Choose a small crop that the network accepts."""
    report = Report(record, options)
    with report.attempt("the network to be built"):
        subject = Subject(report, record, options, facts_of(3, crop_size=(64, 64)))
        rule = subject.build().size_rule
        fine = isinstance(rule, SizeRule)
        report.require(fine, "size_rule to be a segacc.model.SizeRule", type(rule).__name__)
        crop = rule.fit((64, 64))
        return replace(subject, facts=replace(subject.facts, crop_size=crop))
