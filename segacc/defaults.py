"""What a run chooses where a setting was left open, and what no network could take."""

from segacc.errors import OptionError
from segacc.model import LoadReport, SegmentationModel
from segacc.settings import Settings

DEFAULT_EPOCHS = 10.0
DEFAULT_CROP = (512, 512)
LR = {"loaded": (6e-5, 10.0), "random": (1e-3, 1.0)}
"""Learning rate and head's factor: SegFormer's recipe, or what trains from nothing."""


def choose_settings(
    settings: Settings, report: LoadReport, samples: int, crop: tuple[int, int], processes: int
) -> Settings:
    """Fill in what was left open, each with its reason."""
    config = settings.config
    start = "loaded" if report.loaded else "random"
    total = config.batch_size * config.gradient_accumulation_steps * processes
    epochs = config.epochs or DEFAULT_EPOCHS
    steps = config.max_steps or max(1, round(epochs * samples / total))
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


def check_fit(network: SegmentationModel, settings: Settings) -> None:
    """Refuse a crop or batch that the network cannot take.

    Raises:
        OptionError: so.
    """
    config = settings.config
    assert config.crop_size is not None
    if complaint := network.size_rule.complaint(config.crop_size):
        height, width = config.crop_size
        where = settings.where("crop_size")
        raise OptionError(f"{where}: {height}x{width}: the architecture {complaint}.")
    if config.batch_size < network.min_batch_size:
        raise OptionError(
            f"{settings.where('batch_size')}: the architecture needs at least "
            f"{network.min_batch_size} images per process in training (its batch norm would see "
            f"one value per channel), got {config.batch_size}."
        )
