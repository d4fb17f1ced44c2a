"""The plugin interface: five hooks, the records they return, and the facts of a run.

A plugin is a module with one or more of the five functions below, each marked
`@segacc.hookimpl`, and two lines in pyproject.toml:

    [project.entry-points.segacc]
    mynet = "segacc_mynet"

Importing a plugin module must be cheap: import torch and transformers inside `build`, not at the
top of the module.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pluggy
from annotated_types import Gt, Le
from pydantic import AllowInfNan

from segacc.contracts import USUAL, Drawn, Facts, LossTerm, Reading
from segacc.errors import DataError, Origin

if TYPE_CHECKING:
    from segacc.labels import LabelMap
    from segacc.model import SegmentationModel

hookspec = pluggy.HookspecMarker("segacc")
hookimpl = pluggy.HookimplMarker("segacc")


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Reading):
    """Options of every data set, unless it has one of the same name itself."""

    map: Path | dict[str, Any] | None = None
    """Edits of the label map: a YAML file or mapping, see docs/data.md."""

    @property
    def reading(self) -> Reading:
        """How the image files are interpreted."""
        return Reading(**{one.name: getattr(self, one.name) for one in fields(Reading)})


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a component that has none."""


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions:
    """Options of every augmentation, unless it has one of the same name itself."""

    until: Annotated[float, Gt(0), Le(1)] = 1.0
    """Fraction of the run's steps after which it ends, e.g. `until=0.9`."""


COMMON: Mapping[str, type[Any]] = {"dataset": DatasetOptions, "augmentation": AugmentationOptions}
"""Options of every component of a kind; segacc applies them."""
Weight = Annotated[float, Gt(0), AllowInfNan(False)]


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Options of every loss; a loss with more options inherits from it.

    segacc multiplies the loss by `weight`. A loss whose options do not inherit from this class
    applies a weight itself, if it has one.
    """

    weight: Weight = 1.0
    """Factor of this term in the sum of all losses."""


@dataclass(frozen=True)
class Sample:
    """One image and its label, not yet decoded."""

    image: bytes | Path
    """Encoded image (JPEG, PNG, TIFF, ...), or the path of an image file."""
    label: bytes | Path | Drawn
    """Encoded label image with raw label ids or with colours of the label map, its path, or an
    object that draws it."""
    id: str
    """Name used in errors and rendered pictures; unique in its split."""
    labels: "LabelMap | None" = None
    """Label map of this label if it differs from the data set's: it maps the raw ids to the data
    set's classes."""
    reading: Reading = USUAL
    """Set by segacc from the data set's options."""

    def __post_init__(self) -> None:
        """Reject decoded images.

        Raises:
            TypeError: image or label is neither bytes nor a path.
        """
        for name, value in (("image", self.image), ("label", self.label)):
            if not (isinstance(value, bytes) or hasattr(value, "read_bytes")):
                raise TypeError(
                    f"sample {self.id}: its {name} is of type {type(value).__name__}; expected the "
                    "bytes of an encoded image such as a PNG, or a pathlib.Path"
                )


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A split that is read sequentially, shard by shard, e.g. because it does not fit on a disk."""

    shards: tuple[str, ...]
    """The shards that are passed to `read`, in order."""
    read: Callable[[str, Any], Iterator[tuple[Sample, Any]]]
    """`read(shard, position)` yields the samples after `position` (None: from the start), each with
    the position after it, as plain JSON. It must be picklable because workers call it. An exception
    stops the run on all processes."""
    num_samples: int | None = None
    """Number of samples in all shards; None if unknown."""
    buffer: int = 1000
    """Size of the shuffle buffer in undecoded samples."""
    lost: Callable[[str], Sequence[str]] | None = None
    """`lost(shard)` lists, for a shard in a local file, the files inside it whose samples `read`
    skips or assigns to another sample. It must be fast and must not raise."""


@dataclass(frozen=True)
class DataSplits:
    """The return value of a data set's `build`: samples by split, and their common label map."""

    splits: Mapping[str, Sequence[Sample] | Stream]
    """Usually `train`, `validation`, `test`; any other name is allowed. A sequence that has to read
    images to create a sample also has `ids`, the ids of all its samples in order."""
    labels: "LabelMap"
    crop_size: tuple[int, int] | None = None
    """(height, width) in pixels of the training crop unless the user gives one."""
    chances: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Relative sampling weights of the training samples, by split; default: once per epoch each."""
    unusable: Mapping[str, DataError] = field(default_factory=dict)
    """Splits that cannot be read, such as a test split without labels, and the error: it is raised
    only if a setting names the split. `check-data` warns of the others."""
    notes: tuple[str, ...] = ()
    """What the user should know: a line each, printed before the run and by `check-data`."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Fields of every record."""

    name: str
    """Lower case, must match `[a-z0-9_]+`."""
    summary: str
    """One line for `segacc plugins`."""
    options: type[Any] = NoOptions
    """A frozen dataclass; the docstring under a field is its help text. Limits and choices belong
    to the type: `Annotated[int, Ge(1)]`, `Literal["mean", "max"]`. A `__post_init__` may raise
    ValueError for options that do not fit together. Default: no options."""


