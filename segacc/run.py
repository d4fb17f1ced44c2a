"""Run: all that a training run holds, built once from a plan and an Accelerator."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import DataLoader

from segacc import checkpoint
from segacc.amounts import period_of
from segacc.augment import Pipeline
from segacc.averaging import build_ema, kinds
from segacc.balance import Balance
from segacc.build import build_network
from segacc.config import TrainConfig
from segacc.data import TrainData
from segacc.data_source import load_data
from segacc.defaults import choose_score, choose_settings
from segacc.events import Scores, Skipped
from segacc.hookspecs import Facts, LossTerm
from segacc.labels import LabelMap
from segacc.limits.budget import Clock
from segacc.limits.early_stop import EarlyStop, build_early_stop
from segacc.limits.guard import Guard, build_guard
from segacc.model import SegmentationModel
from segacc.optim import freezing
from segacc.optim import groups as parameter_groups
from segacc.optim.ema import Ema
from segacc.optim.schedule import set_lr
from segacc.order import Cut
from segacc.parts import (
    build_losses,
    build_optimizer,
    build_pipeline,
    build_scoring,
    make_accelerator,
)
from segacc.plan import Plan
from segacc.processes import idle_cores, save_bare
from segacc.run_lock import RunLock
from segacc.scoring import Best, Scoring
from segacc.signals import StopSignal
from segacc.start import lock_folder, prepare_folder, resume
from segacc.streams import TrainStream
from segacc.transfer import LoadReport

NO_END = 10**9
"""Steps that a loader holds for a run whose number of steps is fitted as it goes."""


@dataclass
class Run:
    """All that a training run holds."""

    config: TrainConfig
    """With every default filled in."""
    plan: Plan
    accelerator: Accelerator
    model: Any
    """The network as accelerate wrapped it."""
    network: SegmentationModel
    """The same network, bare."""
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
    guard: Guard
    clock: Clock
    ema: Ema | None
    """The moving average of the weights, where that was asked for."""
    groups: list[parameter_groups.Row]
    """What the optimizer updates, and what is frozen."""
    lock: RunLock
    """Of the run folder, held until the run ends."""
    signal: StopSignal = field(default_factory=StopSignal)
    """Asks for the end."""
    skipped: Skipped | None = None
    """Why the newest step was not taken, if so."""
    notes: list[str] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)
    """What was passed over so far."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.plan.folder

    @property
    def max_steps(self) -> int:
        """Optimizer steps of the whole run, as they stand now."""
        return self.config.max_steps or self.progress.max_steps or 0

    def loader(self) -> DataLoader[Any]:
        """Return this process's micro-batches, from the present step to the last."""
        config, accelerator = self.config, self.accelerator
        cut = Cut(
            batch_size=config.batch_size,
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
        )

    @property
    def total_batch_size(self) -> int:
        """Images per optimizer step, over all processes."""
        config = self.config
        processes: int = self.accelerator.num_processes
        return config.batch_size * config.gradient_accumulation_steps * processes

    def read_up_to(self, position: Any) -> None:
        """Note where a reader of this process stands after a batch: (reader, place) of a stream."""
        if position is not None:
            reader, place = position
            self.progress.positions[reader] = place

    def begin_step(self) -> None:
        """Switch to training, and set the learning rate that the present step has."""
        step, total = self.progress.step, self.max_steps
        self.unfreeze()
        self.model.train()
        self.network.on_step(step, total)
        self.guard.keep(self.network)
        set_lr(self.optimizer, self.plan.schedule, step, total, self.config)
        freezing.hold(self.optimizer.param_groups, step)

    def unfreeze(self) -> None:
        """Let what was frozen for the first steps learn, once they are done."""
        begins = self.config.unfreeze_after
        if begins is not None and self.progress.step >= begins:
            self.network.still_batchnorms = frozenset()
            if self.progress.step == begins:
                freezing.forget(self.optimizer, begins)

    def clip_gradients(self) -> Tensor | None:
        """Clip to `max_grad_norm`; return the norm before."""
        freezing.silence(self.optimizer.param_groups, self.progress.step)
        parameters, limit = self.model.parameters(), self.config.max_grad_norm
        norm: Tensor | None = self.accelerator.clip_grad_norm_(parameters, limit)
        return norm

    def evaluation_due(self) -> bool:
        """Tell whether the present step asks for an evaluation that was not made yet."""
        return self._due(self.progress.evaluated, self.config.eval_every or 1)

    def checkpoint_due(self) -> bool:
        """Tell whether the present step asks for a checkpoint."""
        return self._due(self.progress.saved, self.config.save_every or 1)

    def _due(self, newest: int, every: float) -> bool:
        """Tell whether it is time again; while the steps are fitted, counted from the newest on."""
        step, period = self.progress.step, period_of(every, self.max_steps)
        passed = step % period if self.config.max_steps else step < newest + period
        return 0 < step != newest and (not passed or step == self.max_steps)

    def note(self, scores: Scores) -> bool:
        """Take over the scores that are judged; tell whether they are the best so far."""
        if self.early_stop:
            self.early_stop.note(scores, self.progress)
        return self.best.note(scores, self.progress)

    def epoch(self) -> float:
        """Passes over the training split so far."""
        count = self.train_data.num_samples
        return self.progress.step * self.total_batch_size / count if count else 0.0


