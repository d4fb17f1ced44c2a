"""All that a plugin author must read: five hooks, their records, and the facts of a run.

A plugin is a module with some of the five functions below, each marked `@segacc.hookimpl`, and two
lines of pyproject.toml:

    [project.entry-points.segacc]
    mynet = "segacc_mynet"

Importing a plugin module must be cheap: import torch and transformers inside `build`, not at the
top.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pluggy
from annotated_types import Ge, Le

from segacc.contracts import Facts, LossTerm

if TYPE_CHECKING:
    from segacc.labels import LabelMap
    from segacc.model import SegmentationModel

hookspec = pluggy.HookspecMarker("segacc")
hookimpl = pluggy.HookimplMarker("segacc")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the images of a data set are meant; options that every data set has."""

    exif: Literal["upright", "stored"] | None = None
    """Which way images lie whose EXIF turns them: `upright`, as they are shown, and labels too; or
    `stored`, as their labels. Default: upright, and an image whose label has its size only as it is
    stored is refused."""
    bits: Annotated[int, Ge(8), Le(16)] = 16
    """How many of the 16 bits of an image of 16 bits are used, as in `bits=12` for values 0..4095;
    images of 8 bits are read as they are."""


USUAL = Reading()


@dataclass(frozen=True)
class Sample:
    """One picture and its label, not yet decoded."""

    image: bytes | Path
    """An encoded picture (JPEG, PNG, TIFF, ...) or the path of one."""
    label: bytes | Path
    """An encoded picture of raw label ids, or of colours that the label map names; or its path."""
    id: str
    """A name that errors and pictures use; unique in its split."""
    labels: "LabelMap | None" = None
    """The map of this label, where it is not that of the whole data set: it sends the raw ids to
    the classes of the whole."""
    reading: Reading = USUAL
    """Set by segacc, from the data set's options."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A split that is read from front to back, shard by shard: for what does not fit a disk."""

    shards: tuple[str, ...]
    """What `read` opens, in order."""
    read: Callable[[str, Any], Iterator[tuple[Sample, Any]]]
    """A shard and a position in it (None: its start) to the samples behind that position, each with
    the position after it, which is plain JSON. It must be picklable: workers call it. What it
    raises stops the run, on all processes."""
    num_samples: int | None = None
    """Of all shards; None where nobody has counted them."""
    buffer: int = 1000
    """Undecoded samples that are shuffled among each other."""
    lost: Callable[[str], Sequence[str]] | None = None
    """A shard that is a file here to the files in it whose samples `read` passes over or takes for
    part of another, one for each; it is fast, and raises nothing."""


@dataclass(frozen=True)
class DataSplits:
    """What a data set's `build` returns: samples by split, and the one label map of them all."""

    splits: Mapping[str, Sequence[Sample] | Stream]
    """Usually `train`, `validation`, `test`; any other name is allowed. A sequence that reads
    pictures to make a sample has `ids` beside, the ids of all its samples in order."""
    labels: "LabelMap"
    crop_size: tuple[int, int] | None = None
    """(height, width) in pixels that training should see unless the user says otherwise."""
    chances: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By split, how often training draws each sample, in proportion; default each once an epoch."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What every record has."""

    name: str
    """Lower case, `[a-z0-9_]+`."""
    summary: str
    """One line for `segacc plugins`."""
    options: type[Any]
    """A frozen dataclass; the docstring under a field is its help."""


@dataclass(frozen=True, kw_only=True)
class Architecture(Record):
    """A network by name."""

    build: Callable[[Any, Facts], "SegmentationModel"]
    """Options and facts to a network with random weights."""
    default_weights: Callable[[Any], str | None]
    """Options to the Hub id of published weights, or None."""
    tiny: Callable[[], Any]
    """Options of a network that trains in seconds, for tests."""
    model_types: tuple[str, ...] = ()
    """`model_type`s in config.json of the folders that this architecture reads: its options then
    have `config`, the folder whose config.json gives the sizes. `--weights FOLDER` chooses by it.
    """
    variants: tuple[str, ...] = ("",)
    """Options, as they are typed, that are worth a row each in docs/architectures.md."""
    weights_license: Callable[[Any], str] = lambda options: ""
    """Options to the licence of the default weights, as their model card states it; empty where
    it is not known."""


@dataclass(frozen=True, kw_only=True)
class Dataset(Record):
    """A data set by name."""

    build: Callable[..., DataSplits]
    """Options to samples and label map. Raises DataError where the data is not there. Where there
    are `parts`, their DataSplits are the second argument, a tuple."""
    parts: Callable[[Any], tuple[Any, ...]] | None = None
    """Options to the data sets that this one is made of, as they are typed: `name:key=value,...` or
    mappings. They are built first."""


@dataclass(frozen=True, kw_only=True)
class Augmentation(Record):
    """A change of image and label that training sees."""

    build: Callable[[Any, Facts], Callable[..., Any]]
    """Options and facts to a callable of `(image, label)`: torchvision tv_tensors, Image (C, H, W)
    uint8 and Mask (H, W) uint8 with 255 ignored; it returns the same pair. It may draw from torch,
    numpy and `random`.

    With `partners` it is called with a third argument: a function without arguments that returns
    another (image, label) of the training split, which has been through what stands before.

    On "batch" it is a BatchChange. Crops and flips may have what
    `segacc.data.placement` asks for."""
    on: Literal["worker", "device", "batch"] | Callable[[Any], str] = "worker"
    """Where it runs: in the data loader's worker, on the training device picture by picture, or
    there on a whole batch; or options to one of these."""
    partners: bool = False
    """True for one that mixes several samples."""
    wants_shares: bool = False
    """True for one that reads `facts.class_shares`."""


@dataclass(frozen=True, kw_only=True)
class Loss(Record):
    """A term of the training loss."""

    build: Callable[[Any, Facts], LossTerm]
    """Options and facts to a LossTerm. An option named `weight` is the term's own business."""
    class_weighted: bool = False
    """True for one that heeds `facts.class_weights`."""


@dataclass(frozen=True, kw_only=True)
class Metric(Record):
    """Scores of predictions against labels."""

    build: Callable[[Any, Facts], Any]
    """Options and facts to an empty MetricState."""
    wants_confidence: bool = False
    """True for one whose `update` takes the confidence of each pixel, too."""
    writes: bool = False
    """True for one that has MetricFiles' `write`: `segacc evaluate` calls it."""
    lower_is_better: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
    """The score names of which a lower value is the better one; or options to these."""

    def lower(self, options: Any) -> tuple[str, ...]:
        """Return `lower_is_better` with these options."""
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


@dataclass(frozen=True)
class Chosen:
    """A record and the options it will be built with."""

    record: Any
    options: Any
    text: str
    """As `name:key=value,...`."""
    parts: "tuple[Chosen, ...]" = ()
    """Of a data set that is made of others: these."""
    reading: Reading = USUAL
    """Of a data set's images."""

    @property
    def name(self) -> str:
        """The record's name."""
        return str(self.record.name)

    @property
    def bits(self) -> int:
        """Tell how many bits of 16 the images use; 16 where its parts differ."""
        found = {part.bits for part in self.parts}
        return found.pop() if self.reading.bits == 16 and len(found) == 1 else self.reading.bits