@dataclass(frozen=True, kw_only=True)
class Architecture(Record):
    """A named network architecture."""

    build: Callable[[Any, Facts], "SegmentationModel"]
    """`build(options, facts)` returns a network with random weights."""
    default_weights: Callable[[Any], str | None] = lambda options: None
    """`default_weights(options)` returns the Hub id of published weights, or None (default)."""
    tiny: Callable[[], Any] = NoOptions
    """Returns options of a network that trains in seconds, for tests; default: all defaults."""
    model_types: tuple[str, ...] = ()
    """Values of `model_type` in config.json that this architecture can load; its options must then
    have `config`, the folder of that config.json. `--weights FOLDER` selects the architecture by
    it."""
    variants: tuple[str, ...] = ("",)
    """Option texts that each get a row in docs/architectures.md."""
    weights_license: Callable[[Any], str] = lambda options: ""
    """`weights_license(options)` returns the licence of the default weights, as their model card
    or their authors state it; empty if unknown."""

    def __post_init__(self) -> None:
        """Set the default of `tiny`."""
        if self.tiny is NoOptions:
            object.__setattr__(self, "tiny", self.options)


@dataclass(frozen=True)
class Recognized:
    """How a folder that was given by its path alone is read."""

    name: str
    """The data set that reads it."""
    options: Mapping[str, Any]
    """Options of that data set."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Number of samples of each split, if the splits are known; 0 if it cannot be read, or was not
    counted."""


@dataclass(frozen=True, kw_only=True)
class Dataset(Record):
    """A named data set."""

    build: Callable[..., DataSplits]
    """`build(options)` returns samples and label map; it raises DataError if the data is missing.
    With `parts` it is `build(options, parts)`: a tuple of their DataSplits."""
    parts: Callable[[Any], tuple[Any, ...]] | None = None
    """`parts(options)` returns the data sets that this one is made of, as `name:key=value,...` or
    mappings. They are built first."""
    recognize: Callable[[str, Mapping[str, Any], str], Recognized | None] | None = None
    """`recognize(path, typed, where)` finds out how to read a folder given as
    `--dataset PATH:key=value,...`; `typed` are the options, and errors begin with `where`. It
    returns None for a folder that is not its own. Data sets of plugins are asked first."""


@dataclass(frozen=True, kw_only=True)
class Augmentation(Record):
    """A random transformation of image and label for training."""

    build: Callable[[Any, Facts], Callable[..., Any]]
    """`build(options, facts)` returns a callable `(image, label) -> (image, label)` on torchvision
    tv_tensors: Image (C, H, W) uint8 and Mask (H, W) uint8 with 255 ignored. It may use the
    generators of torch, numpy and `random`.

    With `partners` it gets a third argument: a function without arguments that returns another
    (image, label) of the training split after the preceding augmentations.

    With `on = "batch"` it returns a BatchChange."""
    on: Literal["worker", "device", "batch"] | Callable[[Any], str] = "worker"
    """Where it runs: in the data loader worker, on the training device image by image, or on the
    device on whole batches; or a function of the options that returns one of these."""
    partners: bool = False
    """True if it mixes several samples."""
    wants_shares: bool = False
    """True if it uses `facts.class_shares`."""
    deferrable: Literal["crop", "flip"] | None = None
    """`crop` or `flip` if the device can apply its geometry later, together with that of the batch:
    `build` then returns a DeferrableCrop or DeferrableFlip of `segacc.data.placement`."""


@dataclass(frozen=True, kw_only=True)
class Loss(Record):
    """A named term of the training loss."""

    build: Callable[[Any, Facts], LossTerm]
    """`build(options, facts)` returns a LossTerm."""
    options: type[Any] = LossOptions
    """A frozen dataclass that inherits from LossOptions, whose `weight` segacc applies."""
    class_weighted: bool = False
    """True if it uses `facts.class_weights`."""


