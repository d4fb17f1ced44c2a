"""`segacc benchmark`: the speed, size and score of a model and of its exported files."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from segacc.commands.export.images import Images, images_of, with_run
from segacc.commands.terminal.console import (
    Where,
    console_of,
    loading,
    progress_bar,
    quiet_libraries,
    text_of,
)
from segacc.errors import DataError
from segacc.evaluation.model_folder import Model, find_model
from segacc.model.exported import open_session, runtime_of
from segacc.settings.commands import BenchmarkConfig
from segacc.settings.machine import processors
from segacc.settings.sources import Layer, config_of, keywords_of

if TYPE_CHECKING:
    from torch import Tensor

    from segacc.exporting.gate import Picture
    from segacc.model import Logits

MEBIBYTE = 2**20
HEADS: tuple[str, ...] = (
    *("model", "runtime", "precision", "ms/image", "network ms", "images/s"),
    *("memory MiB", "file MiB", "mean_iou"),
)
"""Columns of the table; the first three are texts."""


def benchmark_command(models: Sequence[str], layer: Layer) -> int:
    """Measure models and print a table, or JSON.

    Args:
        models: model folders and exported files; see `find_model`.
        layer: the given flags.
    """
    result = measure(models, layer, console_of(stderr=True))
    if result.json:
        sys.stdout.write(f"{json.dumps(result.to_dict(), indent=1)}\n")
    else:
        result.show(console_of())
    return 0


@keywords_of(BenchmarkConfig, but=("json",))
def benchmark(*models: str | Path, **settings: Any) -> "Benchmark":
    """Measure the speed, size and score of models and exported files, as `segacc benchmark` does.

    Args:
        models: model folders, see `predict`, and files of `segacc export`.
        **settings: the options of `segacc benchmark`, whose `--help` explains them.

    Raises:
        SegaccError: a setting is invalid, or a model or an image cannot be read.
    """
    layer = Layer(settings, "segacc.benchmark")
    return measure([str(one) for one in models], layer, console_of(stderr=True))


@dataclass(frozen=True, kw_only=True)
class Row:
    """The measurements of a model."""

    model: str
    runtime: str
    precision: str
    protocol: str
    milliseconds: float
    """From the image file to the class of each pixel; median over images and rounds."""
    network_milliseconds: float
    """The network alone, in all windows and views of an image; median likewise."""
    images_per_second: float
    memory_mebibytes: float
    """Growth of the process by opening the model and segmenting an image."""
    file_mebibytes: float
    mean_iou: float | None
    """Of these images; None without labels."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The measurements of several models; `print` shows the table of `segacc benchmark`."""

    rows: tuple[Row, ...]
    images: str
    """What was segmented."""
    threads: int
    rounds: int
    device: str
    json: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        about = {key: getattr(self, key) for key in ("images", "threads", "rounds", "device")}
        return {**about, "models": [asdict(row) for row in self.rows]}

    def show(self, console: Console) -> None:
        """Print a table; plain text unless on a terminal."""
        told = f"{self.images}, {self.rounds} rounds, {self.threads} threads, on {self.device}"
        console.out(told, highlight=False)
        several = len({row.protocol for row in self.rows}) > 1
        heads = (*HEADS, "protocol") if several else HEADS
        cells = [(*_cells(row), *([row.protocol] if several else [])) for row in self.rows]
        if console.is_terminal:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for index, head in enumerate(heads):
                table.add_column(head, justify="left" if index < 3 else "right", overflow="fold")
            for row in cells:
                table.add_row(*row)
            console.print(table, soft_wrap=False)
            return
        widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
        for row in (heads, *cells):
            texts = (
                text.ljust(width) if index < 3 else text.rjust(width)
                for index, (text, width) in enumerate(zip(row, widths, strict=True))
            )
            console.out("  ".join(texts).rstrip(), highlight=False)

    def __str__(self) -> str:
        """Return the table as text."""
        return text_of(self.show)


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (row.milliseconds, row.network_milliseconds, row.images_per_second)
    sizes = (row.memory_mebibytes, row.file_mebibytes)
    score = "-" if row.mean_iou is None else f"{row.mean_iou:.4f}"
    shown = (*(f"{value:.1f}" for value in (*numbers, *sizes)), score)
    return (row.model, row.runtime, row.precision, *shown)


