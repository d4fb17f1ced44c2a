"""`segacc convert` and its Python form: write a data set as the files of another format."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from segacc.commands.convert.outlines import refuse_unused_outlines
from segacc.commands.terminal.console import Where, console_of, load_plugins, progress_bar
from segacc.data.atomic import writing
from segacc.data.samples import length_of, samples_of
from segacc.data.splits import data_splits, pick_split, split_name, unusable_lines
from segacc.errors import OptionError, count_of, expand, is_main
from segacc.hookspecs import DataSplits, Sample, Stream
from segacc.labels import LabelMap
from segacc.registry import choose
from segacc.settings.commands import ConvertConfig
from segacc.settings.sources import Layer, config_of, keywords_of
from segacc.training.folders import writable

Samples = Sequence[Sample] | Stream


def convert_command(source: str, target: str, layer: Layer) -> int:
    """Write a data set as the files of another format.

    Args:
        source: the data set, as `--dataset` takes it.
        target: the folder, which is created.
        layer: the given flags.
    """
    config = config_of(ConvertConfig, layer)
    if not is_main():
        return 0
    console = console_of(stderr=True)
    result = run(source, expand(target, layer.where("target")), config, layer.where, console)
    for line in result.notes:
        console.out(line, highlight=False)
    console.print(result.text, markup=False, highlight=False)
    return 0


@keywords_of(ConvertConfig)
def convert(
    source: str | Path | dict[str, Any], target: str | Path, **settings: Any
) -> "ConvertResult":
    """Write a data set as the files of another format, as `segacc convert` does.

    Args:
        source: the data set: the path of a folder, or e.g. `folder:root=data/camvid`.
        target: the folder, which is created.
        **settings: the options of `segacc convert`, whose `--help` explains them.

    Raises:
        SegaccError: a setting is invalid, the folder exists, or a file cannot be read.
    """
    layer = Layer(settings, "segacc.convert")
    config = config_of(ConvertConfig, layer)
    folder = expand(target, layer.where("target"))
    given = str(source) if isinstance(source, Path) else source
    return run(given, folder, config, layer.where, console_of(stderr=True))


@dataclass(frozen=True, kw_only=True)
class ConvertResult:
    """What `convert` wrote."""

    folder: Path
    num_images: Mapping[str, int]
    """Number of images by split."""
    classes: tuple[str, ...]
    """Names of the classes that the files list, in order."""
    notes: tuple[str, ...]
    """Lines about the data set, and about pixels and splits that are special."""
    text: str
    """What was written, and what to do with it."""

    def __str__(self) -> str:
        """Return the text."""
        return self.text


def run(
    source: Any, folder: Path, config: ConvertConfig, where: Where, console: Console
) -> ConvertResult:
    """Check the arguments, then convert with a progress bar.

    Raises:
        SegaccError: see `convert`.
    """
    refuse_unused_outlines(config, where)
    dataset = choose(load_plugins(), "dataset", source, where("source"))
    refuse_existing(folder, where)
    writable(folder, where("target"))
    with console.status("Opening the data set ..."):
        data, notes = data_splits(dataset, None, 0, scored="validation")
    splits, more = chosen_splits(data, config, where)
    return write_all(data, splits, folder, config, console, notes=(*notes, *more))


def refuse_existing(folder: Path, where: Where) -> None:
    """Refuse a folder with content, or a file.

    Raises:
        OptionError: it is one.
    """
    empty = folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
    if (folder.exists() or folder.is_symlink()) and not empty:
        raise OptionError(
            f"{where('target')}: {folder} exists, and nothing is overwritten. Give the path of a "
            "new folder, or remove this one."
        )


def chosen_splits(
    data: DataSplits, config: ConvertConfig, where: Where
) -> tuple[dict[str, Samples], list[str]]:
    """Return the splits to convert by the name of their folder, and lines on those left out.

    Raises:
        SegaccError: a split is missing, empty or given twice.
    """
    if not config.split:
        notes = unusable_lines(data, data.unusable)
        return {name: some for name, some in data.splits.items() if not _empty(some)}, notes
    found = dict[str, Samples]()
    for name in config.split:
        base = split_name(data, name).partition("[")[0]
        if base in found:
            raise OptionError(f"{where('split')} {name}: the split {base} is given twice.")
        found[base] = pick_split(data, name, where("split"))
    return found, []


def _empty(samples: Samples) -> bool:
    return not isinstance(samples, Stream) and not len(samples)


def write_all(
    data: DataSplits,
    splits: Mapping[str, Samples],
    folder: Path,
    config: ConvertConfig,
    console: Console,
    *,
    notes: Sequence[str] = (),
) -> ConvertResult:
    """Write all splits to a temporary folder, which is renamed at the end.

    Raises:
        DataError: an image, a label or the name of a split is invalid.
    """
    from segacc.commands.convert.formats import LAYOUTS, Target
    from segacc.commands.convert.images import refuse_no_folder
    from segacc.labels.annotations import IGNORED
    from segacc.labels.annotations.writers.parts import Outlines

    for name in splits:
        refuse_no_folder(name)
    layout = LAYOUTS[config.format]
    form = "polygons" if config.format == "yolo" else config.shapes
    with replaced(folder) as part:
        outlines = Outlines(data.labels, form, config.tolerance)
        target = Target(part, outlines, config.image_url)
        counts = dict[str, int]()
        bar = progress_bar(console, total(splits), "converting")
        with bar as tick, layout.write(target) as add:
            for name, samples in splits.items():
                images = part / layout.images.format(split=name)
                to = images, config.images
                counts[name] = write_split(samples, data.labels, partial(add, name), to, tick)
        for name, text in layout.beside(target, list(splits)).items():
            (part / name).write_text(text, encoding="utf-8")
    classes = data.labels.names if config.format == "folder" else tuple(outlines.classes)
    if outlines.some_ignored:
        notes = [*notes, f'ignored pixels are written as the class "{IGNORED}", the last one']
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    whole = count_of(sum(counts.values()), "image")
    told = f"{whole} ({told}) of {count_of(len(classes), 'class', 'classes')} written to {folder}"
    return ConvertResult(
        folder=folder,
        num_images=counts,
        classes=classes,
        notes=tuple(notes),
        text=f"{told}; {layout.next_step.replace('TARGET', str(folder))}",
    )


def total(splits: Mapping[str, Samples]) -> int | None:
    """Return the number of samples; None if it is not known."""
    counts = [length_of(one) for one in splits.values()]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside a new one, which it becomes at the end.

    If the block fails, it is removed.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    with writing(folder):
        part.mkdir(parents=True)
        try:
            yield part
            part.replace(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def write_split(
    samples: Samples,
    labels: LabelMap,
    add: Callable[[str, Any], None],
    images: tuple[Path, Literal["copy", "link"]],
    tick: Callable[..., None],
) -> int:
    """Write the images and labels of a split; return their number.

    Args:
        samples: the split.
        labels: the label map.
        add: writes the label of an image, after the name of its file.
        images: where the images go, and how.
        tick: shows progress.

    Raises:
        DataError: see `write_all`.
    """
    from segacc.commands.convert.images import Names, label_of, place

    names, count = Names(), 0
    for sample in samples_of(samples):
        image = names.of(sample)
        add(image, label_of(sample, labels))
        place(sample, images[0] / image, images[1])
        tick(advance=1)
        count += 1
    return count
