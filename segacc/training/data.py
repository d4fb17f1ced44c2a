"""The data of a run: splits, cache, class balance and notes."""

import math
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from accelerate import Accelerator

from segacc.contracts import Facts
from segacc.data.augment import Pipeline, Stage
from segacc.data.batches import EvalData, Source, TrainData
from segacc.data.cache import cached
from segacc.data.items import Item
from segacc.data.order import Order, seeded
from segacc.data.quick_check import GivenData, read_data
from segacc.data.samples import length_of, passed_over
from segacc.data.splits import chances_of, split_name, unusable_lines
from segacc.data.streams import EvalStream, TrainStream
from segacc.errors import OptionError
from segacc.evaluation.scoring import scored_data
from segacc.hookspecs import DataSplits, Stream
from segacc.settings.config import TrainConfig
from segacc.settings.sources import Settings
from segacc.training.balance import Balance, balance
from segacc.training.plan import Plan
from segacc.training.processes import on_all


@dataclass(frozen=True)
class RunData:
    """The training and validation data of a run."""

    splits: DataSplits
    train: Source | Stream
    scored: EvalData | EvalStream
    balance: Balance
    num_channels: int
    notes: tuple[str, ...] = field(default=())

    @property
    def num_training_samples(self) -> int | None:
        """Number of training samples; None for a stream of unknown length."""
        return length_of(self.train)

    def training(self, pipeline: Pipeline, seed: int) -> TrainData | TrainStream:
        """Return the training split with an augmentation pipeline and a shuffled order."""
        if isinstance(self.train, Stream):
            return TrainStream(self.train, self.splits.labels, self.num_channels, pipeline, seed)
        order = Order(len(self.train), seed=seed, chances=self.balance.chances)
        return TrainData(self.train, pipeline, order)

    def starts(self, num_workers: int) -> list[None]:
        """Return the positions of this process's readers before the first step; none if on disk."""
        return [None] * max(1, num_workers) if isinstance(self.train, Stream) else []


def load_data(plan: Plan, accelerator: Accelerator, given: GivenData | None = None) -> RunData:
    """Load the data set with its splits, cache and class balance.

    Args:
        plan: the checked run.
        accelerator: the accelerator.
        given: the data set, if it was read before torch was imported; default: it is read now.

    Raises:
        SegaccError: the data set is not found, or a setting does not fit it.
    """
    config, where, main = plan.settings.config, plan.settings.where, accelerator.is_main_process
    found = given or on_all(accelerator, lambda: read_data(plan.dataset, config, where))
    splits, labels, channels = found.splits, found.splits.labels, config.num_channels
    warnings = on_all(accelerator, lambda: found.check(plan.dataset, config) if main else ())
    train = (
        found.train if isinstance(found.train, Stream) else Source(found.train, labels, channels)
    )
    scored = scored_data(found.scored, labels, channels)
    if config.cache:
        train, scored = cached(train, scored, config.cache, accelerator, where("cache"))
    chances = chances_of(splits, config.train_split)
    weighed = balance(plan, train, labels, chances, accelerator)
    lost = passed_over(splits.splits.values()) if main else []
    scored_name = split_name(splits, config.eval_split).partition("[")[0]
    replaced = unusable_lines(splits, [scored_name])  # by a part of the training split
    notes = (*found.notes, *replaced, *lost, *warnings, *weighed.notes)
    return RunData(splits, train, scored, weighed, channels, notes)


def ending(pipeline: Pipeline) -> list[Stage]:
    """Return the augmentations that end before the run."""
    return [one for one in (*pipeline.worker, *pipeline.device) if one.until < 1]


def end_lines(pipeline: Pipeline, config: TrainConfig) -> list[str]:
    """Return a line on when augmentations end, if any does before the run."""
    ends = []
    for one in ending(pipeline):
        last = config.max_steps and math.ceil(Fraction(f"{one.until}") * config.max_steps)
        ends.append(f"{one.name} after {f'step {last}' if last else f'{one.until:g} of the steps'}")
    how = "" if config.max_steps else " (as fitted to --max-time when an image is read)"
    return [f"augmentations that end: {', '.join(ends)}{how}"] if ends else []


def check_ends(
    pipeline: Pipeline, facts: Facts, settings: Settings, train: Source | Stream
) -> None:
    """Refuse augmentations that end (`until`) if the run could not go on without them.

    Raises:
        OptionError: the images of a batch would differ in size, or the workers that read a stream
            ahead cannot know when it is.
    """
    if not (names := ", ".join(f"{one.name}:until={one.until:g}" for one in ending(pipeline))):
        return
    config, told = settings.config, f"{settings.where('aug')}: {names}"
    if isinstance(train, Stream) and config.max_time:
        raise OptionError(
            f"{told}: the workers that read a stream do not know the number of steps that fits in "
            f"{settings.where('max_time')}. Give --max-steps, or leave out until."
        )
    if config.micro_batch_size > 1 and len(sizes_of(pipeline, facts)) == 1 < len(
        sizes_of(pipeline.at(1.0), facts)
    ):
        raise OptionError(
            f"{told}: after it, no augmentation brings the images of a batch to one size. Leave "
            "out until, or add --aug random_scale_crop last."
        )


def sizes_of(pipeline: Pipeline, facts: Facts) -> set[tuple[int, int]]:
    """Return the sizes (H, W) of samples of different sizes after the augmentations in a worker."""
    height, width = facts.crop_size
    pairs = [
        (torch.zeros(facts.num_channels, *size, dtype=torch.uint8), torch.zeros(size).byte())
        for size in ((height + 8, width + 8), (height, 2 * width), (2 * height, width))
    ]
    with seeded(facts.seed):
        return {pipeline.in_worker(Item(*pair), lambda: pairs[0]).size for pair in pairs}


def faster_data(config: TrainConfig, cores: int) -> str:
    """Return what to do if training waits for data.

    Args:
        config: the settings of the run.
        cores: the process's share of the CPU cores.
    """
    ways = []
    if config.num_workers < cores:
        ways.append(f"--num-workers {cores} reads with all of this process's cores")
    if not config.cache:
        ways.append("--cache ram, or a folder on a local disk, keeps the decoded images")
    ways.append("smaller files, of the size that the crops need, are decoded faster")
    return "; ".join(ways)
