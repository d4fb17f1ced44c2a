"""Run: the state of a training run."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from segacc.contracts import Facts, LossTerm
from segacc.data.augment import Pipeline
from segacc.data.batches import Loader, TrainData
from segacc.data.items import Batch
from segacc.data.order import Cut
from segacc.data.streams import TrainStream
from segacc.errors import SegaccError
from segacc.evaluation.scores import Scores
from segacc.evaluation.scoring import ScoreKey, Scoring
from segacc.labels import LabelMap
from segacc.model import Logits, SegmentationModel
from segacc.model.arithmetic import peak_of
from segacc.settings.config import TrainConfig
from segacc.settings.units import Every, period_of
from segacc.training import checkpoint
from segacc.training.balance import Balance
from segacc.training.checkpoint import Progress
from segacc.training.folders import RunLock
from segacc.training.limits.budget import Clock
from segacc.training.limits.guard import EarlyStop, Guard, PlateauWatch
from segacc.training.limits.signals import StopSignal
from segacc.training.optim import freezing
from segacc.training.optim import groups as parameter_groups
from segacc.training.optim.ema import Ema
from segacc.training.optim.schedule import set_lr
from segacc.training.plan import Plan
from segacc.training.processes import device_name
from segacc.training.saving.license import Base

NO_END = 10**9
"""Length of the data loader, in steps, if `--max-time` fits the number of steps during the run."""


class Best(ScoreKey):
    """Decides by the score `best_by` which evaluation is the best."""

    def note(self, scores: Scores, progress: Progress) -> bool:
        """Record the scores of the current step; return whether they are the best so far."""
        progress.scores, progress.evaluated = scores, progress.step
        value = self.value(scores)
        if not self.better(value, progress.best):
            return False
        progress.best, progress.best_step = value, progress.step
        return True


@dataclass
class Run:
    """The state of a training run."""

    config: TrainConfig
    """The settings, with all defaults filled in."""
    plan: Plan
    accelerator: Accelerator
    model: Any
    """The network as wrapped by accelerate."""
    network: SegmentationModel
    """The same network, unwrapped."""
    optimizer: Any
    losses: dict[str, LossTerm]
    pipeline: Pipeline
    train_data: TrainData | TrainStream
    scoring: Scoring
    labels: LabelMap
    facts: Facts
    balance: Balance
    best: Best
    progress: checkpoint.Progress
    early_stop: EarlyStop | None
    plateau: PlateauWatch | None
    guard: Guard
    clock: Clock
    ema: Ema | None
    """The moving average of the weights, with `--ema`."""
    groups: list[parameter_groups.Row]
    """The parameter groups of the optimizer, and the frozen parameters."""
    lock: RunLock
    """The lock on the run folder, held until the run ends."""
    flops: float | None = None
    """Floating-point operations of a forward and a backward pass of an image; None on a CPU."""
    base: Base | None = None
    """The weights that the run started from; None for random ones, and on other processes."""
    signal: StopSignal = field(default_factory=StopSignal)
    """The signal that stops the run, once it is received."""
    notes: list[str] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)
    """Messages about the unreadable files that were skipped so far."""

    evaluation_saved: int = 0
    """The step of the newest evaluation that the newest checkpoint has."""
    save_soon: bool = False
    """Whether a checkpoint is wanted after the current step, as workers were killed."""
    torn: bool = False
    """Whether the state is that of no step, or differs between processes: it cannot be saved."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.plan.folder

    @property
    def threads(self) -> int | None:
        """Threads of this process for its computations on a CPU; None on another device."""
        return torch.get_num_threads() if self.accelerator.device.type == "cpu" else None

    @property
    def max_steps(self) -> int:
        """Optimizer steps of the whole run; with `--max-time`, the newest estimate."""
        return self.config.max_steps or self.progress.max_steps or 0

    def loader(self) -> Loader:
        """Return the data loader of this process's micro-batches from the current step on."""
        config, accelerator = self.config, self.accelerator
        cut = Cut(
            batch_size=config.micro_batch_size,
            accumulation=config.gradient_accumulation_steps,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        return self.train_data.loader(
            cut,
            range(self.progress.step, self.config.max_steps or NO_END),
            positions=self.progress.positions,
            num_workers=config.num_workers,
            pin_memory=accelerator.device.type == "cuda",
            total=lambda: self.max_steps,
        )

    def mfu(self, images_per_second: float) -> float | None:
        """Return the share of the devices' peak arithmetic that is used; None if not known."""
        accelerator, precision = self.accelerator, self.scoring.terms().precision
        peak = peak_of(device_name(accelerator.device), precision)
        if self.flops is None or peak is None:
            return None
        processes: int = accelerator.num_processes
        return self.flops * images_per_second / (peak * processes)

    @property
    def total_batch_size(self) -> int:
        """Images per optimizer step, over all processes."""
        config = self.config
        processes: int = self.accelerator.num_processes
        return config.micro_batch_size * config.gradient_accumulation_steps * processes

    @property
    def parts(self) -> int:
        """Number of parts in which a micro-batch of the data loader is computed."""
        size, least = self.config.micro_batch_size, self.network.min_batch_size
        return min(-(-size // (self.progress.micro_batch or size)), max(1, size // least))

    def read_up_to(self, micro_batches: list[Batch]) -> None:
        """Record how far a stream is read by a completed step; nothing for data on disk."""
        for batch in micro_batches:
            if batch.position is not None:
                reader, reached = batch.position
                self.progress.positions[reader] = reached

    def begin_step(self) -> None:
        """Switch to training mode and set the learning rate of the current step.

        A plugin may fail here on one of several processes; see `passes`.
        """
        step, total = self.progress.step, self.max_steps
        self.torn = self.accelerator.num_processes > 1
        self.unfreeze()
        self.model.train()
        with self.network.origin.doing("on_step()"):
            self.network.on_step(step, total)
        self.guard.keep()
        reductions = self.progress.reductions
        set_lr(self.optimizer, self.plan.schedule, step, total, self.config, reductions=reductions)
        self.torn = False

    def unfreeze(self) -> None:
        """Start training what `--unfreeze-after` froze, from that step on."""
        begins = self.config.unfreeze_after
        if begins is not None and self.progress.step >= begins:
            freezing.keep_statistics(self.network, self.plan.settings, begun=True)
            if self.progress.step == begins:
                freezing.forget(self.optimizer, begins)

    def logits(self, images: Tensor) -> Logits:
        """Return the network's output for images (N, C, H, W).

        Raises:
            PluginError: the network failed.
        """
        with self.network.origin.doing(f"forward() of images {tuple(images.shape)}"):
            logits: Logits = self.model(self.network.normalize(images))
        return logits

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Run the forward and backward passes of a step; if they fail, undo what they changed.

        Among several processes, the others wait for the gradients of one that fails.
        """
        try:
            yield
        except Exception:
            self.torn = True
            with suppress(RuntimeError):  # of a broken device
                self.guard.undo()
                self.torn = self.accelerator.num_processes > 1
            raise

    @contextmanager
    def update(self) -> Iterator[None]:
        """Change the weights; if that fails, they are those of no step."""
        self.torn = True
        yield
        self.torn = False

    def can_save(self, error: Exception) -> bool:
        """Return whether a checkpoint can be saved after an error in the loop.

        Several processes must do so together, and each SegaccError is raised by all of them but for
        those of a step (`begin_step`, `passes`), after which the state counts as torn.
        """
        together = self.accelerator.num_processes == 1 or isinstance(error, SegaccError)
        return together and not self.torn

    def clip_gradients(self) -> Tensor | None:
        """Clip the gradients to `max_grad_norm`; return their norm before clipping."""
        freezing.silence(self.optimizer.param_groups, self.progress.step)
        parameters, limit = self.model.parameters(), self.config.max_grad_norm
        norm: Tensor | None = self.accelerator.clip_grad_norm_(parameters, limit)
        return norm

    def evaluation_due(self) -> bool:
        """Return whether an evaluation is due at the current step and was not made yet."""
        return self._due(self.progress.evaluated, self.period(self.config.eval_every))

    def checkpoint_due(self) -> bool:
        """Return whether a checkpoint is due at the current step."""
        due = self._due(self.progress.saved, self.period(self.config.save_every))
        return due or (self.save_soon and self.progress.saved != self.progress.step)

    def unsaved(self) -> bool:
        """Return whether a step or an evaluation was made since the newest checkpoint."""
        progress = self.progress
        return (progress.saved, self.evaluation_saved) != (progress.step, progress.evaluated)

    def period(self, every: Every | None) -> float | Fraction:
        """Return `eval_every` or `save_every` in steps, or below 1 as a share of the run.

        A pass over the training split is a Fraction, as it need not be a whole number of steps.
        """
        count = self.train_data.num_samples
        if every == "epoch" and count:
            return max(Fraction(1), Fraction(count, self.total_batch_size))
        return float(every or 1)

    def _due(self, newest: int, every: float | Fraction) -> bool:
        """Return whether a period has passed; with `--max-time`, since the step `newest`."""
        step = self.progress.step
        if isinstance(every, Fraction):  # the first step after the end of a pass
            passed = step // every > (step - 1) // every
        else:
            period = period_of(every, self.max_steps)
            passed = step % period == 0 if self.config.max_steps else step >= newest + period
        return 0 < step != newest and (passed or step == self.max_steps)

    def note(self, scores: Scores) -> bool:
        """Record the scores that choose the best weights; return whether they are the best."""
        for watch in filter(None, (self.early_stop, self.plateau)):
            watch.note(scores, self.progress)
        return self.best.note(scores, self.progress)

    def epoch(self) -> float:
        """Return the number of passes over the training split so far."""
        count = self.train_data.num_samples
        return self.progress.step * self.total_batch_size / count if count else 0.0