class Measured:
    """A model that is measured: its times so far, and its confusion matrix.

    Args:
        model: the model.
        config: the settings.
        where: where settings were typed.
        threads: number of threads of its runtime.
    """

    def __init__(self, model: Model, config: BenchmarkConfig, where: Where, threads: int) -> None:
        """Open the model; see the class."""
        import psutil

        from segacc.evaluation.segmenter import Segmenter, with_settings

        self.process, self.model = psutil.Process(), model
        self.before = self.process.memory_info().rss
        found = Segmenter.from_pretrained(model.folder, "cpu")
        self.segmenter = with_settings(found, config.protocol, None, where)
        self.runtime = runtime_of(model.about, "auto", where("model"))
        if model.exported:
            network: Any = self.segmenter.network
            network.session = open_session(model.folder, self.runtime, "cpu", threads)
        self.times, self.network_times = list[float](), list[float]()
        self.counts: Tensor | None = None
        self.memory = 0

    def warm_up(self, picture: "Picture") -> None:
        """Segment an image that is not timed."""
        self.run(picture)
        self.times, self.network_times, self.counts = [], [], None
        self.memory = max(self.process.memory_info().rss - self.before, 0)

    def run(self, picture: "Picture") -> None:
        """Segment an image file, and count its pixels if it has a label."""
        from segacc.evaluation.images import to_tensor
        from segacc.evaluation.predict import predict
        from segacc.kernels.resize import confusion

        one, inside = self.segmenter, 0.0

        def forward(images: "Tensor") -> "Logits":
            nonlocal inside
            start = time.perf_counter()
            found: Logits = one.network(images)
            inside += time.perf_counter() - start
            return found

        assert picture.source is not None  # see `opened`
        start = time.perf_counter()
        pixels = to_tensor(picture.source, one.network.num_channels, one.reading)
        classes = predict(forward, one.network, pixels, one.protocol)
        self.times.append(time.perf_counter() - start)
        self.network_times.append(inside)
        if picture.label is not None:
            counted = confusion(classes[None], picture.label[None], len(one.labels.names))
            self.counts = counted if self.counts is None else self.counts + counted

    def row(self) -> Row:
        """Return the measurements."""
        from segacc.exporting.gate import mean_iou

        whole = 1000 * median(self.times)
        return Row(
            model=self.model.name,
            runtime=self.runtime,
            precision=self.segmenter.network.precision or "float32",
            protocol=self.segmenter.protocol.text(),
            milliseconds=whole,
            network_milliseconds=1000 * median(self.network_times),
            images_per_second=1000 / whole,
            memory_mebibytes=self.memory / MEBIBYTE,
            file_mebibytes=size_of(self.model) / MEBIBYTE,
            mean_iou=None if self.counts is None else mean_iou(self.counts),
        )


def size_of(model: Model) -> int:
    """Return the bytes of a file, with its file of weights, or of the weights in a folder."""
    if model.exported:
        file = model.folder
        weights = {".xml": file.with_suffix(".bin"), ".onnx": file.with_name(f"{file.name}.data")}
        files = [one for one in (file, weights.get(file.suffix, file)) if one.is_file()]
        files = list(dict.fromkeys(files))
    else:
        files = [model.weights] if model.weights else [*model.folder.glob("*.safetensors")]
    return sum(path.stat().st_size for path in files)


def measure(models: Sequence[str], layer: Layer, console: Console) -> Benchmark:
    """Open all models, and time them in turns, image by image.

    Raises:
        SegaccError: see `benchmark`.
    """
    where = layer.where
    values = with_run(models[0], layer)
    absent = () if "dataset" in values else ("dataset",)
    config = config_of(BenchmarkConfig, replace(layer, values=values), but=absent)
    found = [find_model(one, where("model"), files=True) for one in models]
    for model in found:
        runtime_of(model.about, "auto", where("model"))
    images = images_of(models[0], layer, config, Path(), what="be segmented")
    threads = config.threads or processors()
    with loading(console, "torch and the models"):
        quiet_libraries()
        import torch

        torch.set_num_threads(threads)
        measured, pictures = opened(found, images, config, where, threads)
    with progress_bar(console, config.rounds * len(pictures), "measuring") as tick:
        for _ in range(config.rounds):
            for picture in pictures:
                for one in measured:
                    one.run(picture)
                tick(advance=1)
    return Benchmark(
        rows=tuple(one.row() for one in measured),
        images=f"{len(pictures)} images of {images.text}",
        threads=threads,
        rounds=config.rounds,
        device="cpu",
        json=config.json,
    )


def opened(
    found: Sequence[Model], images: Images, config: BenchmarkConfig, where: Where, threads: int
) -> "tuple[list[Measured], list[Picture]]":
    """Open the models and list the images.

    Raises:
        DataError: the images are in a stream, and so in no files.
    """
    measured = [Measured(found[0], config, where, threads)]
    pictures = list(images.pictures(measured[0].segmenter, config.num_images))
    if any(picture.source is None for picture in pictures):
        raise DataError(
            f"{where('dataset')}: {images.text} is streamed, and reading from it would be timed. "
            f"Give image files with {where('images')}."
        )
    measured[0].warm_up(pictures[0])
    for model in found[1:]:
        measured.append(Measured(model, config, where, threads))
        measured[-1].warm_up(pictures[0])
    return measured, pictures
