"""The plan of a run: its settings and components, checked before torch is imported."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import AllowInfNan, PositiveInt

from segacc.errors import OptionError, count_of
from segacc.evaluation.model_folder import (
    NETWORK,
    architecture_of,
    find_model,
    initial_model,
    refuse_missing,
    side_file,
)
from segacc.evaluation.protocol_options import check_protocol
from segacc.hookspecs import Chosen
from segacc.registry import Registry, choose, refuse_twins
from segacc.settings.options import decode, parse_component
from segacc.settings.sources import ABOUT_THE_PLACE, AUGMENT, Layer, Settings, merge, read_yaml
from segacc.settings.units import steps_of_epochs
from segacc.training import checkpoint
from segacc.training.class_weights import check_class_weights
from segacc.training.folders import BALANCE, MARK, refuse_own, run_folder
from segacc.training.optim.lora import choose_lora
from segacc.training.optim.optimizers import check_optimization
from segacc.training.optim.schedule import Decay, choose_schedule
from segacc.training.saving.repository import repo_of
from segacc.training.tracking.trackers import check_trackers

FIXED = (
    *("arch", "weights", "head", "num_channels", "image_mean", "image_std", "crop_size"),
    "freeze_batchnorm",
    *("optimizer", "layer_decay", "layer_decay_rule", "freeze", "unfreeze_after", "lora"),
    *("seed", "rare_class_sampling", "best_by", "protocol", "ema"),
)
"""Settings that cannot be changed with `--resume`."""
CHOSEN = ("batch_size", "mixed_precision")
"""Settings whose value `auto` is replaced by a choice when a run starts; a resumed run keeps it."""
FROM_THE_START = "--resume auto"
"""Source of the settings that make `--resume auto` start the run."""


@dataclass(frozen=True, kw_only=True)
class EarlyStopOptions:
    """Options of `--early-stop METRIC:...`."""

    patience: PositiveInt = 5
    """Number of evaluations in a row without a better score after which the run stops."""
    min_delta: Annotated[float, Ge(0), AllowInfNan(False)] = 0.0
    """Smallest change of the score that counts as an improvement; it must exceed this."""


@dataclass(frozen=True)
class Plan:
    """A checked run, ready to be built."""

    settings: Settings
    arch: Chosen
    dataset: Chosen
    aug: tuple[Chosen, ...]
    loss: tuple[Chosen, ...]
    metric: tuple[Chosen, ...]
    folder: Path
    """The run folder."""
    resume: checkpoint.Resume | None
    """The checkpoint to resume from."""
    schedule: Decay
    early_stop: tuple[str, EarlyStopOptions] | None
    """The name of the score, and the options of early stopping."""
    repo: str | None
    """The Hub repository to which each new best/ is uploaded."""
    started: float
    """Start of the run, as a value of time.monotonic, in seconds."""


def gather(layers: list[Layer]) -> tuple[Settings, checkpoint.Resume | None]:
    """Merge the sources of the settings; with `--resume`, on top of the run's own config.yaml.

    `--resume auto` starts the run if no checkpoint was saved yet; what a start without a checkpoint
    left in the run folder is then overwritten.

    Raises:
        OptionError: see `merge`; there is no checkpoint to resume from; or a setting that a
            resumed run cannot change was changed.
    """
    settings = merge(layers)
    if not settings.config.resume:
        return settings, None
    resume = checkpoint.find(settings.config.resume, settings.config.output_dir)
    if resume is None:
        output_dir = settings.config.output_dir
        begun = output_dir is not None and (output_dir / MARK).is_file()
        begin = Layer({"resume": None, "overwrite": begun}, FROM_THE_START)
        return merge([*layers, begin]), None
    folder = resume.folder
    if settings.config.output_dir and settings.config.output_dir.resolve() != folder:
        raise OptionError(f"--resume continues the run in {folder}; leave --output-dir out.")
    stored = read_yaml(folder / "config.yaml", "--resume")
    place = {key: getattr(settings.config, key) for key in ("resume", "resume_anyway")}
    resumed = Layer({"output_dir": folder, **place}, str(folder))
    typed = [Layer(_without_place(layer.values), layer.source) for layer in layers]
    _refuse_changes(settings, merge([stored]), folder)
    merged = _given_again(merge([stored, *typed, resumed]), merge([stored]), resume)
    return _as_started(merged), resume


def _given_again(settings: Settings, stored: Settings, resume: checkpoint.Resume) -> Settings:
    """Give settings that were typed again, with the values of config.yaml, their origin there.

    A scheduler repeats the whole command, which changes nothing. Two do more than their value says:
    a file of class weights is read again, and `--batch-size` tries larger micro-batches again, but
    for `--resume auto`.
    """
    config, was, epochs = settings.config, resume.progress.settings, settings.config.epochs or 0.0
    images, total = was.get("training_images") or 0, was.get("total_batch_size") or 0
    last, anew = stored.config.max_steps, ["class_weights"]
    anew += ["batch_size"] if config.resume != "auto" else []
    counted = epochs and images and total and not config.resume_anyway  # of the same data
    if counted and steps_of_epochs(epochs, images, total) == last:
        config = dataclasses.replace(config, epochs=None, max_steps=last)
    same = {
        key: where
        for key, where in stored.origins.items()
        if key not in anew and getattr(config, key) == getattr(stored.config, key)
    }
    typed = {key: where for key, where in settings.origins.items() if key != "epochs"}
    return Settings(config, {**(settings.origins if config.epochs else typed), **same})


def _as_started(settings: Settings) -> Settings:
    """Make a resumed run read the network's config from its run folder."""
    arch, network = settings.config.arch, (settings.config.output_dir or Path()) / NETWORK
    if not (isinstance(arch, dict) and arch.get("config") and network.is_dir()):
        return settings
    config = dataclasses.replace(settings.config, arch={**arch, "config": str(network)})
    return Settings(config, settings.origins)


