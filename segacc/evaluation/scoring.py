"""What an evaluation needs, and the scores by which it is judged."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor

from segacc.contracts import IGNORE, Facts, MetricState
from segacc.data.batches import MOST_PIXELS, EvalData, Item, Source
from segacc.data.streams import EvalStream
from segacc.errors import OptionError, PluginError, SegaccError
from segacc.evaluation.memory import memory_returned
from segacc.evaluation.predict import decide_batch
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.scores import Scores, Terms, Weights
from segacc.hookspecs import Chosen, Sample, Stream
from segacc.kernels.resize import Decided
from segacc.labels import LabelMap
from segacc.model import SegmentationModel

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
"""Ways to run in which a forward call gathers weights from all processes."""

BATCH = 8
"""Images of one size that are scored together where nobody said otherwise. On a CPU it is 1, so
that what is scored is to the last bit what `segacc predict` writes, though 8 take SegFormer-b0 a
third less time an image."""


@dataclass
class Scoring:
    """What an evaluation needs."""

    accelerator: Any
    model: Any
    """The network as accelerate wrapped it: images to Logits."""
    network: SegmentationModel
    """The same network, bare."""
    data: EvalData | EvalStream
    metrics: Callable[[], dict[str, MetricState]]
    """Makes empty metrics, by their texts, as `boundary_iou:dilation_ratio=0.01`."""
    protocol: Protocol
    num_workers: int = 0
    skip_unreadable: int = 0
    keep: frozenset[str] = frozenset()
    """Ids of the samples whose prediction is kept for pictures."""
    seen: Callable[[Item, Tensor], None] = lambda item, prediction: None
    """Called after each image, padding too, with its prediction (H, W) uint8."""
    unreadable: set[str] = field(default_factory=set)
    """What was passed over so far."""
    num_images: int = 0
    """Images that the newest evaluation scored."""
    weights: Weights = "raw"
    """What the network has when it is scored."""
    confident: frozenset[str] = frozenset()
    """Those of the metrics that want the confidence of each pixel."""
    eval_batch_size: int | None = None
    """Images of one size that are scored together, at most; default `BATCH`, on a CPU 1."""
    counted: dict[str, MetricState] = field(default_factory=dict)
    """Metrics of the newest evaluation, their states added up over all processes."""

    def loader(self) -> Iterable[list[Item | SegaccError]]:
        """Return this process's share of the split, in batches of images of one size."""
        return self.data.batches(**self._cut(), num_workers=self.num_workers)

    def share(self) -> int | None:
        """Count this process's images; None for a stream that nobody has counted."""
        return self.data.count(**self._cut())

    def stand_in(self) -> tuple[int, int]:
        """Return the (height, width) of what stands for an image that cannot be read."""
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
        """Predict images (N, C, H, W) uint8 of one size, with confidence where it is wanted."""
        given = self.model, self.network, images, self.protocol, self.most
        with returned_of(images):
            return decide_batch(*given, confidence=bool(self.confident))

    def count(self, metrics: Mapping[str, Any], found: Decided, label: Tensor) -> None:
        """Update metrics by one image: what was found of it, N = 1, and its label (H, W) uint8."""
        with returned_of(label):
            given = found.classes.long(), label[None].to(found.classes.device).long()
            for name, metric in metrics.items():
                metric.update(*given, *([found.confidence] if name in self.confident else []))

    def terms(self) -> Terms:
        """Tell what the scores of the newest evaluation were taken by, and on."""
        return Terms(
            protocol=self.protocol.text(),
            num_images=self.num_images,
            weights=self.weights,
            precision=self._precision(),
        )

    def _precision(self) -> str:
        chosen, device = str(self.accelerator.mixed_precision), self.accelerator.device
        cuda = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        return "tf32" if chosen == "no" and device.type == "cuda" and cuda else chosen

    def most(self, count: int) -> int:
        """Return how many forward calls to make for a batch that needs `count` of them.

        All processes of a sharded network must make as many: the most that any of them needs. Only
        windows differ in number, so all processes ask, or none.
        """
        if self.accelerator.distributed_type not in SHARDED:
            return count
        counts = torch.tensor([count], device=self.accelerator.device)
        return int(self.accelerator.gather(counts).max())


def returned_of(pixels: Tensor) -> AbstractContextManager[None]:
    """Give memory back at once where pictures (..., H, W) are large."""
    large = pixels.shape[-2] * pixels.shape[-1] > MOST_PIXELS
    return memory_returned() if large else nullcontext()


def joined(found: Iterable[Scores]) -> Scores:
    """Put the scores of several metrics together.

    Raises:
        OptionError: two of them give one name.
    """
    scores: Scores = {}
    for one in found:
        if twice := sorted(set(scores) & set(one)):
            raise OptionError(
                f"--metric: two metrics give the score {', '.join(twice)}; leave one out."
            )
        scores |= one
    return scores


