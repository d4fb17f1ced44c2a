"""The real images of a proof or a benchmark: given files, or samples of a data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.commands.evaluate.stored import from_run, refuse_absent, where_of
from segacc.commands.predict.files import list_pictures
from segacc.commands.terminal.console import Where, load_plugins
from segacc.data.samples import evenly_spaced
from segacc.data.splits import data_splits, pick_split
from segacc.errors import OptionError, SegaccError
from segacc.hookspecs import Chosen, Sample, Stream
from segacc.registry import choose
from segacc.settings.sources import Layer

if TYPE_CHECKING:
    from segacc.evaluation.segmenter import Segmenter
    from segacc.exporting.gate import Picture


@dataclass(frozen=True)
class Images:
    """Where real images are."""

    files: tuple[Path, ...] = ()
    """Image files."""
    dataset: Chosen | None = None
    config: Any = None
    """The settings of the data set: `split`, `val_fraction`, `train_split` and `seed`."""
    text: str = ""
    """What they are, for the user."""
    where: Where = str

    def pictures(self, segmenter: "Segmenter", count: int) -> "Iterator[Picture]":
        """Yield up to `count` of them, evenly spaced, with labels from a data set.

        Raises:
            SegaccError: one cannot be read, or the classes of the data set differ.
        """
        from segacc.data.decode import read_image
        from segacc.exporting.gate import Picture

        channels, reading = segmenter.network.num_channels, segmenter.reading
        if self.dataset is None:
            for index in evenly_spaced(len(self.files), count):
                path = self.files[index]
                image = read_image(path, str(path), channels, reading)
                yield Picture(str(path), image, source=path)
            return
        yield from self._labelled(segmenter, count)

    def _labelled(self, segmenter: "Segmenter", count: int) -> "Iterator[Picture]":
        from itertools import islice

        from segacc.data.splits import Part
        from segacc.evaluation.scoring import scored_data
        from segacc.evaluation.segmenter import relabel
        from segacc.exporting.gate import Picture

        assert self.dataset is not None
        settings = self.config
        splits, _ = data_splits(
            self.dataset,
            settings.val_fraction,
            settings.seed,
            train=settings.train_split,
            scored=settings.split,
        )
        relabel(segmenter, splits.labels, f"{self.where('dataset')} {self.dataset.text}")
        samples: Sequence[Sample] | Stream = pick_split(splits, settings.split, self.where("split"))
        sources = dict[str, Path | bytes]()
        if not isinstance(samples, Stream):
            samples = Part(samples, evenly_spaced(len(samples), count))
            sources = {sample.id: sample.image for sample in samples}
        data = scored_data(samples, splits.labels, segmenter.network.num_channels)
        given = {"process": 0, "processes": 1, "batch_size": 1, "num_workers": 0}
        for (item,) in islice(data.batches(**given), count):
            if isinstance(item, SegaccError):
                raise item
            source = sources.get(item.id)
            yield Picture(item.id, item.image.contiguous(), item.label, source)


def images_of(given: str, layer: Layer, config: Any, folder: Path, *, what: str) -> Images:
    """Find the images of a proof or a benchmark.

    Args:
        given: the model, as the user typed it.
        layer: the given settings, of which `images` or `dataset` decide.
        config: all settings, with those of the model's run.
        folder: the folder that is written.
        what: what they are for.

    Raises:
        OptionError: none are given, or both kinds.
    """
    where = layer.where
    if config.images and "dataset" in layer.values:
        raise OptionError(
            f"{where('images')}: give either images or a data set with {where('dataset')}."
        )
    if config.images:
        found = files_of(config.images, folder)
        return Images(found, text=f"{len(found)} images of {', '.join(config.images)}")
    if config.dataset is None:
        raise OptionError(
            f"MODEL: {given} is in no run folder whose validation images could {what}. Give real "
            f"images with {where('images')} PATH, or a data set with {where('dataset')} NAME."
        )
    stored = from_run(given, layer)
    source = where_of(given, stored, where)
    chosen = choose(load_plugins(), "dataset", config.dataset, source("dataset"))
    if "dataset" in stored:
        refuse_absent(chosen, source("dataset"), where("dataset"))
    return Images((), chosen, config, f"{config.split} of {chosen.text}", source)


def files_of(inputs: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """Return the image files that some paths and patterns name.

    Raises:
        OptionError: see `list_pictures`.
    """
    pictures, _ = list_pictures(inputs, folder)
    return tuple(path for path, _ in pictures)


def with_run(given: str, layer: Layer) -> dict[str, Any]:
    """Return the given settings with those of the data set of the model's run."""
    if layer.values.get("images"):
        return dict(layer.values)
    return {**from_run(given, layer), **layer.values}
