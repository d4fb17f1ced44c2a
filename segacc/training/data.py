"""The data of a run: splits, cache, class balance and notes."""

from dataclasses import dataclass, field

from accelerate import Accelerator

from segacc.data.augment import Pipeline
from segacc.data.batches import EvalData, Source, TrainData
from segacc.data.cache import cached
from segacc.data.order import Order
from segacc.data.quick_check import quick_check
from segacc.data.samples import passed_over
from segacc.data.splits import chances_of, data_splits, pick_split, split_name, unusable_lines
from segacc.data.streams import EvalStream, TrainStream
from segacc.evaluation.scoring import scored_data
from segacc.hookspecs import DataSplits, Stream
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
        return self.train.num_samples if isinstance(self.train, Stream) else len(self.train)

    def training(self, pipeline: Pipeline, seed: int) -> TrainData | TrainStream:
        """Return the training split with an augmentation pipeline and a shuffled order."""
        if isinstance(self.train, Stream):
            return TrainStream(self.train, self.splits.labels, self.num_channels, pipeline, seed)
        order = Order(len(self.train), seed=seed, chances=self.balance.chances)
        return TrainData(self.train, pipeline, order)


def load_data(plan: Plan, accelerator: Accelerator) -> RunData:
    """Build the data set with its splits, cache and class balance.

    Raises:
        SegaccError: the data set is not found, or a setting does not fit it.
    """
    config, where = plan.settings.config, plan.settings.where
    names = {"train": config.train_split, "scored": config.eval_split}
    at = where("val_fraction")
    splits, notes = on_all(
        accelerator,
        lambda: data_splits(plan.dataset, config.val_fraction, config.seed, **names, where=at),
    )
    given = pick_split(splits, config.train_split, where("train_split"))
    hint = " --val-fraction 0.2 holds out a part of the training split."
    validation = pick_split(splits, config.eval_split, where("eval_split"), hint=hint)
    labels, channels = splits.labels, config.num_channels
    seen = {config.train_split: given, config.eval_split: validation}

    def check() -> tuple[str, ...]:
        skip = config.skip_unreadable > 0
        with plan.dataset.doing("reading samples"):
            return quick_check(seen, labels, channels, skip_unreadable=skip)

    warnings = on_all(accelerator, lambda: check() if accelerator.is_main_process else ())
    train = given if isinstance(given, Stream) else Source(given, labels, channels)
    scored = scored_data(validation, labels, channels)
    if config.cache:
        train, scored = cached(train, scored, config.cache, accelerator, where("cache"))
    chances = chances_of(splits, config.train_split)
    weighed = balance(plan, train, splits.labels, chances, accelerator)
    lost = passed_over(splits.splits.values()) if accelerator.is_main_process else []
    scored_name = split_name(splits, config.eval_split).partition("[")[0]
    replaced = unusable_lines(splits, [scored_name])  # by a part of the training split
    notes = (*notes, *replaced, *lost, *warnings, *weighed.notes)
    return RunData(splits, train, scored, weighed, channels, notes)