class ScoreKey:
    """One of the scores by name, as `mean_iou` or `per_category_iou/nucleus`.

    Attributes:
        by: the name.
        lower: whether a lower value is the better one, as its metric's record says.
    """

    def __init__(
        self,
        by: str,
        chosen: Sequence[Chosen],
        empty: Mapping[str, MetricState],
        where: str = "--best-by",
    ) -> None:
        """Check that the metrics give such a score.

        Raises:
            OptionError: they do not.
        """
        self.by, (name, _, self.category) = by, by.partition("/")
        self.name, self.where = name, where
        self.lower = any(name in one.record.lower(one.options) for one in chosen)
        self.value(joined(metric.compute() for metric in empty.values()))

    def better(self, value: float, than: float | None, by_more_than: float = 0.0) -> bool:
        """Compare with an earlier value, if there is one; nan is never better."""
        if than is None or value != value:
            return value == value
        return (than - value if self.lower else value - than) > by_more_than

    def value(self, scores: Scores) -> float:
        """Look it up.

        Raises:
            OptionError: it is not there.
        """
        value = scores.get(self.name)
        if isinstance(value, dict):
            value = value.get(self.category)
        elif self.category:
            value = None
        if value is None:
            plain = [key for key, one in scores.items() if isinstance(one, float)]
            parts = [
                f"{key}/{part}"
                for key, many in scores.items()
                if isinstance(many, dict)
                for part in many
            ]
            known = ", ".join([*plain, *parts][:12])
            raise OptionError(f"{self.where} {self.by}: no such score. Known: {known}.")
        return value


def scored_data(
    samples: Sequence[Sample] | Stream, labels: LabelMap, num_channels: int
) -> EvalData | EvalStream:
    """Return a split as evaluation reads it."""
    if isinstance(samples, Stream):
        return EvalStream(samples, labels, num_channels)
    return EvalData(Source(samples, labels, num_channels))


def refuse_batches(data: EvalData | EvalStream, batch_size: int | None, where: str) -> None:
    """Refuse batches of a split that is streamed: the sizes to come are not known.

    Raises:
        OptionError: so.
    """
    if isinstance(data, EvalStream) and (batch_size or 1) > 1:
        raise OptionError(
            f"{where}: {batch_size}: the split that is scored is streamed, image by image. Leave "
            "this out."
        )


def confident(chosen: Sequence[Chosen]) -> frozenset[str]:
    """Tell by their texts the metrics that want the confidence of each pixel."""
    return frozenset(one.text for one in chosen if one.record.wants_confidence)


def build_metrics(chosen: Sequence[Chosen], facts: Facts) -> dict[str, MetricState]:
    """Build empty metrics by their texts: of `evaluate:...` there may be several."""
    return {one.text: one.record.build(one.options, facts) for one in chosen}


def check_metrics(chosen: Sequence[Chosen], facts: Facts, where: str) -> None:
    """Try each metric on two small images: processes will add up its states.

    Raises:
        PluginError: it would give wrong scores, or take the worst for the best.
    """
    for one in chosen:
        empty = one.record.build(one.options, facts)
        try:
            if getattr(empty, "state", None) == {}:  # it gathers by itself
                complaint = _misnamed(one, empty.compute())
            else:
                complaint = _not_additive(one, empty, facts)
                complaint = complaint or _misnamed(one, _fed(one, facts, 0, 1).compute())
        except SegaccError:
            raise
        except Exception as error:  # a stranger's code
            complaint = f"it fails on a small image: {type(error).__name__}: {error}"
        if complaint:
            raise PluginError(f"{where} {one.text}: {complaint}. That is a fault of its plugin.")


def _misnamed(one: Chosen, scores: Scores) -> str:
    names = one.record.lower(one.options)
    if isinstance(names, str):
        return f'lower_is_better is the text "{names}"; expected is a tuple of names'
    unknown = ", ".join(name for name in names if name not in scores)
    known = ", ".join(scores) or "none"
    return f"lower_is_better names {unknown}, no score of it; its scores: {known}" * bool(unknown)


def _not_additive(one: Chosen, metric: MetricState, facts: Facts) -> str:
    """Say in what a state is no sum over images; empty where it is one."""
    empty: Any = metric.state
    first, second, both = (_fed(one, facts, *images).state for images in ([0], [1], [0, 1]))
    for state in (empty, first, second, both):
        if not isinstance(state, dict) or not all(map(_adds, state.values())):
            return "its state must be a dict of tensors of numbers, which processes add up"
        if _forms(state) != _forms(empty):
            return (
                f"its state changes when images are counted, from {_forms(empty)} to "
                f"{_forms(state)}; expected are the same names, shapes and dtypes from the start"
            )
    for name, whole in both.items():
        total, slack = first[name] + second[name], 1e-5 if whole.is_floating_point() else 0.0
        if not torch.allclose(total.double(), whole.double(), rtol=slack, atol=slack):
            return (
                f'its state "{name}" of two images is not the sum of those of each, as it must be '
                "over processes: keep sums and counts there, and divide in compute()"
            )
    return ""


def _fed(one: Chosen, facts: Facts, *images: int) -> Any:
    """Build a metric that has counted the first or the second of two small images, or both."""
    draw = torch.Generator().manual_seed(0)
    labels, predictions = torch.randint(facts.num_classes, (2, 2, 1, 24, 32), generator=draw)
    labels[..., :4] = IGNORE
    more = [torch.full((1, 24, 32), 0.75)] if one.record.wants_confidence else []
    metric = one.record.build(one.options, facts)
    for k in images:
        metric.update(predictions[k].clone(), labels[k].clone(), *more)
    return metric


def _adds(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype != torch.bool


def _forms(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{str(one.dtype).removeprefix('torch.')} {tuple(one.shape)}"
        for name, one in state.items()
    }
