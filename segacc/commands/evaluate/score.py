"""`segacc evaluate`: score a model folder on a split, on any number of processes."""

import re
from bisect import insort
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from rich.console import Console

from segacc.commands.evaluate.bootstrap import Intervals, intervals
from segacc.commands.evaluate.per_image import ImageCounts, PerImage
from segacc.commands.terminal.console import Where, progress_bar
from segacc.contracts import VERSION, Facts
from segacc.data.pictures import Example, draw_examples, shrunk
from segacc.data.splits import ALSO, VALIDATION, data_splits, pick_split, split_name
from segacc.errors import OptionError
from segacc.evaluation.model_folder import Model, run_settings, side_file
from segacc.evaluation.scores import Scores, Weights, finite, ignored_by
from segacc.evaluation.scoring import (
    Scoring,
    checked_scoring,
    scored_data,
)
from segacc.evaluation.segmenter import Segmenter, relabel, with_settings
from segacc.hookspecs import Chosen
from segacc.labels import Color
from segacc.loop import evaluate
from segacc.settings.commands import EvaluateConfig
from segacc.settings.sources import plain
from segacc.training.processes import start_accelerator

if TYPE_CHECKING:
    from torch import Tensor

    from segacc.data.items import Item
    from segacc.evaluation.metrics import Counts

COUNT = 20
"""Number of worst images that are kept."""


@dataclass(frozen=True)
class Bad:
    """One of the worst images, with its counts and the content of its panel."""

    counts: ImageCounts
    example: Example
    """Image, label and prediction, resized to a panel to save memory."""

    @property
    def key(self) -> tuple[float, str]:
        """Sort key: the lowest mean IoU first, then by id."""
        return self.counts.mean_iou, self.counts.id


@dataclass
class Worst:
    """Collects the images of this process with the lowest mean IoU."""

    count: int = COUNT
    kept: list[Bad] = field(default_factory=list)
    """At most `count` images, the worst one first."""

    def add(self, counts: ImageCounts, item: "Item", prediction: "Tensor") -> None:
        """Keep an image if it is one of the worst and has a valid pixel."""
        score = counts.mean_iou
        full = len(self.kept) == self.count
        if isnan(score) or (full and (score, counts.id) >= self.kept[-1].key):
            return
        example = Example(item.id, item.image, item.label, prediction.cpu())
        insort(self.kept, Bad(counts, shrunk(example)), key=lambda bad: bad.key)
        del self.kept[self.count :]

    def of_all(self) -> list[Bad]:
        """Return the worst images of all processes, on every process; all must call it."""
        keys: Any = gather_object([bad.key for bad in self.kept])
        chosen = set(sorted(keys)[: self.count])
        found: list[Bad] = gather_object([bad for bad in self.kept if bad.key in chosen])
        return sorted(found, key=lambda bad: bad.key)


def draw_worst(
    worst: Sequence[Bad], folder: Path, *, names: Sequence[str], palette: Sequence[Color]
) -> None:
    """Write a panel RANK-iou-SCORE-ID.png for each, and delete those of an earlier evaluation.

    Args:
        worst: the images, the worst one first.
        folder: the folder; it is created if missing.
        names: K class names.
        palette: K RGB colours, 0..255.
    """
    for old in folder.glob("[0-9][0-9]-iou-[01].[0-9][0-9][0-9][0-9]-*.png"):
        old.unlink()
    for rank, bad in enumerate(worst, 1):
        counts = bad.counts
        plain = re.sub(r"[^\w.+-]+", "_", counts.id)[-80:]
        told = f"mean IoU {counts.mean_iou:.4f} over {len(counts.classes)} classes, "
        told += f"{100 * counts.overall_accuracy:.1f} % of the pixels correct"
        draw_examples(
            [bad.example],
            names=names,
            palette=palette,
            path=folder / f"{rank:02}-iou-{counts.mean_iou:.4f}-{plain}.png",
            title=f"{rank} of the {len(worst)} worst images: {counts.id}",
            captions=[told],
        )


@dataclass
class Collector:
    """Collects counts and worst images while this process scores its share."""

    names: tuple[str, ...]
    """K class names."""
    images: list[ImageCounts] = field(default_factory=list)
    worst: Worst = field(default_factory=Worst)

    def see(self, item: "Item", prediction: "Tensor", counts: "Counts | None") -> None:
        """Collect an image that counts; see `Scoring.seen`."""
        if counts is not None:
            found = ImageCounts.of(item.id, counts())
            self.images.append(found)
            self.worst.add(found, item, prediction)

    def of_all(self) -> PerImage:
        """Return the counts of all processes, on every process; all must call it."""
        return PerImage.of(self.names, gather_object(self.images))


@dataclass(frozen=True)
class Evaluation:
    """The results of scoring a split, the same on all processes."""

    scores: Scores
    images: PerImage
    worst: list[Bad]

    @cached_property
    def intervals(self) -> Intervals:
        """Bootstrap intervals of mean_iou and of each class's IoU."""
        return intervals(self.images)


