"""Scoring: the network, data and metrics of an evaluation; and checks of metrics."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor

from segacc.contracts import Facts, LossTerm, MetricState
from segacc.data.batches import EvalData, Source
from segacc.data.items import Item
from segacc.data.streams import EvalStream
from segacc.errors import OptionError, Origin, SegaccError, first_of
from segacc.evaluation.loss import SplitLoss
from segacc.evaluation.memory import returned_of
from segacc.evaluation.metrics import Counts, check_metrics, counts_of, feed, joined
from segacc.evaluation.predict import decide_batch
from segacc.evaluation.protocol import Protocol, refuse_one_hot
from segacc.evaluation.scores import IGNORED, VAL_LOSS, Scores, Terms, Weights, flat
from segacc.hookspecs import Chosen, Sample, Stream
from segacc.kernels.resize import Decided
from segacc.labels import LabelMap
from segacc.model import SegmentationModel
from segacc.settings.commands import EvaluateConfig
from segacc.settings.config import TrainConfig

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
"""Distributed types whose forward calls gather weights from all processes."""

BATCH = 8
"""Default batch size of evaluation, in images of one size. On a CPU the default is 1, so that
scored predictions are bit for bit those that `segacc predict` writes, though a batch of 8 takes
SegFormer-b0 a third less time per image."""

LOSS = "--loss"
"""Key of the losses among the metrics."""


@dataclass
class Scoring:
    """The network, data, metrics and protocol of an evaluation, and its results."""

    accelerator: Any
    model: Any
    """The network as wrapped by accelerate: images to Logits."""
    network: SegmentationModel
    """The same network, unwrapped."""
    data: EvalData | EvalStream
    protocol: Protocol
    facts: Facts
    chosen: Sequence[Chosen]
    """The metrics."""
    num_workers: int = 0
    skip_unreadable: int = 0
    keep: frozenset[str] = frozenset()
    """Ids of the samples whose predictions are kept for pictures."""
    seen: Callable[[Item, Tensor, Counts | None], None] = lambda item, prediction, counts: None
    """Called for each image with its prediction (H, W) uint8 and its Counts, which are None for
    padding and unreadable images."""
    unreadable: set[str] = field(default_factory=set)
    """Messages about the unreadable files that were skipped so far."""
    num_images: int = 0
    """Number of images in the newest evaluation."""
    weights: Weights = "raw"
    """The kind of weights that the network has in the newest evaluation."""
    eval_batch_size: int | None = None
    """Maximum batch size, in images of one size; default `BATCH`, on a CPU 1."""
    counted: dict[str, MetricState] = field(default_factory=dict)
    """Metrics of the newest evaluation by text, with states summed over all processes."""
    ignored: str = IGNORED
    """Which pixels do not count, see `ignored_by`."""
    losses: Mapping[str, LossTerm] = field(default_factory=dict)
    """The losses of `val_loss`; only for a protocol that `has_loss`."""

    def metrics(self) -> dict[str, MetricState]:
        """Build empty metrics, keyed by their text, as `boundary_iou:dilation=0.01`."""
        chosen = {one.text: one.build(self.facts) for one in self.chosen}
        loss: Any = SplitLoss(self.losses, self.accelerator.device)
        return {**chosen, LOSS: loss} if self.losses else chosen

    def loader(self) -> Iterable[list[Item | SegaccError]]:
        """Return this process's share of the split, in batches of images of one size."""
        return self.data.batches(**self._cut(), num_workers=self.num_workers)

    def share(self) -> int | None:
        """Return the number of this process's images; None for a stream of unknown length."""
        return self.data.count(**self._cut())

    def stand_in(self) -> tuple[int, int]:
        """Return the (height, width) of the empty image that replaces an unreadable one."""
        return self.network.size_rule.fit((64, 64))

    def _cut(self) -> dict[str, int]:
        accelerator = self.accelerator
        one = accelerator.device.type == "cpu" or isinstance(self.data, EvalStream)
        return {
            "process": accelerator.process_index,
            "processes": accelerator.num_processes,
            "batch_size": self.eval_batch_size or (1 if one else BATCH),
        }

    def decide(self, images: Tensor) -> Decided:
        """Predict images (N, C, H, W) uint8 of one size, with what the metrics need."""
        given = self.model, self.network, images, self.protocol, self.most
        records = [one.record for one in self.chosen]
        with returned_of(images):
            return decide_batch(
                *given,
                confidence=any(one.wants_confidence for one in records),
                log_odds=any(one.wants_log_odds for one in records),
                logits=bool(self.losses),
            )

    def count(self, metrics: Mapping[str, Any], item: Item, found: Decided) -> Counts | None:
        """Count one image, and add it to the metrics.

        Args:
            metrics: the metrics by text.
            item: the image with its label.
            found: its prediction, N = 1.

        Returns:
            Its Counts; None for padding and unreadable images, which do not count.
        """
        if item.padding or item.unreadable:
            return None
        with returned_of(item.label):
            labels = item.label[None].to(found.classes.device)
            counts = counts_of(found.classes, labels, self.facts.num_classes)
            for one in self.chosen:
                feed(one, metrics[one.text], found, labels, counts)
            if self.losses:
                metrics[LOSS].add(found, labels.long())
        return counts

    def origin(self, name: str) -> Origin:
        """Return whose metric one of `metrics` is."""
        return next((one.origin for one in self.chosen if one.text == name), Origin(name))

    def terms(self) -> Terms:
        """Return the rules, the images and the weights of the newest evaluation."""
        return Terms(
            protocol=self.protocol.text(),
            num_images=self.num_images,
            weights=self.weights,
            precision=self._precision(),
            ignored=self.ignored,
        )

    def _precision(self) -> str:
        if self.network.precision:
            return self.network.precision
        chosen, device = str(self.accelerator.mixed_precision), self.accelerator.device
        cuda = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        return "tf32" if chosen == "no" and device.type == "cuda" and cuda else chosen

    def most(self, count: int) -> int:
        """Return the number of forward calls to make for a batch that needs `count` of them.

        All processes of a sharded network must make equally many, so it is the maximum over them.
        Only the number of windows differs, so either all processes call this or none.
        """
        if self.accelerator.distributed_type not in SHARDED:
            return count
        counts = torch.tensor([count], device=self.accelerator.device)
        return int(self.accelerator.gather(counts).max())


