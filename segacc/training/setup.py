"""Build a run from a plan: losses, optimizer, scoring and the run itself."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, set_seed
from torch import Tensor

from segacc.contracts import IGNORE, Facts, LossTerm
from segacc.data.augment import Pipeline, described
from segacc.data.codecs import decoded_by
from segacc.data.order import seeded
from segacc.data.quick_check import GivenData
from segacc.errors import OptionError, Origin, PluginError, count_of
from segacc.evaluation.compiled import FewSizes
from segacc.evaluation.loss import has_loss
from segacc.evaluation.protocol import Protocol, default_protocol, refuse_threshold
from segacc.evaluation.scores import ignored_by
from segacc.evaluation.scoring import Scoring, checked_scoring
from segacc.hookspecs import Chosen, LossOptions
from segacc.model import SegmentationModel
from segacc.model.transfer import LoadReport
from segacc.settings.sources import Settings
from segacc.settings.units import seconds
from segacc.training import checkpoint
from segacc.training.build import build_network
from segacc.training.data import RunData, check_ends, end_lines, load_data
from segacc.training.defaults import (
    agree_on_precision,
    choose_score,
    choose_settings,
    faster_layout,
    faster_precision,
    fitted_crop,
    refuse_accumulation_of_launcher,
    split_batch,
    with_precision,
)
from segacc.training.folders import RunLock
from segacc.training.limits.budget import Clock
from segacc.training.limits.guard import build_early_stop, build_guard, build_plateau
from segacc.training.optim import groups as parameter_groups
from segacc.training.optim.optimizers import choose_optimizer
from segacc.training.plan import CHOSEN, Plan, refuse_done
from segacc.training.processes import (
    idle_cores,
    launched,
    on_all,
    save_bare,
    start_accelerator,
)
from segacc.training.resume import lock_folder, prepare_folder, resume
from segacc.training.run import Best, Run
from segacc.training.saving.model import build_ema, kinds

Fit = Callable[[Run, Settings], Settings]
"""Chooses the micro-batch of a run, see `fit_batch`."""


def make_accelerator(plan: Plan, asked: Settings) -> Accelerator:
    """Create the Accelerator from the launcher's environment and the settings.

    Args:
        plan: the run.
        asked: its settings before anything was chosen.
    """
    config = plan.settings.config
    refuse_accumulation_of_launcher(plan.settings)
    accelerator = start_accelerator(
        config.mixed_precision,
        timeout=seconds(config.process_timeout),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.gradient_accumulation_steps,
            adjust_scheduler=False,
            sync_with_dataloader=False,
        ),
        log_with=list(config.trackers) or None,
        project_dir=str(plan.folder),
    )
    if sharding := getattr(accelerator.state, "fsdp_plugin", None):
        # Sharded state dicts are read by torch.distributed.checkpoint, whose pickles can run code.
        sharding.state_dict_config = sharding.optim_state_dict_config = None
        sharding.set_state_dict_type("FULL_STATE_DICT")
        sharding.optim_state_dict_config.rank0_only = False
    agree_on_precision(accelerator, asked)
    return accelerator


def build_losses(plan: Plan, network: SegmentationModel, facts: Facts) -> dict[str, LossTerm]:
    """Build the losses of `--loss`, or take the network's own.

    Raises:
        OptionError: there are both, or neither; or the network's own losses would ignore the class
            weights.
    """
    where = plan.settings.where("loss")
    with plan.arch.doing("losses()"):
        own = network.losses(facts)
    if own and plan.loss and "loss" in plan.settings.origins:
        raise OptionError(
            f"{where}: {plan.arch.name} brings its own loss ({', '.join(own)}); leave this out."
        )
    if own and facts.class_weights is not None and not network.class_weighted:
        raise OptionError(
            f"{plan.settings.where('class_weights')}: {plan.arch.name} brings its own loss "
            f"({', '.join(own)}), which does not use class weights; leave this out."
        )
    if not own and not plan.loss:
        raise OptionError(f"{where}: at least one loss is needed.")
    arch = plan.arch.origin
    found: dict[str, LossTerm] = {
        name: Term(loss, replace(arch, name=f"{arch}, loss {name}")) for name, loss in own.items()
    }
    return found or {one.name: build_term(one, facts) for one in plan.loss}


@dataclass(frozen=True)
class Term:
    """A loss times its option `weight`; it raises a PluginError if the loss fails."""

    loss: LossTerm
    origin: Origin
    weight: float | None = None
    """None for a loss without this option, or that applies it itself."""

    def count(self, labels: Tensor) -> Tensor:
        """Return the count of the loss."""
        with self.origin.doing(f"count() of labels {tuple(labels.shape)}"):
            found = self.loss.count(labels)
        return self._checked("count", found)

    def sum(self, logits: Any, labels: Tensor) -> Tensor:
        """Return the sum of the loss, multiplied by the weight."""
        given = f"logits {tuple(logits.shape)}" if isinstance(logits, Tensor) else "queries"
        with self.origin.doing(f"sum() of {given} and labels {tuple(labels.shape)}"):
            found = self.loss.sum(logits, labels)
        found = self._checked("sum", found)
        return found if self.weight is None else self.weight * found

    def _checked(self, step: str, found: Any) -> Tensor:
        if isinstance(found, Tensor) and not found.ndim and found.is_floating_point():
            return found
        raise PluginError(
            f"{self.origin}: {step}() returned {described(found)}; expected a scalar tensor of a "
            "floating dtype."
        )


def build_term(one: Chosen, facts: Facts) -> Term:
    """Build a loss; if it has the options of every loss, it is multiplied by `weight`."""
    own = isinstance(one.options, LossOptions)
    return Term(one.build(facts), one.origin, one.options.weight if own else None)


def check_losses(
    losses: Iterable[Term], num_classes: int, stride: float, device: torch.device
) -> None:
    """Try each loss on two small images, with logits of half the labels' size if `stride` > 1.

    Raises:
        PluginError: a loss fails, its sum or count is not a float scalar, it counts nothing, or
            its sum has no gradient.
    """
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (2, 32, 48), generator=draw).to(device)
    labels[:, :4] = IGNORE
    size = (16, 24) if stride > 1 else (32, 48)
    logits = torch.randn(2, num_classes, *size, generator=draw).to(device).requires_grad_()
    for loss in losses:
        with seeded(0, device):
            count, total = loss.count(labels), loss.sum(logits, labels)
        if not 0 < float(count) < math.inf:
            raise PluginError(
                f"{loss.origin}: count() returned {float(count)} for labels with valid pixels; "
                "expected a positive number."
            )
        if not total.requires_grad:
            raise PluginError(
                f"{loss.origin}: sum() has no gradient for the logits, so it would train nothing; "
                "compute it from them without argmax() or detach()."
            )


def build_optimizer(
    network: SegmentationModel, settings: Settings, accelerator: Accelerator
) -> tuple[Any, list[parameter_groups.Row]]:
    """Build the optimizer over the parameter groups; fused if the device supports it.

    Returns:
        The optimizer, and a table row for each parameter group.

    Raises:
        OptionError: `--freeze`, `--layer-decay` or `--encoder-warmup-steps` does not fit the
            network; or `--unfreeze-after` with DeepSpeed.
    """
    config, deepspeed = settings.config, accelerator.state.deepspeed_plugin
    groups = parameter_groups.choose_groups(network, settings)
    if deepspeed is not None:  # by default read from a data loader that segacc does not use
        deepspeed.deepspeed_config["train_micro_batch_size_per_gpu"] = config.micro_batch_size
        deepspeed.deepspeed_config["gradient_clipping"] = config.max_grad_norm
        if config.unfreeze_after:
            raise OptionError(
                f"{settings.where('unfreeze_after')}: not supported with DeepSpeed, which manages "
                "gradients and optimizer state itself; leave this out, or train without DeepSpeed."
            )
    rows = parameter_groups.table(network, groups)
    chosen = choose_optimizer(config.optimizer, settings.where("optimizer"))
    return chosen.build(groups, accelerator.device.type), rows


def build_scoring(
    plan: Plan,
    facts: Facts,
    accelerator: Accelerator,
    model: Any,
    network: SegmentationModel,
    data: RunData,
    losses: dict[str, LossTerm],
) -> Scoring:
    """Build the Scoring that evaluates the validation split during training."""
    config = plan.settings.config
    protocol = default_protocol(network, facts.crop_size)
    if config.protocol:
        where = plan.settings.where("protocol")
        protocol = Protocol.parse(config.protocol, where)
        refuse_threshold(protocol, facts.class_names, where)
    refuse_silent(plan, facts)
    scoring = checked_scoring(
        accelerator,
        FewSizes(model) if config.compile else model,
        network,
        data.scored,
        protocol,
        facts=facts,
        metrics=plan.metric,
        config=config,
        where=plan.settings.where,
    )
    scoring.ignored = ignored_by(data.splits.labels)
    if has_loss(protocol) and not network.losses(facts):  # its own losses need its queries
        scoring.losses = losses
    scoring.keep = on_all(accelerator, lambda: data.scored.example_ids(config.num_pictures))
    return scoring


def refuse_silent(plan: Plan, facts: Facts) -> None:
    """Refuse metrics that only write files: training does not write these files.

    Raises:
        OptionError: a metric has no score.
    """
    for one in plan.metric:
        if one.record.writes and not one.build(facts).compute():
            raise OptionError(
                f"{plan.settings.where('metric')}: {one.name} has no score; it only writes files, "
                "in `segacc evaluate --metric`. Leave it out here."
            )


def build_pipeline(plan: Plan, facts: Facts, device: str) -> Pipeline:
    """Build the augmentation pipeline, in the order given, for a type of device.

    Crops are resized on the device if that is CUDA or the CPU (whose cores the workers would use
    otherwise); not all other devices can resize with antialiasing.
    """
    return Pipeline.of(plan.aug, facts, defers=device in ("cpu", "cuda"))


def build_run(plan: Plan, given: GivenData | None = None, fit: Fit | None = None) -> Run:
    """Build the run of a plan; afterwards all processes have the same weights and settings.

    Args:
        plan: the checked run.
        given: its data set, if it was read before torch was imported.
        fit: see `fit_batch`; only `--batch-size auto` needs it.

    Raises:
        SegaccError: the data, the weights or the settings do not fit together.
    """
    run, settings = assemble(plan, given, fit)
    lock_folder(run)
    resume(run)
    prepare_folder(run, settings)
    return run


def assemble(plan: Plan, given: GivenData | None, fit: Fit | None = None) -> tuple[Run, Settings]:
    """Build a run, and its settings with all defaults filled in; nothing is written."""
    asked = plan.settings
    plan = replace(plan, settings=with_precision(split_batch(asked, launched())))
    accelerator, seed = make_accelerator(plan, asked), plan.settings.config.seed
    data = load_data(plan, accelerator, given)
    set_seed(seed)
    built = build_network(plan, data.splits, accelerator)
    network, facts = built.network, data.balance.inform(built.facts)
    loaded, processes = bool(built.report.loaded), accelerator.num_processes
    crop = fitted_crop(data.splits, facts.crop_size)
    settings = choose_settings(plan.settings, loaded, crop, data.num_training_samples, processes)
    refuse_done(plan.resume, settings)
    losses = build_losses(plan, network, facts)
    if list(losses) == [one.name for one in plan.loss]:
        typed = [one for one in losses.values() if isinstance(one, Term)]
        check_losses(typed, facts.num_classes, built.stride, accelerator.device)
    else:
        settings = settings.chosen({"loss": (("none",), f"{plan.arch.name} brings its own loss")})
    set_seed(seed, device_specific=True)
    optimizer, groups = build_optimizer(network, settings, accelerator)
    model, optimizer = accelerator.prepare(network, optimizer)
    save_bare(accelerator)
    pipeline = build_pipeline(plan, facts, accelerator.device.type)
    check_ends(pipeline, facts, settings, data.train)
    scoring = build_scoring(plan, facts, accelerator, model, network, data, losses)
    settings = choose_score(settings, scoring.metrics())
    best = Best(settings.config.best_by, plan.metric, scoring.metrics(), settings.where("best_by"))
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
        best=best,
        progress=checkpoint.Progress(positions=data.starts(settings.config.num_workers)),
        early_stop=build_early_stop(plan, scoring),
        plateau=build_plateau(plan, scoring, settings.config.best_by),
        guard=build_guard(plan, accelerator, network, losses),
        clock=Clock(plan.started),
        ema=build_ema(plan, model, accelerator),
        groups=groups,
        lock=RunLock(plan.folder),
        flops=built.flops,
        base=built.base,
    )
    scoring.weights = kinds(run)[-1]
    settings = sized(run, settings, asked, fit)
    notes = (*data.notes, *built.notes, *parameter_groups.lines(groups))
    told = [*choices(asked, settings), *idle_cores(accelerator)]
    run.notes = [*describe(run, built.report), *told, *notes]
    return run, settings


def sized(run: Run, settings: Settings, asked: Settings, fit: Fit | None) -> Settings:
    """Choose the micro-batch if `asked` leaves it to segacc."""
    if asked.config.batch_size != "auto":
        return settings
    assert fit, "who builds a run with --batch-size auto gives what measures it"
    return fit(run, settings)


def choices(asked: Settings, settings: Settings) -> list[str]:
    """Return a line for each setting that was `auto`, with what was chosen and why."""
    autos = [key for key in CHOSEN if getattr(asked.config, key) == "auto"]
    reasons = {key: settings.where(key).removeprefix("chosen: ") for key in autos}
    return [f"{key}: {getattr(settings.config, key)} ({reasons[key]})" for key in autos]


def describe(run: Run, report: LoadReport) -> list[str]:
    """Return the first lines of the console output: model, data, devices and batch size."""
    plan, accelerator, config = run.plan, run.accelerator, run.config
    millions = sum(parameter.numel() for parameter in run.network.parameters()) / 1e6
    training, scored = (
        "streamed" if one.num_samples is None else one.num_samples
        for one in (run.train_data, run.scoring.data)
    )
    images = f"{training} training, {scored} validation images"
    first, *more = report.lines()
    many = "es" if accelerator.num_processes > 1 else ""
    where = f"{accelerator.num_processes} process{many} on {accelerator.device.type}"
    if threads := run.threads:
        where += f" ({count_of(threads, 'thread')}{' each' * bool(many)})"
    precision = accelerator.mixed_precision
    number_format = "float32" if precision == "no" else precision
    micro_batches = count_of(config.gradient_accumulation_steps, "accumulation step")
    split = f"{config.micro_batch_size} per process x {micro_batches}"
    return [
        f"{plan.arch.text}: {millions:.2f} million parameters; {first}",
        *(f"  {line}" for line in more),
        f"{plan.dataset.text}: {images}, {run.facts.num_classes} classes",
        f"JPEG and PNG files are decoded by {decoded_by()}",
        f"{where}, precision {number_format}, total batch size {run.total_batch_size} ({split})",
        *faster_precision(accelerator, plan.settings.config),
        *faster_layout(run),
        *end_lines(run.pipeline, config),
    ]