def build_scoring(
    model: Model, dataset: Chosen, metrics: Sequence[Chosen], config: EvaluateConfig, where: Where
) -> tuple[Scoring, Segmenter, str]:
    """Load the network and the split, and return the name of the split too.

    Raises:
        SegaccError: one of them is not found, or their classes differ.
    """
    refuse_unused(config, where)
    accelerator = start_accelerator(config.mixed_precision)
    segmenter = Segmenter.from_pretrained(model.folder, accelerator.device, runtime=config.runtime)
    segmenter = with_settings(segmenter, config.protocol, config.threshold, where)
    splits, _ = data_splits(
        dataset,
        config.val_fraction,
        config.seed,
        train=config.train_split,
        scored=config.split,
    )
    segmenter = relabel(segmenter, splits.labels, f"{where('dataset')} {dataset.text}")
    hint = held_out(model, config, where)
    samples = pick_split(splits, config.split, where("split"), hint=hint)
    labels = splits.labels
    facts = Facts(num_classes=len(labels.names), class_names=labels.names)
    scoring = checked_scoring(
        accelerator,
        accelerator.prepare_model(segmenter.network, evaluation_mode=True),
        segmenter.network,
        scored_data(samples, labels, segmenter.network.num_channels),
        segmenter.protocol,
        facts=facts,
        metrics=metrics,
        config=config,
        where=where,
    )
    scoring.weights, scoring.ignored = weights_in(model), ignored_by(labels)
    return scoring, segmenter, split_name(splits, config.split)


def held_out(model: Model, config: EvaluateConfig, where: Where) -> str:
    """Return a hint for a missing split, if the model's run held out its validation split."""
    if config.val_fraction is not None:
        return ""
    run = run_settings(model, where("model"))
    if run is None:
        return " If the run held out a part of train, repeat its --val-fraction and --seed."
    base = config.split.partition("[")[0]
    if run.val_fraction is None or base not in (run.eval_split, VALIDATION, *ALSO):
        return ""
    train = "" if run.train_split == "train" else f" --train-split {run.train_split}"
    flags = f"--val-fraction {run.val_fraction:g} --seed {run.seed}{train}"
    return f" The run of this model held out its validation split: add {flags}."


def weights_in(model: Model) -> Weights:
    """Return the kind of a model's weights; raw if it is not recorded."""
    found: Weights = side_file(model.about).get("terms", {}).get("weights", "raw")
    return found


def refuse_unused(config: EvaluateConfig, where: Where) -> None:
    """Refuse settings that only have an effect with --val-fraction.

    Raises:
        OptionError: one of them is given without --val-fraction.
    """
    for key in ("train_split", "seed"):
        if config.val_fraction is None and getattr(config, key) != getattr(EvaluateConfig, key):
            raise OptionError(
                f"{where(key)}: only has an effect with --val-fraction; add that, or "
                "leave it out. --split names the split that is scored."
            )


def carved_from(config: EvaluateConfig) -> dict[str, Any] | None:
    """Return the settings of a held-out split; None for a split of the data set."""
    keys = ("val_fraction", "train_split", "seed")
    return None if config.val_fraction is None else {key: getattr(config, key) for key in keys}


def protocol_source(
    model: Model, segmenter: Segmenter, config: EvaluateConfig, where: Where
) -> str:
    """Return where the protocol comes from, and its threshold if that was given."""
    if config.protocol:
        told = f"from {where('protocol')}"
    elif side_file(model.about):
        told = f"stored in {model.name if model.on_hub else model.about}"
    elif segmenter.protocol.short_side or segmenter.protocol.size:
        told = f"from the image processor in {model.name}"
    else:
        told = f"chosen to fit the network, as {model.name} stores none"
    return told + (f"; threshold from {where('threshold')}" if config.threshold else "")


def score(scoring: Scoring, names: tuple[str, ...], console: Console) -> Evaluation:
    """Evaluate with a progress bar on a terminal."""
    collector = Collector(names)
    with progress_bar(console, scoring.share(), "scoring") as tick:

        def see(item: "Item", prediction: "Tensor", counts: "Counts | None") -> None:
            collector.see(item, prediction, counts)
            tick(advance=1)

        scoring.seen = see
        scores, _ = evaluate(scoring)
    return Evaluation(scores, collector.of_all(), collector.worst.of_all())


def report(
    model: Model, scoring: Scoring, found: Evaluation, config: EvaluateConfig, source: str
) -> dict[str, Any]:
    """Return the content of evaluation.json; `source` says where the protocol comes from."""
    terms, images = scoring.terms(), scoring.num_images + len(scoring.unreadable)
    skipped = f", {len(scoring.unreadable)} unreadable" if scoring.unreadable else ""
    return {
        "title": f"{model.name} on {config.split}: {images} images{skipped}, {terms.short()}",
        "model": model.name,
        "dataset": plain(config.dataset),
        "split": config.split,
        "carved": carved_from(config),
        **asdict(terms),
        "protocol_source": source,
        "unreadable": sorted(scoring.unreadable),
        "processes": scoring.accelerator.num_processes,
        "scores": finite(found.scores),
        "intervals": found.intervals.to_dict(),
        "segacc_version": VERSION,
    }
