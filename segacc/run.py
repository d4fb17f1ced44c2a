"""Run: all that a training run holds, built once from a plan and an Accelerator."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, set_seed
from torch import Tensor
from torch.utils.data import DataLoader

from segacc import checkpoint
from segacc.build import build_losses, build_network
from segacc.config import TrainConfig
from segacc.data import Augment, EvalData, StepSampler, TrainData, train_loader
from segacc.defaults import choose_settings
from segacc.hookspecs import Facts, LossTerm
from segacc.labels import LabelMap
from segacc.model import SegmentationModel
from segacc.optim import lr_factor, parameter_groups, set_lr
from segacc.plan import Plan
from segacc.processes import idle_cores, start_accelerator
from segacc.protocols import Protocol, default_protocol
from segacc.scoring import Best, Scoring, build_metrics, pick_split, spread
from segacc.start import prepare_folder, resume
from segacc.transfer import LoadReport


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
    device_augment: tuple[Augment, ...]
    train_data: TrainData
    scoring: Scoring
    labels: LabelMap
    facts: Facts
    best: Best
    progress: checkpoint.Progress
    notes: list[str] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)
    """What was passed over so far."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.plan.folder

    @property
    def max_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.max_steps or 0

    def loader(self) -> DataLoader[Any]:
        """Return this process's micro-batches, from the present step to the last."""
        config, accelerator = self.config, self.accelerator
        sampler = StepSampler(
            len(self.train_data.samples),
            seed=config.seed,
            first=self.progress.step,
            last=self.max_steps,
            batch_size=config.batch_size,
            accumulation=config.gradient_accumulation_steps,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        pin, workers = accelerator.device.type == "cuda", config.num_workers
        return train_loader(self.train_data, sampler, num_workers=workers, pin_memory=pin)

    @property
    def total_batch_size(self) -> int:
        """Images per optimizer step, over all processes."""
        config = self.config
        processes: int = self.accelerator.num_processes
        return config.batch_size * config.gradient_accumulation_steps * processes

    def begin_step(self) -> None:
        """Switch to training, and set the learning rate that the present step has."""
        step, config = self.progress.step, self.config
        self.model.train()
        self.network.on_step(step, self.max_steps)
        warmup, power = config.warmup_steps or 0, config.poly_power
        set_lr(self.optimizer, lr_factor(step, warmup=warmup, total=self.max_steps, power=power))

    def clip_gradients(self) -> Tensor | None:
        """Clip to `max_grad_norm`; return the norm before."""
        parameters, limit = self.model.parameters(), self.config.max_grad_norm
        norm: Tensor | None = self.accelerator.clip_grad_norm_(parameters, limit)
        return norm

    def evaluation_due(self) -> bool:
        """Tell whether the present step asks for an evaluation that was not made yet."""
        step, every = self.progress.step, self.config.eval_every or self.max_steps
        return 0 < step != self.progress.evaluated and (step % every == 0 or step == self.max_steps)

    def checkpoint_due(self) -> bool:
        """Tell whether the present step asks for a checkpoint."""
        step, every = self.progress.step, self.config.save_every or self.max_steps
        return step % every == 0 or step == self.max_steps

    def epoch(self) -> float:
        """Passes over the training split so far."""
        return self.progress.step * self.total_batch_size / len(self.train_data.samples)


def build_run(plan: Plan) -> Run:
    """Build everything; on return all processes hold the same weights and agree on the settings.

    Raises:
        SegaccError: data, weights or settings do not fit together.
    """
    accelerator, given = make_accelerator(plan), plan.settings.config
    splits = plan.dataset.record.build(plan.dataset.options)
    labels, seed = splits.labels, given.seed
    train = pick_split(splits, given.train_split, plan.settings.where("train_split"))
    validation = pick_split(splits, given.eval_split, plan.settings.where("eval_split"))

    set_seed(seed)
    built = build_network(plan, splits, accelerator)
    network, facts = built.network, built.facts
    loaded, processes = bool(built.report.loaded), accelerator.num_processes
    settings = choose_settings(plan.settings, loaded, facts.crop_size, len(train), processes)
    losses = build_losses(plan, network, facts)
    if list(losses) != [one.name for one in plan.loss]:
        settings = settings.chosen({"loss": (("none",), f"{plan.arch.name} brings its own")})
    set_seed(seed, device_specific=True)
    optimizer = build_optimizer(network, settings.config, accelerator)
    model, optimizer = accelerator.prepare(network, optimizer)

    worker, device = build_augmentations(plan, facts)
    scored = EvalData(validation, labels, facts.num_channels)
    scoring = build_scoring(plan, facts, accelerator, model, network, scored)
    run = Run(
        config=settings.config,
        plan=plan,
        accelerator=accelerator,
        model=model,
        network=network,
        optimizer=optimizer,
        losses=losses,
        device_augment=device,
        train_data=TrainData(train, labels, worker, seed, facts.num_channels),
        scoring=scoring,
        labels=labels,
        facts=facts,
        best=Best(settings.config.best_by, plan.metric, scoring.metrics()),
        progress=checkpoint.Progress(),
    )
    run.notes = [*describe(run, built.report), *idle_cores(accelerator), *built.notes]
    resume(run)
    prepare_folder(run, settings)
    return run


def make_accelerator(plan: Plan) -> Accelerator:
    """Start accelerate as the launcher and the settings say."""
    config = plan.settings.config
    return start_accelerator(
        config.mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.gradient_accumulation_steps,
            adjust_scheduler=False,
            sync_with_dataloader=False,
        ),
        log_with=list(config.trackers) or None,
        project_dir=str(plan.folder),
    )


