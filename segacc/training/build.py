"""Build the network of a run, load its weights and freeze parts of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import nn

from segacc.contracts import Facts
from segacc.errors import OptionError, PluginError, WeightsError
from segacc.evaluation.compiled import compile_network, refuse_broken
from segacc.evaluation.model_folder import NETWORK, find_model, initial_model
from segacc.evaluation.scoring import SHARDED
from segacc.hookspecs import DataSplits
from segacc.model import SegmentationModel
from segacc.model.adapters import is_adapter
from segacc.model.arithmetic import peak_of
from segacc.model.contract import build_fitting
from segacc.model.hub import Source, choose, fetch
from segacc.model.probe import freeze, probe
from segacc.model.transfer import LoadReport
from segacc.training.defaults import check_batch, check_memory, default_crop
from segacc.training.optim.adapters import add_adapters, check_adapters
from segacc.training.optim.freezing import freeze_for_good, keep_statistics
from segacc.training.plan import Plan
from segacc.training.processes import device_name, on_all
from segacc.training.saving.license import Base, find_base, stored_base


def load_weights(
    model: SegmentationModel,
    source: Source,
    *,
    class_names: Sequence[str] = (),
    fresh_head: bool = False,
) -> LoadReport:
    """Load the weights that `choose` found; see `SegmentationModel.load_weights`.

    Raises:
        WeightsError: the weights do not fit the network.
    """
    if source.folder is None:
        return LoadReport(source.name)
    found = initial_model(source.folder, "--weights") or find_model(source.folder, "--weights")
    report = found.load_into(model, class_names=class_names, fresh_head=fresh_head)
    return replace(report, source=source.name)


def choose_source(given: str, default_id: str | None) -> Source:
    """Decide where the weights come from; see `choose`.

    Raises:
        WeightsError: what the user typed is not there.
    """
    if given in ("auto", "none") or not (found := initial_model(given, "--weights")):
        return choose(given, default_id)
    return Source(str(found.folder), found.told.removeprefix("model ") or given)


def agree_on_weights(given: str, default_id: str | None, accelerator: Any) -> Source:
    """Let the main process `choose` the weights for all; each node downloads them once.

    Raises:
        WeightsError: as `choose`, on every process.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    source = None
    if accelerator.is_main_process:
        try:
            source = choose_source(given, default_id)
        except Exception as error:  # raised below, on all processes
            source = Source(None, "", error=error)
    decision: list[Source] = broadcast_object_list([source])
    shared = decision[0]
    if shared.error is not None:
        raise shared.error
    failed = ""
    with accelerator.local_main_process_first():  # a barrier: all processes must come here
        if shared.folder and not Path(shared.folder).exists():  # a node with its own disk
            try:
                shared = replace(shared, folder=fetch(shared.name))
            except WeightsError as error:
                failed = str(error)
    if failures := list(filter(None, gather_object([failed]))):
        raise WeightsError(failures[0])
    return shared


@dataclass(frozen=True)
class Built:
    """A built network."""

    network: SegmentationModel
    facts: Facts
    """With the crop size that fits the network."""
    report: LoadReport
    stride: float
    """Image pixels per logit, in height and width."""
    flops: float | None
    """See `Findings`; counted on a device whose peak arithmetic is known."""
    notes: tuple[str, ...]
    base: Base | None
    """The weights that the run started from; None for random ones, and on other processes."""


def build_network(plan: Plan, splits: DataSplits, accelerator: Accelerator) -> Built:
    """Build the network, load its weights, and make a dry run to find unused parameters.

    Raises:
        SegaccError: the weights, the crop or the batch do not fit it, or a package is missing.
    """
    config = plan.settings.config
    network, facts = construct(plan, splits)
    default = plan.arch.record.default_weights(plan.arch.options)
    if getattr(plan.arch.options, "config", None):  # default weights need not fit a config
        default = None
    source = agree_on_weights("none" if plan.resume else config.weights, default, accelerator)
    fresh = config.head == "fresh"
    report = load_weights(network, source, class_names=facts.class_names, fresh_head=fresh)
    if plan.resume:
        report = LoadReport(f"checkpoint {plan.resume.checkpoint.name}")
        if (plan.folder / NETWORK).is_dir():
            network.load_settings(plan.folder / NETWORK)
    set_normalization(network, plan)
    freeze_parts(network, plan, accelerator)
    where = f"{plan.settings.where('arch')} {plan.arch.name}"
    if plan.arch.distribution != "segacc":
        where += f" ({plan.arch.plugin})"
    with plan.arch.doing("a dry run of the network"):
        findings = probe(
            network,
            facts.crop_size,
            facts.num_channels,
            facts=facts,
            where=where,
            count=peak_of(device_name(accelerator.device), "bf16") is not None,
        )
    freeze(network, findings.unused)
    if config.unfreeze_after is not None:
        keep_statistics(network, plan.settings)
    network.min_batch_size = max(network.min_batch_size, findings.min_batch_size)
    if config.gradient_checkpointing and not network.enable_gradient_checkpointing():
        raise OptionError(
            f"--gradient-checkpointing: {plan.arch.name} does not support it; leave it out."
        )
    if config.channels_last:
        change: Any = network.to
        change(memory_format=torch.channels_last)
    learns = check_adapters(network, plan.settings)
    notes = [learns, *findings.lines(), source.warning, lost(network, report, plan)]
    network = synchronize(network, plan, accelerator)
    check_batch(network, plan.settings, accelerator.num_processes)
    notes.append(compile_if_asked(network, plan, accelerator))
    base = begun_from(plan, source, report) if accelerator.is_main_process else None
    told = tuple(filter(None, notes))
    return Built(network, facts, report, findings.stride, findings.flops, told, base)


