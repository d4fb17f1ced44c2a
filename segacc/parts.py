"""The parts of a run, each built from what was asked for."""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from segacc.augment import Pipeline
from segacc.errors import OptionError
from segacc.eval_data import EvalData
from segacc.hookspecs import Facts, LossTerm
from segacc.model import SegmentationModel
from segacc.optim import groups as parameter_groups
from segacc.optim.optimizers import choose_optimizer
from segacc.plan import Plan
from segacc.processes import on_all, start_accelerator
from segacc.protocols.protocol import Protocol, default_protocol
from segacc.scoring import Scoring, build_metrics, check_metrics, confident, refuse_batches
from segacc.settings import Settings
from segacc.streams import EvalStream


def make_accelerator(plan: Plan) -> Accelerator:
    """Start accelerate as the launcher and the settings say."""
    config = plan.settings.config
    accelerator = start_accelerator(
        config.mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.gradient_accumulation_steps,
            adjust_scheduler=False,
            sync_with_dataloader=False,
        ),
        log_with=list(config.trackers) or None,
        project_dir=str(plan.folder),
    )
    if sharding := getattr(accelerator.state, "fsdp_plugin", None):
        # torch.distributed.checkpoint, which writes shards, reads pickles that can run code.
        sharding.state_dict_config = sharding.optim_state_dict_config = None
        sharding.set_state_dict_type("FULL_STATE_DICT")
        sharding.optim_state_dict_config.rank0_only = False
    return accelerator


def build_losses(plan: Plan, network: SegmentationModel, facts: Facts) -> dict[str, LossTerm]:
    """Build the losses that were asked for, or take those that the network brings.

    Raises:
        OptionError: both are there, or none; or class weights that its own would not heed.
    """
    own, where = network.losses(facts), plan.settings.where("loss")
    if own and plan.loss and "loss" in plan.settings.origins:
        raise OptionError(
            f"{where}: {plan.arch.name} brings its own loss ({', '.join(own)}); leave this out."
        )
    if own and facts.class_weights is not None:
        raise OptionError(
            f"{plan.settings.where('class_weights')}: {plan.arch.name} brings its own loss "
            f"({', '.join(own)}), which heeds no class weights; leave this out."
        )
    if not own and not plan.loss:
        raise OptionError(f"{where}: at least one is needed.")
    return own or {one.name: one.record.build(one.options, facts) for one in plan.loss}


def build_optimizer(
    network: SegmentationModel, settings: Settings, accelerator: Accelerator
) -> tuple[Any, list[parameter_groups.Row]]:
    """Build the optimizer over the parameter groups; fused where the device has it.

    Returns:
        The optimizer, and its groups as they are told.

    Raises:
        OptionError: what is frozen or slowed down does not fit the network.
    """
    config, deepspeed = settings.config, accelerator.state.deepspeed_plugin
    groups = parameter_groups.choose_groups(network, settings)
    if deepspeed is not None:  # it asks a data loader otherwise, and ours is not accelerate's
        deepspeed.deepspeed_config["train_micro_batch_size_per_gpu"] = config.batch_size
        deepspeed.deepspeed_config["gradient_clipping"] = config.max_grad_norm
        if config.unfreeze_after:
            raise OptionError(
                f"{settings.where('unfreeze_after')}: DeepSpeed keeps gradients and optimizer "
                "state to itself; leave this out, or train without DeepSpeed."
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
    data: EvalData | EvalStream,
) -> Scoring:
    """Build what evaluates the validation split while training."""
    config = plan.settings.config
    protocol = default_protocol(network, facts.crop_size)
    if config.protocol:
        protocol = Protocol.parse(config.protocol, plan.settings.where("protocol"))
    refuse_silent(plan, facts)
    check_metrics(plan.metric, facts, plan.settings.where("metric"))
    refuse_batches(data, config.eval_batch_size, plan.settings.where("eval_batch_size"))
    return Scoring(
        accelerator,
        model,
        network,
        data,
        lambda: build_metrics(plan.metric, facts),
        protocol,
        num_workers=config.num_workers,
        skip_unreadable=config.skip_unreadable,
        keep=on_all(accelerator, lambda: data.spread(config.num_pictures)),
        confident=confident(plan.metric),
        eval_batch_size=config.eval_batch_size,
    )


def refuse_silent(plan: Plan, facts: Facts) -> None:
    """Refuse metrics that give no score, only files: a run does not write them.

    Raises:
        OptionError: so.
    """
    for one in plan.metric:
        if one.record.writes and not one.record.build(one.options, facts).compute():
            raise OptionError(
                f"{plan.settings.where('metric')}: {one.name} gives no score, only files, which "
                "`segacc evaluate --metric` writes; leave it out here."
            )


def build_pipeline(plan: Plan, facts: Facts, device: str) -> Pipeline:
    """Build the augmentations in the order given, for a type of device.

    Windows are scaled on CUDA, and on the CPU, which workers would share; other devices cannot all
    scale antialiased.
    """
    built = [(one.record, one.options, one.record.build(one.options, facts)) for one in plan.aug]
    scales = device in ("cpu", "cuda")
    return Pipeline.of(built, scales=scales, num_classes=facts.num_classes)