def build_optimizer(
    network: SegmentationModel, config: TrainConfig, accelerator: Accelerator
) -> Any:
    """Build AdamW over the parameter groups; fused where the device has it."""
    assert config.lr and config.head_lr_scale
    decay, head = config.weight_decay, config.head_lr_scale
    groups = parameter_groups(network, lr=config.lr, head_lr_scale=head, weight_decay=decay)
    deepspeed = accelerator.state.deepspeed_plugin
    if deepspeed is not None:  # it asks a data loader otherwise, and ours is not accelerate's
        deepspeed.deepspeed_config["train_micro_batch_size_per_gpu"] = config.batch_size
    return torch.optim.AdamW(groups, fused=accelerator.device.type in ("cpu", "cuda"))


def build_scoring(
    plan: Plan,
    facts: Facts,
    accelerator: Accelerator,
    model: Any,
    network: SegmentationModel,
    data: EvalData,
) -> Scoring:
    """Build what evaluates the validation split while training."""
    config = plan.settings.config
    protocol = default_protocol(network, facts.crop_size)
    if config.protocol:
        protocol = Protocol.parse(config.protocol, plan.settings.where("protocol"))
    return Scoring(
        accelerator,
        model,
        network,
        data,
        lambda: build_metrics(plan.metric, facts),
        protocol,
        num_workers=config.num_workers,
        skip_unreadable=config.skip_unreadable,
        keep=spread(data.samples, config.num_pictures),
    )


def build_augmentations(
    plan: Plan, facts: Facts
) -> tuple[tuple[Augment, ...], tuple[Augment, ...]]:
    """Build the augmentations of the worker and of the device, in the order given."""
    built = [(chosen.record.on, chosen.record.build(chosen.options, facts)) for chosen in plan.aug]
    worker, device = (
        tuple(change for on, change in built if on == place) for place in ("worker", "device")
    )
    return worker, device


def describe(run: Run, report: LoadReport) -> list[str]:
    """Say once what is about to be done."""
    plan, accelerator, config = run.plan, run.accelerator, run.config
    millions = sum(parameter.numel() for parameter in run.network.parameters()) / 1e6
    images = (
        f"{len(run.train_data.samples)} training, {len(run.scoring.data.samples)} validation images"
    )
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