class ScoreKey:
    """The name of a score, as `mean_iou` or `per_category_iou/nucleus`.

    Attributes:
        by: the name.
        lower: whether lower values are better, by the record of its metric.
    """

    def __init__(
        self,
        by: str,
        chosen: Sequence[Chosen],
        empty: Mapping[str, MetricState],
        where: str = "--best-by",
    ) -> None:
        """Check that the metrics have this score.

        Raises:
            OptionError: they do not.
        """
        self.by, self.where, name = by, where, by.partition("/")[0]
        lower = [one.record.lower(one.options) for one in chosen]
        self.lower = any(name in names for names in (*lower, [VAL_LOSS]))
        self.value(joined(metric.compute() for metric in empty.values()))

    def better(self, value: float, than: float | None, by_more_than: float = 0.0) -> bool:
        """Return whether a value is better than an earlier one, if any; nan is never better."""
        if than is None or value != value:
            return value == value
        return (than - value if self.lower else value - than) > by_more_than

    def value(self, scores: Scores) -> float:
        """Look up the score.

        Raises:
            OptionError: there is no such score.
        """
        known = flat(scores)
        if self.by not in known:
            names = sorted(known, key=lambda name: "/" in name)  # those over all classes first
            told = first_of(names, 12)
            raise OptionError(f"{self.where} {self.by}: no such score. Known: {told}.")
        return float(known[self.by])


def scored_data(
    samples: Sequence[Sample] | Stream, labels: LabelMap, num_channels: int
) -> EvalData | EvalStream:
    """Return the data of a split for evaluation."""
    if isinstance(samples, Stream):
        return EvalStream(samples, labels, num_channels)
    return EvalData(Source(samples, labels, num_channels))


def checked_scoring(
    accelerator: Any,
    model: Any,
    network: SegmentationModel,
    data: EvalData | EvalStream,
    protocol: Protocol,
    *,
    facts: Facts,
    metrics: Sequence[Chosen],
    config: TrainConfig | EvaluateConfig,
    where: Callable[[str], str],
) -> Scoring:
    """Build a Scoring after checks of the metrics and of `eval_batch_size`.

    Args:
        accelerator: the accelerator.
        model: the network as wrapped by it.
        network: the same network, unwrapped.
        data: see `scored_data`.
        protocol: how images become the network's input.
        facts: the classes.
        metrics: the metrics.
        config: settings of the data loader and of what is unreadable.
        where: says where a setting was typed.

    Raises:
        PluginError: a metric is broken.
        OptionError: two metrics have a score of the same name, or batches of a stream are wanted.
    """
    check_metrics(metrics, facts, where("metric"))
    if any(one.record.wants_confidence or one.record.wants_log_odds for one in metrics):
        refuse_one_hot(network, where("metric"))
    refuse_batches(data, config.eval_batch_size, where("eval_batch_size"))
    return Scoring(
        accelerator,
        model,
        network,
        data,
        protocol,
        facts,
        metrics,
        num_workers=config.num_workers,
        skip_unreadable=config.skip_unreadable,
        eval_batch_size=config.eval_batch_size,
    )


def refuse_batches(data: EvalData | EvalStream, batch_size: int | None, where: str) -> None:
    """Refuse evaluation batches for a stream, as the sizes of its images are not known.

    Raises:
        OptionError: a batch size above 1 is given for a stream.
    """
    if isinstance(data, EvalStream) and (batch_size or 1) > 1:
        raise OptionError(
            f"{where}: {batch_size}: the evaluated split is a stream, which is scored image by "
            "image. Leave this out."
        )
