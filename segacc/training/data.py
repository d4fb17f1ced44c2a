"""The data of a run: splits, cache, class balance and notes."""

from dataclasses import dataclass, field

from accelerate import Accelerator

from segacc.data.augment import Pipeline
from segacc.data.batches import EvalData, Source, TrainData
from segacc.data.cache import cached
from segacc.data.order import Order
from segacc.data.quick_check import GivenData, read_data
from segacc.data.samples import passed_over
from segacc.data.splits import chances_of, split_name, unusable_lines
from segacc.data.streams import EvalStream, TrainStream
from segacc.evaluation.scoring import scored_data
from segacc.hookspecs import DataSplits, Stream
from segacc.settings.config import TrainConfig
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