def _refuse_changes(typed: Settings, stored: Settings, folder: Path) -> None:
    """Refuse settings that a resumed run would ignore, or that would make it another run."""
    if typed.config.overwrite:
        where = typed.where("overwrite")
        raise OptionError(f"{where}: --resume continues the run in {folder}; leave this out.")
    for key in FIXED:
        was, now = getattr(stored.config, key), getattr(typed.config, key)
        if key in typed.origins and now != was:
            raise OptionError(
                f"{typed.where(key)}: {now}: the run in {folder} was started with {was}, which "
                "--resume cannot change. Leave it out, or start a new run (--weights "
                f"{folder / 'last'} starts from its weights)."
            )


def as_stored(settings: Settings, key: str, folder: Path) -> bool:
    """Return whether a setting comes from the run folder's config.yaml, see `_given_again`."""
    return settings.where(key) == f"{folder / 'config.yaml'}: {key}"


def _without_place(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where a run is stored, and `auto` for what the run has chosen at its start."""
    kept = {key: value for key, value in values.items() if key not in ABOUT_THE_PLACE}
    return {key: value for key, value in kept.items() if not (key in CHOSEN and value == "auto")}


def make_plan(layers: list[Layer], registry: Registry, *, started: float | None = None) -> Plan:
    """Check everything that can be checked without torch.

    Args:
        layers: the sources of the settings; later ones override earlier ones.
        registry: the known components.
        started: start of the run, as a value of time.monotonic, in seconds; default now.

    Raises:
        SegaccError: a setting is invalid; the first one found, and where it was given.
    """
    settings, resume = gather(layers)
    if resume:
        where = f"--resume {settings.config.resume}"
        refuse_missing(registry, side_file(resume.folder / NETWORK), where)
    settings = with_adapters(with_augmentations(with_architecture(settings, registry)))
    config = settings.config
    check_optimization(settings)
    check_trackers(settings)
    refuse_other_channels(settings)
    refuse_accumulation(settings)
    if config.protocol:
        check_protocol(config.protocol, settings.where("protocol"))
    if config.cache and config.cache != "ram":
        refuse_own(settings, config.cache)

    def many(kind: str, key: str) -> tuple[Chosen, ...]:
        given = getattr(config, key)
        if given == ("none",):
            return ()
        return tuple(choose(registry, kind, one, settings.where(key)) for one in given)

    arch = choose(registry, "architecture", config.arch, settings.where("arch"))
    dataset = choose(registry, "dataset", config.dataset, settings.where("dataset"))
    settings = with_found(settings, dataset)
    folder = run_folder(settings, arch, dataset)
    plan = Plan(
        settings,
        arch,
        dataset,
        many("augmentation", "aug"),
        many("loss", "loss"),
        many("metric", "metric"),
        folder,
        resume,
        choose_schedule(settings),
        choose_early_stop(settings),
        repo_of(settings, folder),
        time.monotonic() if started is None else started,
    )
    if plan.loss:  # empty if the network brings its own
        refuse_twins([one.name for one in plan.loss], settings.where("loss"))
    refuse_twins([one.text for one in plan.metric], settings.where("metric"))
    if config.class_weights is not None:
        _check_class_weights(plan, config.class_weights)
    refuse_done(resume, settings)
    return plan


def refuse_accumulation(settings: Settings) -> None:
    """Refuse a number of micro-batches per step that `--batch-size auto` would replace.

    Raises:
        OptionError: both are given.
    """
    key = "gradient_accumulation_steps"
    if settings.config.batch_size == "auto" and key in settings.origins:
        raise OptionError(
            f"{settings.where(key)}: {settings.config.gradient_accumulation_steps}: "
            f"{settings.where('batch_size')} auto chooses this; give the images per step with "
            "--total-batch-size N in place of this."
        )


def refuse_other_channels(settings: Settings) -> None:
    """Refuse a mean or a standard deviation for another number of channels.

    Raises:
        OptionError: the number of values is not `num_channels`.
    """
    channels = settings.config.num_channels
    for key in ("image_mean", "image_std"):
        if (given := getattr(settings.config, key)) is not None and len(given) != channels:
            raise OptionError(
                f"{settings.where(key)}: has {count_of(len(given), 'value')}, but images have "
                f"{count_of(channels, 'channel')}; give one value per channel, or set num_channels."
            )


def with_architecture(settings: Settings, registry: Registry) -> Settings:
    """Check `--weights`; without `--arch`, choose the architecture that reads them.

    Raises:
        SegaccError: the weights do not exist, or no architecture reads them.
    """
    given, where = settings.config.weights, settings.where("weights")
    if settings.config.resume or given in ("auto", "none"):
        return settings
    found = initial_model(given, where)
    refuse_own(settings, given)
    if "arch" in settings.origins:
        return settings
    if found and found.folder.is_file():
        raise OptionError(
            f"{where}: {given} is a file of weights, which does not describe its network. Add the "
            "architecture and its size, as --arch segformer:variant=b2."
        )
    found = found or find_model(given, where, only_config=True)
    named = architecture_of(registry, found.about, f"{where}: {given}")
    return settings.chosen({"arch": (named, f"that of {given}")})


def with_augmentations(settings: Settings) -> Settings:
    """Replace `aug` with the augmentation pipeline that `augment` names."""
    name = settings.config.augment
    if name is None:
        return settings
    reason = f"{settings.where('augment')} {name}"
    return settings.chosen({"aug": (AUGMENT[name], reason), "augment": (None, "")})


def with_adapters(settings: Settings) -> Settings:
    """Check `--lora`; `none` is the same as not to give it."""
    if settings.config.lora is not None and choose_lora(settings) is None:
        return settings.chosen({"lora": (None, "")})
    return settings


def with_found(settings: Settings, dataset: Chosen) -> Settings:
    """Fill in how a data set that was given by its path is read.

    Without a validation split in it, a part of the training split is held out.
    """
    if dataset.found is None:
        return settings
    reason = f"{settings.where('dataset')} {dataset.found.given}"
    told: dict[str, tuple[Any, str]] = {"dataset": (dict(dataset.found.values), reason)}
    fraction = dataset.found.val_fraction
    if fraction and not {"val_fraction", "eval_split"} & settings.origins.keys():
        told["val_fraction"] = (fraction, f"{reason} has no validation split")
    return settings.chosen(told)


def _check_class_weights(plan: Plan, given: str) -> None:
    """Refuse class weights that cannot be read, or that no loss uses.

    A network's own losses are checked later, when it is built.
    """
    where = plan.settings.where("class_weights")
    stored = (plan.folder / BALANCE).is_file() and as_stored(
        plan.settings, "class_weights", plan.folder
    )
    if not (plan.resume and stored):
        check_class_weights(given, where)
    if plan.loss and not any(one.record.class_weighted for one in plan.loss):
        names = ", ".join(one.name for one in plan.loss)
        raise OptionError(
            f"{where}: {given}: none of the losses of this run ({names}) uses class weights. Add "
            "--loss cross_entropy, or leave this out."
        )


def refuse_done(resume: checkpoint.Resume | None, settings: Settings) -> None:
    """Refuse to resume a run that has already passed its last step.

    Raises:
        OptionError: the checkpoint is after `max_steps`.
    """
    last = settings.config.max_steps
    if resume and last and resume.progress.step > last:
        raise OptionError(
            f"{settings.where('max_steps')}: {last}: {resume.checkpoint} is already at step "
            f"{resume.progress.step}; give more with --max-steps or --epochs."
        )


def nothing_left(plan: Plan) -> str:
    """Return that the run to resume has ended, and how to extend it; empty while work is left."""
    resume, config, stop = plan.resume, plan.settings.config, plan.early_stop
    if resume is None:
        return ""
    progress, folder = resume.progress, resume.folder
    fitted = config.max_time and as_stored(plan.settings, "max_time", folder)
    last = progress.max_steps if fitted else config.max_steps
    was = progress.early_stop
    early = stop is not None and was.get("by") == stop[0] and was["since"] >= stop[1].patience
    saved = side_file(folder / "last").get("step")
    if not (progress.step == last or early) or not progress.step == progress.evaluated == saved:
        return ""
    if early and stop:
        ended, way = "was stopped early", f"--early-stop {stop[0]}:patience=N, N > {was['since']}"
    elif config.max_time:
        ended, way = "is finished", "--max-time TIME, the time of the whole run"
    else:
        ended, way = "is finished", f"--max-steps N, the steps of the whole run, N > {last}"
    return (
        f"{folder}: this run {ended} at step {progress.step}; nothing is done. To continue it, "
        f"give {way}."
    )


def choose_early_stop(settings: Settings) -> tuple[str, EarlyStopOptions] | None:
    """Parse `METRIC:patience=5,min_delta=0.001` into the score's name and the options, or None.

    Raises:
        OptionError: an option is unknown or invalid.
    """
    given, where = settings.config.early_stop, settings.where("early_stop")
    if given is None:
        return None
    named = parse_component(given, where)
    options = decode(EarlyStopOptions, named.values, f"{where} {named.name}")
    return None if named.name == "none" else (named.name, options)
