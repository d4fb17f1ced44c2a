"""`segacc predict` and its Python form: segment image files, write predictions and overlays."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segacc.commands.console import Where, console_of, flag, progress_bar, quiet_libraries
from segacc.data.samples import IMAGE_SUFFIXES, folders_inside, is_image, other_endings
from segacc.errors import OptionError, UnreadableError, count_of
from segacc.settings.config import PredictConfig
from segacc.settings.sources import Layer, config_of, keywords_of
from segacc.training.folders import model_folder, writable

if TYPE_CHECKING:
    from segacc.evaluation.segmenter import Segmenter
    from segacc.labels import LabelMap

END = "_overlay.png"


def predict_command(model: str, inputs: Sequence[Path], config: PredictConfig) -> int:
    """Segment images; return 1 if some could not be segmented."""
    jobs, notes = check(model, inputs, config, flag)
    console = console_of(stderr=True)
    for note in notes:
        console.out(note, highlight=False)
    with console.status("Loading torch and the weights ..."):
        quiet_libraries()
        segmenter = load_segmenter(model, config.protocol, flag)
    failed = segment_all(segmenter, jobs, config, console)
    for reason in failed.values():
        sys.stderr.write(f"{reason}\n")
    console.print(
        f"{len(jobs) - len(failed)} of {len(jobs)} predictions written to {config.output_dir}",
        markup=False,
        highlight=False,
    )
    return 1 if failed else 0


@keywords_of(PredictConfig)
def predict(
    model: str | Path, inputs: str | Path | Sequence[str | Path], **settings: Any
) -> "PredictionResult":
    """Segment image files and write predictions and overlays, as `segacc predict` does.

    A progress bar is shown on a terminal and in a notebook. `Segmenter` segments images in memory.

    Args:
        model: `best/` or `last/` of a run, or any transformers folder.
        inputs: an image file, a folder of images, or a list of both.
        **settings: the options of `segacc predict`, whose `--help` explains them.

    Raises:
        SegaccError: a setting is invalid, or the network or an input does not exist. An image that
            cannot be read is in `failed` of the result.
    """
    layer = Layer(settings, "segacc.predict")
    config = config_of(PredictConfig, layer)
    given = [inputs] if isinstance(inputs, str | Path) else inputs
    jobs, notes = check(str(model), [Path(one).expanduser() for one in given], config, layer.where)
    segmenter = load_segmenter(str(model), config.protocol, layer.where)
    failed = segment_all(segmenter, jobs, config, console_of(stderr=True))
    done = [job for job in jobs if job.picture not in failed]
    return PredictionResult(
        folder=config.output_dir,
        predictions={job.picture: job.index for job in done},
        overlays={job.picture: job.overlay for job in done if config.overlay},
        failed=failed,
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class PredictionResult:
    """The files that `predict` wrote."""

    folder: Path
    predictions: dict[Path, Path]
    """The PNG of raw label ids of each image."""
    overlays: dict[Path, Path]
    """The overlay of each image; empty with `overlay=False`."""
    failed: dict[Path, str]
    """Why each of the other images could not be segmented."""
    notes: tuple[str, ...]
    """Lines on skipped files and folders."""

    def __repr__(self) -> str:
        """Return the number of files."""
        count = len(self.predictions)
        told = f"{count} of {count + len(self.failed)} predictions in {self.folder}"
        return f"<PredictionResult: {told}>"


def check(
    model: str, inputs: Sequence[Path], config: PredictConfig, where: Where
) -> tuple[list["Job"], list[str]]:
    """Check what can be checked without torch; return the images, and notes on skipped files.

    Raises:
        OptionError: a folder or an input is invalid.
    """
    model_folder(model, where("model"))
    folder = writable(config.output_dir, where("output_dir"))
    return find_pictures(inputs, folder, recursive=config.recursive)


def load_segmenter(model: str, protocol: str | None, where: Where) -> "Segmenter":
    """Load a model folder with its own protocol, or the given one."""
    from segacc.evaluation.protocol import Protocol
    from segacc.evaluation.segmenter import Segmenter

    wanted = None if protocol is None else Protocol.parse(protocol, where("protocol"))
    segmenter = Segmenter.from_pretrained(model)
    return segmenter if wanted is None else segmenter.with_protocol(wanted)


@dataclass(frozen=True)
class Job:
    """An image and the paths of its prediction."""

    picture: Path
    index: Path
    """Path of the PNG of raw label ids."""
    overlay: Path


def find_pictures(
    inputs: Sequence[Path], output_dir: Path, *, recursive: bool = False
) -> tuple[list[Job], list[str]]:
    """List the images in files and folders, sorted within each folder.

    With `recursive`, images in subfolders are included, and their predictions are written to
    subfolders of the same names; the content of `output_dir` is excluded.

    Returns:
        The images, and notes on skipped files and folders.

    Raises:
        OptionError: a path does not exist, a folder has no image, two predictions would have the
            same path, or an input would be overwritten.
    """
    pictures: list[tuple[Path, Path]] = []
    notes: list[str] = []
    for given in inputs:
        if given.is_dir():
            found, more = _in_folder(given, output_dir, recursive=recursive)
            pictures += [(path, path.parent.relative_to(given)) for path in found]
            notes += more
        elif given.is_file():
            pictures.append((given, Path()))
        else:
            raise OptionError(f"{given}: no such file or folder.")
    jobs = [
        Job(path, output_dir / below / f"{path.stem}.png", output_dir / below / f"{path.stem}{END}")
        for path, below in {row[0].resolve(): row for row in reversed(pictures)}.values()
    ][::-1]
    _refuse_clashes(jobs, output_dir)
    return jobs, notes


def _in_folder(folder: Path, output_dir: Path, *, recursive: bool) -> tuple[list[Path], list[str]]:
    """List the images in a folder, with notes on skipped files and folders.

    Raises:
        OptionError: it has no image.
    """
    below = folders_inside(folder, but=[output_dir])
    found = sorted(filter(is_image, folder.iterdir()))
    notes = other_endings([folder, *(inside for inside, _ in below if recursive)])
    if recursive:
        found += [path for _, files in below for path in files]
    elif below:
        count = sum(len(files) for _, files in below)
        notes.append(
            f"{folder}: skipped {count_of(len(below), 'subfolder')} with "
            f"{count_of(count, 'image')}, such as {below[0][0]}; add --recursive to include them."
        )
    if not found:
        told = "".join(f" {line}" for line in notes)
        raise OptionError(
            f"{folder}: no image in this folder; looked for {', '.join(IMAGE_SUFFIXES)}.{told}"
        )
    return found, notes


def _refuse_clashes(jobs: Sequence[Job], output_dir: Path) -> None:
    inputs = {job.picture.resolve(): job.picture for job in jobs}
    written: dict[Path, Path] = {}
    for job in jobs:
        for target in (job.index, job.overlay):
            if picture := inputs.get(target.resolve()):
                raise OptionError(
                    f"--output-dir {output_dir}: {picture} would be overwritten; choose another "
                    "folder."
                )
            if (first := written.setdefault(target, job.picture)) != job.picture:
                raise OptionError(
                    f"{first} and {job.picture} would both be written as "
                    f"{target.relative_to(output_dir)}; use a different --output-dir for each."
                )


def segment_all(
    segmenter: "Segmenter", jobs: Sequence[Job], config: PredictConfig, console: Console
) -> dict[Path, str]:
    """Segment each image; return the errors of those that are unreadable or of unsupported size.

    Raises:
        OptionError: the raw label ids do not fit in a PNG.
    """
    refuse_wide(segmenter.labels)
    failed = dict[Path, str]()
    with progress_bar(console, len(jobs)) as tick:
        for job in jobs:
            tick(description=job.picture.name)
            try:
                job.index.parent.mkdir(parents=True, exist_ok=True)
                segment(segmenter, job, overlay=config.overlay)
            except UnreadableError as error:
                failed[job.picture] = str(error)
            except OptionError as error:  # an image size that the network does not support
                failed[job.picture] = f"{job.picture}: {error}"
            tick(advance=1)
    return failed


def refuse_wide(labels: "LabelMap") -> None:
    """Refuse raw label ids that do not fit in 16 bits.

    Raises:
        OptionError: an id is above 65535.
    """
    import numpy as np

    raw = labels.restore(np.arange(len(labels.names)))
    if raw.itemsize > 2:
        raise OptionError(
            f"The network's raw label ids go up to {raw.max()}, but a PNG can hold only 65535. In "
            "Python, segacc.Segmenter returns classes, and its labels.restore converts them to raw "
            "ids."
        )


def segment(segmenter: "Segmenter", job: Job, *, overlay: bool) -> None:
    """Write one prediction: raw ids at the original size, and the overlay with a legend."""
    from PIL import Image

    from segacc.data.decode import read_image
    from segacc.data.pictures import write_picture

    image = read_image(
        job.picture, str(job.picture), segmenter.network.num_channels, segmenter.reading
    )
    prediction = segmenter(image)
    raw = segmenter.labels.restore(prediction)
    write_picture(Image.fromarray(raw), job.index)
    if overlay:
        write_picture(segmenter.drawn(image, prediction), job.overlay)