def freeze_parts(network: SegmentationModel, plan: Plan, accelerator: Accelerator) -> None:
    """Freeze what is never trained, and give the encoder adapters with `--lora`.

    Raises:
        OptionError: see `add_adapters` and `freeze_for_good`.
    """
    config = plan.settings.config
    if config.freeze_batchnorm:
        network.freeze_batchnorm()
    add_adapters(network, plan.settings, accelerator)
    if config.freeze and config.unfreeze_after is None:
        freeze_for_good(network, plan.settings)


def begun_from(plan: Plan, source: Source, report: LoadReport) -> Base | None:
    """Return the weights that a run started from, also if it is resumed; None for random ones."""
    if plan.resume:
        return stored_base(plan.folder / NETWORK)
    return find_base(source, plan.settings.config.weights, plan.arch) if report.loaded else None


def set_normalization(network: SegmentationModel, plan: Plan) -> None:
    """Normalize images by the mean and the standard deviation of the settings, if given.

    Raises:
        OptionError: the network's image processor does not normalize.
    """
    processor = getattr(network, "image_processor", None)
    for key, name in (("image_mean", "mean"), ("image_std", "std")):
        if (given := getattr(plan.settings.config, key)) is None:
            continue
        if processor is not None and processor.do_normalize is None:
            raise OptionError(
                f"{plan.settings.where(key)}: the image processor of {plan.arch.name} does not "
                "normalize images; leave this out."
            )
        setattr(network, name, tuple(given))


def construct(plan: Plan, splits: DataSplits) -> tuple[SegmentationModel, Facts]:
    """Build the network with random weights, for a crop size that fits it.

    Raises:
        OptionError: the crop size that was given does not fit the network, or the memory.
    """
    config, labels = plan.settings.config, splits.labels
    facts = Facts(
        num_classes=len(labels.names),
        class_names=labels.names,
        crop_size=config.crop_size or default_crop(splits)[0],
        num_channels=config.num_channels,
        seed=config.seed,
    )
    check_memory(plan.settings, facts)
    given = plan.settings.where("crop_size") if config.crop_size else ""
    return build_fitting(partial(build, plan), facts, given)


def build(plan: Plan, facts: Facts) -> SegmentationModel:
    """Build a network from its record.

    Raises:
        OptionError: a package is missing.
    """
    arch = plan.arch
    try:
        network = arch.build_network(facts)
    except PluginError as error:
        if not isinstance(missing := error.__cause__, ModuleNotFoundError):
            raise
        where = plan.settings.where("arch")
        raise OptionError(
            f"{where}: {arch.name} needs the package {missing.name}; install it."
        ) from None
    network.num_channels = facts.num_channels
    return network


def lost(network: SegmentationModel, report: LoadReport, plan: Plan) -> str:
    """Return a warning if the encoder has random weights and is frozen, but for adapters."""
    own = [name for name, _ in network.named_parameters() if not is_adapter(name)]
    encoder = [network.get_parameter(name) for name in own if not network.is_head(name)]
    if report.loaded or plan.resume or not encoder or any(one.requires_grad for one in encoder):
        return ""
    apart = " but for its adapters" if plan.settings.config.lora else ""
    return (
        f"THE ENCODER HAS RANDOM WEIGHTS AND IS FROZEN{apart}, so it will never learn: give "
        f"{plan.arch.name} weights (--weights FOLDER), or train the encoder."
    )


def synchronize(
    network: SegmentationModel, plan: Plan, accelerator: Accelerator
) -> SegmentationModel:
    """Convert batch norm to SyncBatchNorm if `--sync-batchnorm` is given.

    Raises:
        OptionError: the processes run on CPUs, where torch does not support it.
    """
    if not plan.settings.config.sync_batchnorm or accelerator.num_processes == 1:
        return network
    if accelerator.device.type == "cpu":
        raise OptionError(
            "--sync-batchnorm: torch synchronizes batch norm on GPUs only. On CPU processes use "
            "--freeze-batchnorm, or leave it out."
        )
    network.min_batch_size = 1
    convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
    synchronized: SegmentationModel = convert(network)
    return synchronized


def compile_if_asked(network: SegmentationModel, plan: Plan, accelerator: Accelerator) -> str:
    """Compile the network in place with `--compile`; return a line about it, else nothing.

    Raises:
        OptionError: accelerate compiles it as well, each process has a part of it, or
            torch.compile does not work here.
    """
    if not plan.settings.config.compile:
        return ""
    where, theirs = plan.settings.where("compile"), accelerator.state.dynamo_plugin.backend
    if theirs != DynamoBackend.NO:
        raise OptionError(
            f"{where}: accelerate compiles the network already, by --dynamo_backend "
            f"{theirs.value.lower()} of `accelerate launch` or `accelerate config`; leave one of "
            "them out."
        )
    if (kind := accelerator.distributed_type) in SHARDED:
        raise OptionError(
            f"{where}: not supported with {kind.value}, which shares the network among the "
            "processes; leave this out, or compile by `accelerate launch --dynamo_backend "
            "inductor`."
        )
    on_all(accelerator, lambda: refuse_broken(accelerator.device, where))
    return compile_network(network, where)
