"""The settings of training, declared once: flags, YAML keys and help are made from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan, NonNegativeInt, PositiveInt

from segacc.settings.options import Size
from segacc.settings.units import Every, Mean, Std, Steps, Time

PositiveFloat = Annotated[float, Gt(0), AllowInfNan(False)]
Fraction = Annotated[float, Gt(0), Lt(1)]
NonNegativeFloat = Annotated[float, Ge(0), AllowInfNan(False)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
"""The range that numpy accepts."""
Named = str | dict[str, Any]
"""A component: `name:key=value,...`, or in YAML a mapping with the key `name`."""
DEFAULT_CROP = (512, 512)
"""(height, width) of the training crop if neither the user nor the data set gives one."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a training run."""

    # Model and data
    arch: Named = "segformer"
    """Architecture, e.g. `segformer:variant=b2`."""
    weights: str = "auto"
    """Initial weights: `auto` (the architecture's published weights), `none` (random), a model
    folder, a run folder (its best/), a checkpoint, a Hub id, or with `--arch` a file of weights
    (.pth, .pt, .ckpt, .safetensors), such as one of mmsegmentation."""
    head: Literal["keep", "fresh"] = "keep"
    """`keep` reuses classifier weights of classes with the same name; `fresh` re-initializes the
    head."""
    dataset: Named = "nuclei"
    """Data set: the path of a folder, or e.g. `folder:root=data/camvid`."""
    train_split: str = "train"
    """Training split."""
    eval_split: str = "validation"
    """Split that is evaluated during training."""
    val_fraction: Fraction | None = None
    """Fraction of the training split to hold out for validation if the data set has no validation
    split."""
    aug: tuple[Named, ...] = ("random_scale_crop", "flip", "color_jitter")
    """Augmentation; repeat the flag for several, applied in this order. `none` turns it off."""
    augment: Literal["light", "standard", "strong"] | None = None
    """Predefined augmentation pipeline, in place of --aug."""
    class_weights: str | None = None
    """Class weights of the losses: `inverse`, `enet` or `effective`, computed from the class
    frequencies, or a file."""
    rare_class_sampling: PositiveFloat | None = None
    """Temperature of rare class sampling (DAFormer), e.g. 0.01: draws images with rare classes more
    often; smaller is stronger."""
    loss: tuple[Named, ...] = ("cross_entropy",)
    """Loss term; repeat the flag for several."""
    metric: tuple[Named, ...] = ("mean_iou",)
    """Metric; repeat the flag for several."""

    # Training length
    epochs: PositiveFloat | None = None
    """Passes over the training split; default 10 if neither max_steps nor max_time is given."""
    max_steps: PositiveInt | None = None
    """Number of optimizer steps, in place of epochs."""
    max_time: Time | None = None
    """Time limit in place of epochs, e.g. `45m`, `90s` or `1h30m`, counted from the start of the
    process. The number of steps, and with it the schedule, is adjusted to the measured speed."""
    early_stop: Named | None = None
    """Early stopping on a score, e.g. `mean_iou:patience=5`: stop after 5 evaluations without an
    improvement of at least `min_delta` (as in `min_delta=0.001`); `none` turns it off."""

    # Batch and data loading
    batch_size: PositiveInt | Literal["auto"] = 8
    """Images per process per micro-batch; `auto`: the most that fit into the memory of the device,
    as a divisor of total_batch_size per process. A resumed run keeps the number."""
    gradient_accumulation_steps: PositiveInt = 1
    """Micro-batches per optimizer step."""
    total_batch_size: PositiveInt | None = None
    """Images per optimizer step over all processes, in place of gradient_accumulation_steps;
    default with `batch_size: auto`: 8 per process."""
    crop_size: Size | None = None
    """Size of the training crop in pixels, as one number or HEIGHTxWIDTH; default: the data set's,
    or 512."""
    num_channels: PositiveInt = 3
    """Number of image channels: 1 grey, 3 RGB, 4 RGB with alpha or another fourth channel; any
    other number reads TIFF files with as many bands (requires the extra `tiff`)."""
    image_mean: Mean | None = None
    """Mean to subtract from each channel of the images in 0..1, e.g. `0.485/0.456/0.406`; default:
    that of the weights or the architecture. `segacc check-data` prints that of a data set."""
    image_std: Std | None = None
    """Standard deviation by which each channel is then divided, e.g. `0.229/0.224/0.225`."""
    num_workers: NonNegativeInt = 2
    """Data loader workers per process; 0 loads in the training process itself."""
    cache: str | None = None
    """Cache decoded samples: `ram`, or a folder that later runs can reuse."""
    skip_unreadable: NonNegativeInt = 0
    """Number of samples of each split to skip before the run stops, whose files cannot be read or
    do not fit together: missing, damaged, of another size, or with other label values."""

    # Optimization
    optimizer: Named = "adamw"
    """Optimizer, e.g. `sgd:momentum=0.9,nesterov=true`: adamw, adam, adamax, nadam, radam, sgd,
    rmsprop, adagrad, adadelta, adafactor; from timm: lion, lamb, lars, adan, adopt, muon, and any
    other name that timm's factory knows."""
    lr: PositiveFloat | None = None
    """Peak learning rate of the encoder; default for adamw: 6e-5 with pretrained weights, else
    1e-3."""
    head_lr_scale: PositiveFloat | None = None
    """Factor on the head's learning rate; default 10 with pretrained weights, 1 with random
    ones."""
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """Layer-wise learning rate decay of the encoder: factor from each layer to the one before it,
    e.g. 0.9."""
    layer_decay_rule: Literal["beit", "eomt"] = "beit"
    """Exponent of layer_decay in block k of the encoder's n, counted from 1, and in its embeddings:
    n + 1 - k and n + 1 as in BEiT, or n - k and n - 1 as in EoMT."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay; not applied to norms, biases and embeddings."""
    warmup_steps: Steps | None = None
    """Steps of linear warm-up, or a fraction of the run; default a twentieth, at most 1500
    steps."""
    warmup_start: Annotated[float, Ge(0), Le(1)] | None = None
    """Learning rate of the first warm-up step as a share of the peak, e.g. 1e-6 as in
    mmsegmentation; default 1 / (warmup_steps + 1)."""
    encoder_warmup_steps: Steps = 0
    """Two-stage warm-up as in EoMT: the encoder is frozen during warmup_steps, then warmed up over
    this many steps."""
    schedule: Named = "poly"
    """Learning rate schedule after the warm-up: `poly:power=0.9`, `cosine:floor=0.01`, `linear`,
    `constant`, `step:milestones=0.6/0.8`, `wsd:decay=0.2`, `plateau:patience=3`; or `one_cycle`,
    which includes its own warm-up."""
    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    """Decay of an exponential moving average (EMA) of the weights, e.g. 0.9998. Both sets of
    weights are evaluated; best/ and last/ hold the average."""
    tolerate_nonfinite: NonNegativeInt = 0
    """Number of steps with a non-finite loss or gradient to skip before the run stops."""
    max_grad_norm: PositiveFloat = 1.0
    """Maximum global norm for gradient clipping."""
    freeze: tuple[str, ...] = ()
    """Parameters to freeze: `encoder`, `norm`, or name patterns such as `segformer.stages.[01]`,
    where * matches anything; repeat the flag for several."""
    unfreeze_after: PositiveInt | None = None
    """Step after which the parameters frozen by --freeze are trained too."""
    lora: Named | None = None
    """Train low-rank adapters (LoRA) in place of the encoder's weights, e.g. `r=16` or
    `r=16,alpha=32,dropout=0.05,targets=q_proj/v_proj,lr_scale=10` (alpha is 2 r by default, the
    targets all linear layers of the encoder); `none` turns it off. Requires the extra `lora`."""
    freeze_batchnorm: bool = False
    """Keep the batch norm statistics of the initial weights, so that results do not depend on how a
    batch is split."""
    sync_batchnorm: bool = False
    """Synchronize batch norm statistics over all processes (GPUs only)."""
    gradient_checkpointing: bool = False
    """Trade compute for memory, if the network supports it."""
    channels_last: bool = False
    """Memory format channels_last (N, H, W, C): faster for most convolutional networks."""
    compile: bool = False
    """Compile the network with torch.compile, for the training crop and the most frequent image
    sizes of evaluation; the first step then takes minutes."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16", "fp8"] | None = None
    """Mixed precision; `auto`: bf16 on GPUs with CUDA capability 8.0 or more, else no; default: as
    configured in `accelerate launch` or `accelerate config`."""
    seed: Seed = 0
    """Random seed of weights, sample order and augmentations."""

    # Evaluation, checkpoints and logging
    protocol: str | None = None
    """Evaluation protocol, e.g. `whole:short_side=540`, `slide:crop=512`, `tta:scales=0.5/1/1.5` or
    `mmseg-ade20k`; default: whole images, padded or in sliding windows if the network requires
    it."""
    eval_batch_size: PositiveInt | None = None
    """Images of one size per evaluation batch, per process; reduced for large images. Default 1 on
    a CPU and for streamed splits, else 8."""
    eval_every: Every | None = None
    """Steps between evaluations, a fraction of the run, or `epoch`: after each pass over the
    training split; default a fifth of the run."""
    save_every: Every | None = None
    """Steps between checkpoints, a fraction of the run, or `epoch`; default: same as eval_every."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """If a checkpoint or a model cannot be written, as on a full disk: stop, or warn and go on to
    the next one; the run still fails if its end cannot be saved."""
    log_every: PositiveInt = 10
    """Steps between two lines of metrics.jsonl; the first and the last step are logged as well."""
    best_by: str = "mean_iou"
    """Score that selects the best checkpoint (`best/`), e.g. `per_category_iou/nucleus` or
    `val_loss`; default mean_iou, or the first score if no metric computes it."""
    keep: PositiveInt = 3
    """Number of newest checkpoints to keep."""
    num_pictures: NonNegativeInt = 4
    """Number of validation images to draw in pictures/step-N.png."""
    trackers: tuple[str, ...] = ()
    """Experiment tracker: tensorboard, trackio, wandb, mlflow, aim, clearml, comet_ml, dvclive or
    swanlab; repeat the flag for several."""

    # Run folder and processes
    output_dir: Path | None = None
    """Run folder; default runs/ARCH-DATASET, with the suffix -2, -3, ... if it exists."""
    resume: str | None = None
    """Resume from a checkpoint: a folder, or `auto` for the newest one in output_dir. If none was
    saved there yet, `auto` starts the run, so the same command can be repeated until it is done."""
    resume_anyway: bool = False
    """Resume although the data, the classes or the architecture are not those of the checkpoint:
    its weights then go on to be trained with other samples or under other class names."""
    push_to_hub: str | None = None
    """Hub repository, USER/NAME or NAME, to which each new best/ is uploaded in the background;
    without a value, it is named after the run folder; `none` turns it off. Requires
    `hf auth login`."""
    overwrite: bool = False
    """Delete what an earlier run wrote to output_dir; other files there are kept."""
    process_timeout: Time = "10m"
    """Longest time that one of several processes waits for another, which may hang, before the run
    ends with an error."""

    @property
    def micro_batch_size(self) -> int:
        """`batch_size`, of which `auto` is replaced by a number when a run is built."""
        assert isinstance(self.batch_size, int)
        return self.batch_size