@dataclass(frozen=True, kw_only=True)
class Metric(Record):
    """A named metric of predictions against labels."""

    build: Callable[[Any, Facts], Any]
    """`build(options, facts)` returns an empty MetricState."""
    wants_confidence: bool = False
    """True if `update` takes the confidence of each pixel as well."""
    wants_log_odds: bool = False
    """True if `update` takes the log-odds of each pixel as well; such a metric is for two
    classes."""
    from_confusion: bool = False
    """True if it implements `MetricSums.add`, which is then called in place of `update`."""
    writes: bool = False
    """True if it implements `MetricFiles.write`, which `segacc evaluate` calls."""
    lower_is_better: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
    """Names of scores for which lower is better, or a function of the options that returns them."""

    def lower(self, options: Any) -> tuple[str, ...]:
        """Return `lower_is_better` for these options."""
        names = self.lower_is_better
        return names(options) if callable(names) else names


@hookspec
def segacc_architectures() -> Iterable[Architecture]:  # type: ignore[empty-body]
    """Return this plugin's architectures."""


@hookspec
def segacc_datasets() -> Iterable[Dataset]:  # type: ignore[empty-body]
    """Return this plugin's data sets."""


@hookspec
def segacc_augmentations() -> Iterable[Augmentation]:  # type: ignore[empty-body]
    """Return this plugin's augmentations."""


@hookspec
def segacc_losses() -> Iterable[Loss]:  # type: ignore[empty-body]
    """Return this plugin's losses."""


@hookspec
def segacc_metrics() -> Iterable[Metric]:  # type: ignore[empty-body]
    """Return this plugin's metrics."""


HOLD_OUT = 0.2
"""Fraction of the training split that is held out if a folder given by its path has no other."""


@dataclass(frozen=True)
class Found:
    """A data set that was given by its path."""

    given: str
    """As the user wrote it."""
    values: Mapping[str, Any]
    """The name and the options that were found or given."""
    counts: Mapping[str, int]
    """See `Recognized`."""

    @property
    def val_fraction(self) -> float | None:
        """Return the fraction to hold out: HOLD_OUT if there is no validation split, else None."""
        return HOLD_OUT if self.counts and "validation" not in self.counts else None


@dataclass(frozen=True)
class Chosen:
    """A record and the options it will be built with."""

    record: Any
    options: Any
    text: str
    """Written as `name:key=value,...`, without secrets."""
    parts: "tuple[Chosen, ...]" = ()
    """The parts of a composed data set."""
    common: Any = DatasetOptions()
    """The options that every component of its kind has, see COMMON."""
    distribution: str = ""
    """The distribution that provides it; empty if unknown."""
    version: str = ""
    found: Found | None = None
    """What was found in the folder, if a data set was given by its path."""

    @property
    def note(self) -> str:
        """How folders given by their paths are read, also as parts; empty for other data sets."""
        if self.found is None:
            return "; ".join(filter(None, (one.note for one in self.parts)))
        known = self.found.counts.items()
        counts = ", ".join(f"{count} {split}" for split, count in known if count)
        return f"{self.found.given} is read as {self.text}{f' ({counts})' if counts else ''}"

    @property
    def name(self) -> str:
        """The record's name."""
        return str(self.record.name)

    @property
    def plugin(self) -> str:
        """Where it comes from, for messages: `plugin segacc-example 1.2.3`, or `segacc 0.1.0`."""
        known = f"{self.distribution} {self.version}".strip()
        if self.distribution == "segacc":
            return known
        return f"plugin {known}" if known else "its plugin"

    @property
    def origin(self) -> Origin:
        """Plugin, kind and name, for errors."""
        kind = f"{type(self.record).__name__.lower()} {self.name}"
        package = getattr(self.record.build, "__module__", "").partition(".")[0]
        return Origin(f"{self.plugin}, {kind}" if self.distribution else kind, package)

    def build(self, *given: Any) -> Any:
        """Build the component from its options and, for most kinds, the facts of the run.

        Raises:
            PluginError: `build` raised anything but a SegaccError.
        """
        with self.doing("build"):
            return self.record.build(self.options, *given)

    def build_network(self, facts: Facts) -> "SegmentationModel":
        """Build the network of an architecture, with random weights.

        Raises:
            PluginError: `build` failed, or returned something else.
        """
        from segacc.model import SegmentationModel

        network: SegmentationModel = self.build(facts)
        what = "a segacc.model.SegmentationModel, a torch module whose forward() returns Logits"
        self.origin.expect(network, SegmentationModel, what)
        network.origin = self.origin
        return network

    def doing(self, step: str) -> AbstractContextManager[None]:
        """Run a step of the component's code, see `Origin.doing`."""
        return self.origin.doing(step)

    @property
    def bits(self) -> int:
        """Number of bits used in 16-bit images; 16 if the parts differ."""
        found = {part.bits for part in self.parts}
        return found.pop() if self.common.bits == 16 and len(found) == 1 else int(self.common.bits)
