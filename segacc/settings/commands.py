"""The settings of the commands after training, declared once: flags and help are made from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import NonNegativeInt, PositiveInt

from segacc.contracts import MAX_BYTES, MAX_PIXELS
from segacc.settings.config import Fraction, Named, NonNegativeFloat, Seed, TrainConfig
from segacc.settings.options import Size

Shapes = Literal["mixed", "polygons", "masks"]
TOLERANCE = 0.4
"""Default of `tolerance`, that of `segacc.labels.annotations`."""
LOCAL_FILES = "/data/local-files/?d="
"""Beginning of the URLs of Label Studio's local files."""


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
    runtime: Literal["auto", "torch", "onnxruntime", "openvino"] = "auto"
    """What runs the model: for a file of `segacc export`, by default ONNX Runtime (.onnx),
    OpenVINO (.xml) or torch (.pt2); torch for a folder."""
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
    runtime: Literal["auto", "torch", "onnxruntime", "openvino"] = "auto"
    """What runs the model: for a file of `segacc export`, by default ONNX Runtime (.onnx),
    OpenVINO (.xml) or torch (.pt2); torch for a folder."""
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

    # Pre-annotations
    format: Literal["coco", "yolo", "labelme", "labelstudio"] | None = None
    """Also write the predictions as annotations that tools open for correction: coco.json, the
    folder yolo/, a JSON of labelme for each image, or labelstudio.json (with labelstudio.xml)."""
    shapes: Shapes = "mixed"
    """With --format: see `segacc convert --help`."""
    tolerance: NonNegativeFloat = TOLERANCE
    """With --format: distance in pixels by which a polygon may deviate; 0 for exact outlines."""
    image_url: str = LOCAL_FILES
    """With --format labelstudio: what precedes FOLDER/NAME of an image in its URL."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The settings of `segacc report`."""

    output: Path = Path("report.html")
    """The HTML file to write; only a report may be replaced."""
    num_images: NonNegativeInt = 12
    """Maximum number of images of each run in the report: the worst ones of its evaluation, or
    else the examples of the last validation."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The settings of `segacc demo`."""

    port: Annotated[int, Ge(1), Le(65535)] = 7860
    """Port of the page on this machine."""
    open: bool = True
    """Open the page in a browser."""


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """The settings of `segacc push`."""

    private: bool = False
    """Create the repository as a private one; one that exists must be private."""
    dry_run: bool = False
    """Only print what would be uploaded and created; needs neither a login nor a network."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The settings of `segacc export`."""

    # File
    format: Literal["onnx", "openvino", "pt2"] = "onnx"
    """Format: ONNX (.onnx), OpenVINO (.xml and .bin), or a program of torch.export (.pt2)."""
    size: Literal["dynamic"] | Size | None = None
    """Size of the images: `dynamic` for images of any size that the network accepts, or one size
    as HEIGHTxWIDTH. Default: dynamic if the network allows it, else the size of its training
    crops."""
    half: bool = False
    """Store weights as float16; in ONNX and pt2 files the network also computes in float16."""
    int8: Path | None = None
    """Quantize to 8-bit integers, calibrated with these images: a file, a folder or a pattern."""
    argmax: bool = False
    """The file resizes, pads and segments whole images and returns the class of each pixel, in
    place of logits."""
    input: Literal["uint8", "float32"] | None = None
    """Type of the pixels, which are 0..255 in both. Images are padded with the mean colour: exactly
    in float32, rounded in uint8. Default: float32 if the protocol has `pad` and the file returns
    logits, else uint8."""
    protocol: str | None = None
    """Protocol stored in the file; default: that of the model, with sliding windows if the file
    takes images of one size."""
    output: Path | None = None
    """The file; default: named after the model folder, beside it."""

    # Proof
    images: tuple[str, ...] = ()
    """Real images on which the file must predict what the model predicts: a file, a folder or a
    pattern; repeat the flag for several. Default: images of the data set."""
    num_images: PositiveInt = 20
    """Number of images of the proof, evenly spaced."""
    dataset: Named | None = None
    """Data set of the proof; default: that of the model's run, with its split."""
    split: str = "validation"
    """Split of the data set."""
    val_fraction: Fraction | None = None
    """Held-out fraction of train_split, as selected by a training run with this setting."""
    train_split: str = "train"
    """Training split of that run; only used with val_fraction."""
    seed: Seed = 0
    """Random seed of that run; only used with val_fraction."""

    @property
    def precision(self) -> str:
        """The precision of the file: `float32`, `half` or `int8`."""
        return "half" if self.half else "int8" if self.int8 else "float32"


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """The settings of `segacc benchmark`."""

    images: tuple[str, ...] = ()
    """Images to segment: a file, a folder or a pattern; repeat the flag for several. Default:
    images of the data set."""
    num_images: PositiveInt = 20
    """Number of images, evenly spaced."""
    rounds: PositiveInt = 5
    """Times that each image is segmented by each model, in turns."""
    protocol: str | None = None
    """Protocol of all models; default: that of each."""
    threads: PositiveInt | None = None
    """Threads of every runtime; default: all cores."""
    json: bool = False
    """Print all measurements as one JSON object, and nothing else."""
    dataset: Named | None = None
    """Data set; default: that of the first model's run, with its split."""
    split: str = "validation"
    """Split of the data set."""
    val_fraction: Fraction | None = None
    """Held-out fraction of train_split, as selected by a training run with this setting."""
    train_split: str = "train"
    """Training split of that run; only used with val_fraction."""
    seed: Seed = 0
    """Random seed of that run; only used with val_fraction."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """The settings of `segacc convert`."""

    format: Literal["folder", "coco", "yolo", "labelme", "cvat", "labelstudio"] = "folder"
    """Format of the files: `folder` has a PNG of class indices for each image, and classes.json;
    the others are those of annotation tools, with an outline for each connected region of a
    class."""
    split: tuple[str, ...] = ()
    """Split to convert, or a slice such as `train[:50]`; repeat the flag for several. Default:
    all."""
    images: Literal["copy", "link"] = "copy"
    """Copy the image files, or make hard links to them, which need no space but are changed with
    the originals."""
    shapes: Shapes = "mixed"
    """Form of the regions: `mixed` (a polygon, or a mask if it has holes), `polygons` (holes are
    joined to the outline by a cut; always so for yolo), or `masks` (exact pixels)."""
    tolerance: NonNegativeFloat = TOLERANCE
    """Distance in pixels by which a polygon may deviate from the outline; each keeps at least 99 %
    IoU with its region. 0 for exact outlines along the pixels."""
    image_url: str = LOCAL_FILES
    """With labelstudio: what precedes images/SPLIT/NAME in the URL of an image. The default is for
    local files with TARGET as the document root."""


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
