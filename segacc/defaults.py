"""What a run chooses where a setting was left open, and what no network could take."""

from segacc.errors import OptionError
from segacc.model import SegmentationModel
from segacc.settings import Settings

DEFAULT_EPOCHS = 10.0
DEFAULT_CROP = (512, 512)
LR = {"loaded": (6e-5, 10.0), "random": (1e-3, 1.0)}
"""Learning rate and head's factor: SegFormer's recipe, or what trains from nothing."""


def choose_settings(
    settings: Settings, loaded: bool, crop: tuple[int, int], samples: int | None, processes: int
) -> Settings:
    """Fill in what was left open, each with its reason.

    Args:
        settings: as they were typed.
        loaded: whether the encoder's weights are.
        crop: (height, width) that the network takes.
        samples: of the training split; None for a stream that nobody has counted.
        processes: that train.

    Raises:
        OptionError: the warm-up is too long, or a stream needs max_steps.
    """
    config = settings.config
    start = "loaded" if loaded else "random"
    total = config.batch_size * config.gradient_accumulation_steps * processes
    epochs = config.epochs or DEFAULT_EPOCHS
    if config.max_steps is None and samples is None:
        raise OptionError(
            f"{settings.where('epochs')}: nobody has counted the samples of this stream. Give "
            "--max-steps N, or num_samples=N to the data set."
        )
    steps = config.max_steps or max(1, round(epochs * (samples or 0) / total))
    period = max(1, -(-steps // 5))
    open_ends = {
        "crop_size": (crop, "the data set's"),
        "lr": (LR[start][0], f"weights are {start}"),
        "head_lr_scale": (LR[start][1], f"weights are {start}"),
        "max_steps": (steps, f"{epochs:g} epochs of {samples} images, {total} a step"),
        "warmup_steps": (min(1500, steps // 20), "a twentieth of the run"),
        "eval_every": (period, "a fifth of the run"),
        "save_every": (config.eval_every or period, "as eval_every"),
    }
    chosen = {key: value for key, value in open_ends.items() if getattr(config, key) is None}
    done = settings.chosen({**chosen, "epochs": (None, "")} if config.epochs else chosen)
    assert done.config.warmup_steps is not None
    if done.config.warmup_steps >= steps:
        raise OptionError(
            f"{settings.where('warmup_steps')}: {done.config.warmup_steps} of {steps} steps "
            "leave none to train."
        )
    return done


def check_crop(network: SegmentationModel, settings: Settings, crop: tuple[int, int]) -> None:
    """Refuse a crop that the network cannot take.

    Raises:
        OptionError: so.
    """
    if complaint := network.size_rule.complaint(crop):
        where = settings.where("crop_size")
        raise OptionError(f"{where}: {crop[0]}x{crop[1]}: the architecture {complaint}.")


def check_batch(network: SegmentationModel, settings: Settings, processes: int) -> None:
    """Refuse a batch that the network cannot train on.

    Raises:
        OptionError: so, with the cures.
    """
    least, given = network.min_batch_size, settings.config.batch_size
    if given < least:
        several = ", or --sync-batchnorm" if processes > 1 else ""
        raise OptionError(
            f"{settings.where('batch_size')}: the architecture needs at least {least} images per "
            "process in training (its batch norm would see one value per channel), got "
            f"{given}. Use --batch-size {least} or more, or --freeze-batchnorm{several}."
        )