def build_run(plan: Plan) -> Run:
    """Build everything; on return all processes hold the same weights and agree on the settings.

    Raises:
        SegaccError: data, weights or settings do not fit together.
    """
    accelerator, given = make_accelerator(plan), plan.settings.config
    data = load_data(plan, accelerator)
    seed = given.seed

    set_seed(seed)
    built = build_network(plan, data.splits, accelerator)
    network, facts = built.network, data.balance.inform(built.facts)
    loaded, processes = bool(built.report.loaded), accelerator.num_processes
    count = data.num_training_samples
    settings = choose_settings(plan.settings, loaded, facts.crop_size, count, processes)
    losses = build_losses(plan, network, facts)
    if list(losses) != [one.name for one in plan.loss]:
        settings = settings.chosen({"loss": (("none",), f"{plan.arch.name} brings its own")})
    set_seed(seed, device_specific=True)
    optimizer, groups = build_optimizer(network, settings, accelerator)
    model, optimizer = accelerator.prepare(network, optimizer)
    save_bare(accelerator)

    pipeline = build_pipeline(plan, facts, accelerator.device.type)
    scoring = build_scoring(plan, facts, accelerator, model, network, data.scored)
    settings = choose_score(settings, scoring.metrics())
    run = Run(
        config=settings.config,
        plan=plan,
        accelerator=accelerator,
        model=model,
        network=network,
        optimizer=optimizer,
        losses=losses,
        pipeline=pipeline,
        train_data=data.training(pipeline, seed),
        scoring=scoring,
        labels=data.splits.labels,
        facts=facts,
        balance=data.balance,
        best=Best(
            settings.config.best_by, plan.metric, scoring.metrics(), settings.where("best_by")
        ),
        progress=checkpoint.Progress(),
        early_stop=build_early_stop(plan, scoring),
        guard=build_guard(plan, accelerator),
        clock=Clock(plan.started),
        ema=build_ema(plan, model, accelerator),
        groups=groups,
        lock=RunLock(plan.folder),
    )
    scoring.weights = kinds(run)[-1]
    run.notes = [*describe(run, built.report), *idle_cores(accelerator), *data.notes, *built.notes]
    run.notes += parameter_groups.lines(groups)
    lock_folder(run)
    resume(run)
    prepare_folder(run, settings)
    return run


def describe(run: Run, report: LoadReport) -> list[str]:
    """Say once what is about to be done."""
    plan, accelerator, config = run.plan, run.accelerator, run.config
    millions = sum(parameter.numel() for parameter in run.network.parameters()) / 1e6
    training, scored = (
        "a stream of" if one.num_samples is None else one.num_samples
        for one in (run.train_data, run.scoring.data)
    )
    images = f"{training} training, {scored} validation images"
    first, *more = report.lines()
    many = "es" if accelerator.num_processes > 1 else ""
    where = f"{accelerator.num_processes} process{many} on {accelerator.device.type}"
    cut = f"{config.batch_size} images x {config.gradient_accumulation_steps} micro-batches"
    return [
        f"{plan.arch.text}: {millions:.2f} million parameters; {first}",
        *(f"  {line}" for line in more),
        f"{plan.dataset.text}: {images}, {run.facts.num_classes} classes",
        f"{where}, precision {accelerator.mixed_precision}, {cut}: {run.total_batch_size} a step",
    ]
