"""Default settings that depend on the data and the network, and a check of the batch size."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.nn import Conv2d

from segacc.contracts import Facts, MetricState
from segacc.errors import OptionError, count_of
from segacc.hookspecs import DataSplits
from segacc.model import SegmentationModel
from segacc.settings.config import DEFAULT_CROP, TrainConfig
from segacc.settings.machine import whole_memory
from segacc.settings.sources import Settings
from segacc.settings.units import bytes_text, steps_of, steps_of_epochs
from segacc.training.limits.launchers import accumulation_asked
from segacc.training.optim.optimizers import check_length, default_lr
from segacc.training.optim.schedule import OneCycle, parse_schedule
from segacc.training.processes import bf16_gain
from segacc.training.run import Run

DEFAULT_EPOCHS = 10.0
IMAGES = 8
"""Images per step and process of `--batch-size auto` without `--total-batch-size`."""
LR = {"loaded": (6e-5, 10.0), "random": (1e-3, 1.0)}
"""Learning rate and `head_lr_scale` for pretrained weights (SegFormer's recipe) and random ones."""
SOME = 10**6
"""Number of steps assumed to check a warm-up while the number of steps is not known."""
Crop = tuple[tuple[int, int], str]
"""(height, width) in pixels, and the reason for this choice."""
Choices = dict[str, tuple[Any, str]]
"""For each setting, a value and its reason."""


def choose_settings(
    settings: Settings,
    loaded: bool,
    crop: Crop,
    samples: int | None,
    processes: int,
) -> Settings:
    """Fill in the settings that were not given, each with a reason.

    Args:
        settings: the settings of the plan.
        loaded: whether pretrained encoder weights were loaded.
        crop: a size that fits the network.
        samples: number of training samples; None for a stream of unknown length.
        processes: number of processes.

    Raises:
        OptionError: the warm-up is too long, or a stream of unknown length needs max_steps, or
            cannot be evaluated once per epoch.
    """
    config = settings.config
    refuse_epochs(settings, samples)
    total = config.micro_batch_size * config.gradient_accumulation_steps * processes
    epochs = config.epochs or DEFAULT_EPOCHS
    if config.max_time is not None:
        return choose_shares(settings, loaded, crop)
    if config.max_steps is None and samples is None:
        raise OptionError(
            f"{settings.where('epochs')}: the number of samples in this stream is not known. Give "
            "--max-steps N, --max-time TIME, or num_samples=N as an option of the data set."
        )
    steps = config.max_steps or steps_of_epochs(epochs, samples or 0, total)
    period = max(1, -(-steps // 5))
    open_ends = {
        **of_the_network(settings, loaded, crop),
        "max_steps": (steps, f"{epochs:g} epochs of {samples} images, {total} per step"),
        "warmup_steps": warmup(settings, min(1500, steps // 20)),
        "eval_every": (period, "a fifth of the run"),
        "save_every": (config.eval_every or period, "same as eval_every"),
    }
    done = filled(settings, open_ends)
    done = done.chosen({"epochs": (None, "")}) if config.epochs else done
    check_length(done)
    check_warmup(done, steps, f"{steps}")
    return done


def split_batch(settings: Settings, processes: int) -> Settings:
    """Divide `total_batch_size` into micro-batches; for `auto` into one, until it is measured.

    Raises:
        OptionError: it is not a multiple of the images in a micro-batch of all processes.
    """
    config, auto = settings.config, settings.config.batch_size == "auto"
    total = config.total_batch_size or (IMAGES * processes if auto else 0)
    if not total:
        return settings
    together = processes * (1 if auto else config.micro_batch_size)
    if total % together:
        each = "" if auto else f" with {config.batch_size} images (--batch-size)"
        raise OptionError(
            f"{settings.where('total_batch_size')}: {total}: not a multiple of {together}, for "
            f"{count_of(processes, 'process', 'processes')}{each}."
        )
    steps = total // together
    if auto:
        return Settings(
            replace(config, batch_size=steps, gradient_accumulation_steps=1), settings.origins
        )
    reason = f"{total} images per step, {together} at once"
    return settings.chosen(
        {"gradient_accumulation_steps": (steps, reason), "total_batch_size": (None, "")}
    )


def refuse_accumulation_of_launcher(settings: Settings) -> None:
    """Refuse accumulation steps that were given to accelerate, as segacc does not take them there.

    Raises:
        OptionError: they are not those of this run, whose batch has been split.
    """
    asked, own = accumulation_asked(), settings.config.gradient_accumulation_steps
    if asked not in (None, own):
        raise OptionError(
            f"accelerate launch: gradient_accumulation_steps: {asked} (its flag, its configuration "
            f"file or ACCELERATE_GRADIENT_ACCUMULATION_STEPS): this run has {own}, as segacc has a "
            f"flag of its own. Leave that out, and add --gradient-accumulation-steps {asked} after "
            "`-m segacc`."
        )


def with_precision(settings: Settings) -> Settings:
    """Choose the precision of `--mixed-precision auto`, from the device alone."""
    if settings.config.mixed_precision != "auto":
        return settings
    gain = bf16_gain()
    reason = f"auto, {gain or 'bf16 is not known to be faster on this device'}"
    return settings.chosen({"mixed_precision": ("bf16" if gain else "no", reason)})


def agree_on_precision(accelerator: Accelerator, asked: Settings) -> None:
    """Refuse `--mixed-precision auto` on machines that would choose differently.

    Raises:
        OptionError: on all processes.
    """
    if asked.config.mixed_precision == "auto":
        found = sorted(set(gather_object([accelerator.mixed_precision])))
        if len(found) > 1:
            raise OptionError(
                f"{asked.where('mixed_precision')}: auto: the machines of this run would use "
                f"{' and '.join(found)}; give one of them."
            )


def faster_precision(accelerator: Accelerator, config: TrainConfig) -> list[str]:
    """Return a recommendation for a GPU that gains by bf16, if no precision was chosen.

    accelerate's launcher exports a precision in any case, so one chosen there is not known.
    """
    default = config.mixed_precision is None and accelerator.mixed_precision == "no"
    gain = bf16_gain() if default else ""
    return [f"bf16 is faster on this device ({gain}): --mixed-precision auto"] if gain else []


def faster_layout(run: Run) -> list[str]:
    """Return a recommendation for a GPU that convolves in 16 bits faster in channels-last.

    From torch's documentation (memory format), for networks whose weights are mostly those of
    convolutions over all channels.
    """
    layers = [one for one in run.network.modules() if isinstance(one, Conv2d) and one.groups == 1]
    convolved = sum(one.weight.numel() for one in layers)
    mostly = 2 * convolved > sum(one.numel() for one in run.network.parameters())
    if run.config.channels_last or not mostly or not bf16_gain():
        return []
    if run.accelerator.mixed_precision not in ("bf16", "fp16"):
        return []
    return ["convolutions are usually faster with --channels-last on this device"]


def refuse_epochs(settings: Settings, samples: int | None) -> None:
    """Refuse `epoch` as a period for a stream of unknown length.

    Raises:
        OptionError: `eval_every` or `save_every` is `epoch`, and `samples` is None.
    """
    for key in ("eval_every", "save_every"):
        if samples is None and getattr(settings.config, key) == "epoch":
            raise OptionError(
                f"{settings.where(key)}: epoch: the number of samples in this stream is not known. "
                "Give a number of steps, a fraction of the run such as 0.2, or num_samples=N as an "
                "option of the data set."
            )


def choose_shares(settings: Settings, loaded: bool, crop: Crop) -> Settings:
    """Fill in the settings that were not given, for a run with `max_time`."""
    open_ends = {
        **of_the_network(settings, loaded, crop),
        "warmup_steps": warmup(settings, 0.05),
        "eval_every": (0.2, "a fifth of the run"),
        "save_every": (settings.config.eval_every or 0.2, "same as eval_every"),
    }
    done = filled(settings, open_ends)
    check_warmup(done, SOME, "the run's")
    return done


def of_the_network(settings: Settings, loaded: bool, crop: Crop) -> Choices:
    """Choose the settings that depend on the network, its weights and the optimizer."""
    start = "loaded" if loaded else "random"
    lr = default_lr(settings.config.optimizer, start, LR[start][0])
    return {
        "crop_size": crop,
        "lr": (lr, f"weights are {start}"),
        "head_lr_scale": (LR[start][1], f"weights are {start}"),
    }


def default_crop(splits: DataSplits) -> Crop:
    """Return the crop size without `--crop-size`, before it is fitted to the network."""
    if splits.crop_size:
        return splits.crop_size, "the data set's default"
    return DEFAULT_CROP, "the default for data sets without their own"


def fitted_crop(splits: DataSplits, fitting: tuple[int, int]) -> Crop:
    """Return the crop size for which the network was built, with its reason."""
    (height, width), origin = default_crop(splits)
    if (height, width) == fitting:
        return fitting, origin
    return fitting, f"{origin} is {height}x{width}, which the architecture does not accept"


def warmup(settings: Settings, steps: float) -> tuple[float, str]:
    """Choose a warm-up of `steps`, or none if the schedule has its own."""
    own = isinstance(parse_schedule(settings.config.schedule, ""), OneCycle)
    return (0, "one_cycle has its own warm-up") if own else (steps, "a twentieth of the run")


def filled(settings: Settings, open_ends: Choices) -> Settings:
    """Fill in the settings that are None."""
    config = settings.config
    return settings.chosen({k: v for k, v in open_ends.items() if getattr(config, k) is None})


def choose_score(settings: Settings, metrics: Mapping[str, MetricState]) -> Settings:
    """Choose the metrics' first score as `best_by` if they do not give the default score."""
    if "best_by" in settings.origins:
        return settings
    found = [
        (key, text)
        for text, metric in metrics.items()
        for key, value in metric.compute().items()
        if isinstance(value, float)
    ]
    if not found or settings.config.best_by in dict(found):
        return settings
    key, text = found[0]
    return settings.chosen({"best_by": (key, f"the first score of {text}")})


def check_warmup(settings: Settings, steps: int, told: str) -> None:
    """Refuse a warm-up as long as the run of `steps`, which errors print as `told`.

    Raises:
        OptionError: the warm-up is as long as the run, or longer.
    """
    config = settings.config
    first, second = config.warmup_steps or 0, config.encoder_warmup_steps
    if steps_of(first, steps) + steps_of(second, steps) >= steps:
        where = settings.where("encoder_warmup_steps" if second else "warmup_steps")
        both = f"{first:g} and {second:g}" if second else f"{first:g}"
        raise OptionError(
            f"{where}: a warm-up of {both} steps leaves none of {told} steps after it; give fewer."
        )


def check_memory(settings: Settings, facts: Facts) -> None:
    """Refuse a step whose images alone are more than the memory of this machine or its container.

    Raises:
        OptionError: the images of a step, as bytes, do not fit.
    """
    config, (height, width) = settings.config, facts.crop_size
    image, there = height * width * facts.num_channels, whole_memory()
    images = config.micro_batch_size * config.gradient_accumulation_steps
    if images * image <= there:
        return
    key = "gradient_accumulation_steps"
    if config.micro_batch_size * image > there:
        key = "crop_size" if image > there else "batch_size"
    raise OptionError(
        f"{settings.where(key)}: the {count_of(images, 'image')} of {height}x{width} pixels that "
        f"each process reads for a step take {bytes_text(images * image)}, more than the memory "
        f"that there is ({bytes_text(there)}). Give a smaller --crop-size, or fewer images a step "
        "with --batch-size and --gradient-accumulation-steps."
    )


def check_batch(network: SegmentationModel, settings: Settings, processes: int) -> None:
    """Refuse a batch size that is too small for the network's batch norm.

    Raises:
        OptionError: the batch size is too small.
    """
    least, given = network.min_batch_size, settings.config.micro_batch_size
    if given < least:
        several = ", or --sync-batchnorm" if processes > 1 else ""
        raise OptionError(
            f"{settings.where('batch_size')}: {given}: the architecture needs at least {least} "
            "images per process in training, or its batch norm has one value per channel. Use "
            f"--batch-size {least} or more, or --freeze-batchnorm{several}."
        )
