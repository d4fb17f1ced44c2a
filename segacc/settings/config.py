"""TrainConfig: every setting of a run, declared once; flags, YAML keys and help come from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan, NonNegativeInt, PositiveInt

from segacc.settings.options import Size
from segacc.settings.units import Period, Steps, Time

PositiveFloat = Annotated[float, Gt(0), AllowInfNan(False)]
Fraction = Annotated[float, Gt(0), Lt(1)]
NonNegativeFloat = Annotated[float, Ge(0), AllowInfNan(False)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
"""What numpy takes, too."""
Named = str | dict[str, Any]
"""A component: `name:key=value,...`, or in YAML a mapping with `name`."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every setting of a training run."""

    # What is trained
    arch: Named = "segformer"
    """Architecture, as in `segformer:variant=b2`."""
    weights: str = "auto"
    """`auto` (the architecture's published weights), `none` (random), a folder, or a Hub id."""
    head: Literal["keep", "fresh"] = "keep"
    """`keep` takes over the rows of classes that the weights' head names alike; `fresh` none."""
    dataset: Named = "nuclei"
    """Data set, as in `folder:root=data/camvid`."""
    train_split: str = "train"
    """Split that is trained on."""
    eval_split: str = "validation"
    """Split that is scored while training."""
    val_fraction: Fraction | None = None
    """Share of the training split that is scored instead, where there is no such split."""
    aug: tuple[Named, ...] = ("random_scale_crop", "flip", "color_jitter")
    """Augmentation; give the flag once for each, in order. `none` for none."""
    augment: Literal["light", "standard", "strong"] | None = None
    """A ready row of augmentations in place of --aug."""
    class_weights: str | None = None
    """Of the losses: `inverse`, `enet` or `effective`, by how often a class occurs, or a file."""
    rare_class_sampling: PositiveFloat | None = None
    """Draw images with rare classes more often (DAFormer); the temperature, as in 0.01: smaller
    is stronger."""
    loss: tuple[Named, ...] = ("cross_entropy",)
    """Loss term; give the flag once for each."""
    metric: tuple[Named, ...] = ("mean_iou",)
    """Metric; give the flag once for each."""

    # How long
    epochs: PositiveFloat | None = None
    """Passes over the training split; 10 when neither this nor max_steps is given."""
    max_steps: PositiveInt | None = None
    """Optimizer steps, instead of epochs."""
    max_time: Time | None = None
    """As in `45m`, `90s` or `1h30m`, instead of epochs: steps are fitted to the measured speed, the
    schedule too, so that the run ends in time, from the start of the process on."""
    early_stop: Named | None = None
    """Stop when a score is not better for some evaluations, as in `mean_iou:patience=5`, with
    `min_delta=0.001` for what counts as better; `none` for never."""

    # The batch
    batch_size: PositiveInt = 8
    """Images per process per micro-batch."""
    gradient_accumulation_steps: PositiveInt = 1
    """Micro-batches per optimizer step."""
    crop_size: Size | None = None
    """What training sees in pixels: a number or HEIGHTxWIDTH; default: the data set's or 512."""
    num_channels: PositiveInt = 3
    """Channels of the images: 1 grey, 3 RGB, 4 RGB and alpha or another fourth; any other number:
    TIFF of as many bands, through the extra `tiff`."""
    num_workers: NonNegativeInt = 2
    """Data loader workers per process; 0 loads in the process itself."""
    cache: str | None = None
    """Keep decoded samples: `ram`, or a folder that later runs use again."""
    skip_unreadable: NonNegativeInt = 0
    """Unreadable files that are passed over and counted before the run stops."""

    # Optimization
    optimizer: Named = "adamw"
    """Optimizer, as in `sgd:momentum=0.9,nesterov=true`: adamw, adam, adamax, nadam, radam, sgd,
    rmsprop, adagrad, adadelta, adafactor; of timm lion, lamb, lars, adan, adopt, muon and any other
    that its factory knows."""
    lr: PositiveFloat | None = None
    """Peak learning rate of the encoder; default of adamw 6e-5 with loaded weights, else 1e-3."""
    head_lr_scale: PositiveFloat | None = None
    """Factor on the head's learning rate; default 10 with loaded weights, 1 from random ones."""
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """Factor on the learning rate from each layer of the encoder to the one before, as in 0.9."""
    weight_decay: NonNegativeFloat = 0.01
    """The optimizer's decay; norms, biases and embeddings have none."""
    warmup_steps: Steps | None = None
    """Steps of linear warm-up, or a fraction of the run; default a twentieth, at most 1500."""
    encoder_warmup_steps: Steps = 0
    """As EoMT: the encoder stays as it is in warmup_steps, and then has a warm-up of so many."""
    schedule: Named = "poly"
    """What follows the warm-up: `poly:power=0.9`, `cosine:floor=0.01`, `linear`, `constant`; or
    `one_cycle`, which has its own warm-up."""
    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    """Decay of an exponential moving average of the weights, as 0.9998: it is scored beside them,
    and best/ and last/ hold it."""
    tolerate_nonfinite: NonNegativeInt = 0
    """Steps whose loss or gradient is not finite that are skipped before the run stops."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this global norm."""
    freeze: tuple[str, ...] = ()
    """What does not learn: `encoder`, `norm`, or parameters by name as in `segformer.stages.[01]`,
    where * stands for anything; give the flag once for each."""
    unfreeze_after: PositiveInt | None = None
    """Steps after which all that --freeze names learns, too."""
    freeze_batchnorm: bool = False
    """Keep batch norm as loaded, so that results do not depend on how a batch is cut."""
    sync_batchnorm: bool = False
    """Let batch norm see the batches of all processes (on GPUs)."""
    gradient_checkpointing: bool = False
    """Less memory for more compute, where the network offers it."""
    channels_last: bool = False
    """Keep convolution weights in the order N, H, W, C: faster for most convolutional networks."""
    mixed_precision: Literal["no", "bf16", "fp16", "fp8"] | None = None
    """Default: what `accelerate launch` or its configuration says."""
    seed: Seed = 0
    """Of weights, order and augmentations."""

    # Scoring, saving, seeing
    protocol: str | None = None
    """How images are scored, as in `whole:short_side=540`, `slide:crop=512`, `tta:scales=0.5/1/1.5`
    or `mmseg-ade20k`; default: whole, padded or in windows where the network needs it."""
    eval_batch_size: PositiveInt | None = None
    """Images of one size that are scored together, per process; fewer where they are large.
    Default 1 on a CPU and of a stream, else 8."""
    eval_every: Period | None = None
    """Steps between evaluations, or a fraction of the run; default a fifth."""
    save_every: Period | None = None
    """Steps between checkpoints; default as eval_every."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    best_by: str = "mean_iou"
    """Score that decides what `best/` holds, as in `per_category_iou/nucleus`; where the metrics do
    not give mean_iou, their first is the default."""
    keep: PositiveInt = 3
    """Checkpoints that are kept, the newest."""
    num_pictures: NonNegativeInt = 4
    """Validation images drawn in pictures/step-N.png."""
    trackers: tuple[str, ...] = ()
    """Accelerate's trackers, as in `tensorboard`; give the flag once for each."""

    # The run folder
    output_dir: Path | None = None
    """The run folder; default runs/ARCH-DATASET, with -2, -3, ... when that is taken."""
    resume: str | None = None
    """Go on from a checkpoint: a folder, or `auto` for the newest one in output_dir."""
    overwrite: bool = False
    """Delete what an earlier run wrote into output_dir; other files there stay."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Every setting of `segacc evaluate`."""

    dataset: Named
    """Data set, as in `folder:root=data/camvid`; its classes must be the network's."""
    split: str = "validation"
    """Split that is scored."""
    val_fraction: Fraction | None = None
    """Share of train_split that is scored, as a run with this setting carved it out."""
    train_split: str = "train"
    """Of that run; only val_fraction needs it."""
    seed: Seed = 0
    """Of that run; only val_fraction needs it."""
    protocol: str | None = None
    """How images are seen, as in `whole:short_side=512,pad=14` (resized, padded to multiples of
    14), `slide:crop=512,stride=341` (through windows), `tta:scales=0.5/1/1.5` (the mean of six
    looks) or `mmseg-ade20k` (as published); default what is stored in the folder."""
    metric: tuple[Named, ...] = ("mean_iou",)
    """Metric; give the flag once for each."""
    eval_batch_size: PositiveInt | None = None
    """Images of one size that are scored together, per process; fewer where they are large.
    Default 1 on a CPU and of a stream, else 8."""
    num_workers: NonNegativeInt = 2
    """Data loader workers per process."""
    skip_unreadable: NonNegativeInt = 0
    """Unreadable files that are passed over and counted."""
    mixed_precision: Literal["no", "bf16", "fp16", "fp8"] | None = None
    """Default: what `accelerate launch` or its configuration says."""
    verify: PositiveInt | None = None
    """Score so many images again, by a plain definition in numpy; exit 1 where that differs."""
    output_dir: Path | None = None
    """Where evaluation.json, per_image.parquet and pictures/ are written; default evaluation/ in
    the model's folder."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Every setting of `segacc compare`."""

    resamples: Annotated[int, Ge(100)] = 1000
    """Times that the images are drawn anew, with replacement."""
    seed: Seed = 0
    """Of these draws."""
    output_dir: Path = Path("comparison")
    """Where compare.png and compare.json are written."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Every setting of `segacc predict`."""

    output_dir: Path = Path("predictions")
    """Where NAME.png (raw label ids) and NAME_overlay.png are written."""
    recursive: bool = False
    """Take the pictures of folders inside a folder too (-r); their predictions go to folders of the
    same names."""
    protocol: str | None = None
    """How images are seen, as in `whole:short_side=512,pad=14` (resized, padded to multiples of
    14), `slide:crop=512,stride=341` (through windows), `tta:scales=0.5/1/1.5` (the mean of six
    looks) or `mmseg-ade20k` (as published); default what is stored in the folder."""
    overlay: bool = True
    """Write the overlays with a legend too."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Every setting of `segacc check-data`."""

    # What is read
    dataset: Named
    """Data set, as in `folder:root=data/camvid`."""
    train_split: str = "train"
    """Split that a run would train on."""
    eval_split: str = "validation"
    """Split that a run would score; all others are read too."""
    val_fraction: Fraction | None = None
    """Share of the training split that a run would score instead, where there is no such split."""
    seed: Seed = 0
    """Of that run: what val_fraction and show_augmented draw."""
    num_channels: PositiveInt = 3
    """Channels of the images that a run would read: 1 grey, 3 RGB, 4 as the files have them."""
    sample: PositiveInt | None = None
    """Read so many samples of each split only, evenly spread; of a stream the first ones."""
    num_workers: NonNegativeInt = 2
    """Processes that read; 0 reads in this one."""

    # What is shown
    show_augmented: bool = False
    """Write augmented.png too: some samples as training would see them."""
    aug: tuple[Named, ...] = TrainConfig.aug
    """Augmentation of show_augmented; give the flag once for each, in order. `none` for none."""
    augment: Literal["light", "standard", "strong"] | None = None
    """A ready row of augmentations in place of --aug."""
    crop_size: Size | None = None
    """What training would see in pixels: a number or HEIGHTxWIDTH; default: the data set's or 512.
    """
    json: bool = False
    """Print one JSON object with all that was found, and nothing else."""
    output_dir: Path = Path("data-check")
    """Where data_check.png is written."""
