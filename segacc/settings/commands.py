"""The settings of the commands after training, declared once: flags and help are made from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import NonNegativeInt, PositiveInt

from segacc.contracts import MAX_BYTES, MAX_PIXELS
from segacc.settings.config import Fraction, Named, Seed, TrainConfig
from segacc.settings.options import Size


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The settings of `segacc evaluate`."""

    dataset: Named
    """Data set: the path of a folder, or e.g. `folder:root=data/camvid`; its classes must match the
    model's. Default: that of the model's run, with its split."""
    split: str = "validation"
    """Split to evaluate."""
    val_fraction: Fraction | None = None
    """Evaluate the held-out fraction of train_split, as selected by a training run with this
    setting."""
    train_split: str = "train"
    """Training split of that run; only used with val_fraction."""
    seed: Seed = 0
    """Random seed of that run; only used with val_fraction."""
    protocol: str | None = None
    """Evaluation protocol, e.g. `whole:short_side=512,pad=14` (resize, then pad to multiples of
    14), `slide:crop=512,stride=341` (sliding window), `tta:scales=0.5/1/1.5` (test-time
    augmentation: mean over 3 scales with and without flip) or `mmseg-ade20k` (as published);
    default: the protocol stored in the model's folder."""
    threshold: Fraction | None = None
    """Probability above which a pixel is of the second class, for models with two classes; default:
    that of the protocol, which is 0.5 unless it names one."""
    metric: tuple[Named, ...] = ("mean_iou",)
    """Metric; repeat the flag for several."""
    eval_batch_size: PositiveInt | None = None
    """Images of one size per batch, per process; reduced for large images. Default 1 on a CPU and
    for streamed splits, else 8."""
    num_workers: NonNegativeInt = 2
    """Data loader workers per process."""
    skip_unreadable: NonNegativeInt = 0
    """Number of samples to skip before the evaluation stops, whose files cannot be read or do not
    fit together."""
    mixed_precision: Literal["no", "bf16", "fp16", "fp8"] | None = None
    """Mixed precision; default: as configured in `accelerate launch` or `accelerate config`."""
    verify: PositiveInt | None = None
    """Number of images to score again with a reference implementation in numpy; exits with 1 if the
    scores differ."""
    output_dir: Path | None = None
    """Folder for evaluation.json, per_image.parquet and pictures/; default: evaluation/ in the
    model's folder, or evaluation/NAME for a model of the Hub."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The settings of `segacc compare`."""

    resamples: Annotated[int, Ge(100)] = 1000
    """Number of bootstrap resamples of the images."""
    seed: Seed = 0
    """Random seed of the resampling."""
    output_dir: Path = Path("comparison")
    """Folder for compare.png and compare.json."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """The settings of `segacc predict`."""

    output_dir: Path = Path("predictions")
    """Folder for NAME.png (raw label ids, with the classes' colours as its palette) and
    NAME_overlay.png."""
    recursive: bool = False
    """Also process subfolders (-r); their predictions are written to subfolders of the same
    names."""
    protocol: str | None = None
    """Inference protocol, e.g. `whole:short_side=512,pad=14` (resize, then pad to multiples of 14),
    `slide:crop=512,stride=341` (sliding window), `tta:scales=0.5/1/1.5` (test-time augmentation:
    mean over 3 scales with and without flip) or `mmseg-ade20k` (as published); default: the
    protocol stored in the model's folder."""
    threshold: Fraction | None = None
    """Probability above which a pixel is of the second class, for models with two classes; default:
    that of the protocol, which is 0.5 unless it names one."""
    overlay: bool = True
    """Also write overlays with a legend."""
    save_probabilities: Literal["uint8", "float16"] | None = None
    """Also write NAME_probabilities.npz with the arrays `probabilities` (classes, height, width)
    and `classes` (names); as uint8, they are multiplied by 255. The network runs twice."""
    max_pixels: PositiveInt = MAX_PIXELS
    """Maximum number of pixels of an image; larger ones are refused before they are decoded."""
    max_bytes: PositiveInt = MAX_BYTES
    """Maximum size of an image file in bytes; larger ones are refused before they are read."""
    areas: bool = False
    """Also write areas.csv: image, class, pixels and share of each class predicted in an image."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """The settings of `segacc check-data`."""

    # Input
    dataset: Named
    """Data set: the path of a folder, or e.g. `folder:root=data/camvid`."""
    train_split: str = "train"
    """Training split."""
    eval_split: str = "validation"
    """Validation split; all other splits are read too."""
    val_fraction: Fraction | None = None
    """Fraction of the training split to hold out for validation if the data set has no validation
    split."""
    seed: Seed = 0
    """Random seed of val_fraction and show_augmented."""
    num_channels: PositiveInt = 3
    """Number of image channels: 1 grey, 3 RGB, 4 as stored in the files."""
    sample: PositiveInt | None = None
    """Read only this many samples of each split, evenly spaced (the first ones of a streamed
    split)."""
    num_workers: NonNegativeInt = 2
    """Worker processes; 0 reads in the main process."""

    # Output
    show_augmented: bool = False
    """Also write augmented.png: some samples after augmentation."""
    aug: tuple[Named, ...] = TrainConfig.aug
    """Augmentation for show_augmented; repeat the flag for several, applied in this order. `none`
    for none."""
    augment: Literal["light", "standard", "strong"] | None = None
    """Predefined augmentation pipeline, in place of --aug."""
    crop_size: Size | None = None
    """Size of the training crop in pixels, as one number or HEIGHTxWIDTH; default: the data set's,
    or 512."""
    json: bool = False
    """Print all findings as one JSON object, and nothing else."""
    write_classes: bool = False
    """If the folder given with --dataset has no class list, write one that fits its labels into
    it."""
    output_dir: Path = Path("data-check")
    """Folder for data_check.png."""
