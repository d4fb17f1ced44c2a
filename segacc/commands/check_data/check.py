"""Read all samples of a data set as training would, and count what each split contains."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from rich.console import Console

from segacc.commands.check_data.duplicates import Twins, find_twins
from segacc.commands.terminal.console import progress_bar
from segacc.data.samples import evenly_spaced, length_of, lost_samples, passed_over, read_shard
from segacc.data.scan import Fault, SampleFacts, Size, SplitFacts, scan
from segacc.data.splits import data_splits, pick_split, split_name, unusable_lines
from segacc.errors import DataError, OptionError
from segacc.hookspecs import Chosen, DataSplits, Sample, Stream
from segacc.labels import LabelMap
from segacc.settings.commands import CheckConfig
from segacc.settings.config import DEFAULT_CROP

AHEAD = 32
"""Number of samples read in advance for each process."""
FEW = 32
"""Number of samples up to which starting processes takes longer than reading them."""

Samples = Sequence[Sample] | Stream


@dataclass(frozen=True)
class OpenData:
    """A built data set, and the splits to check."""

    dataset: Chosen
    config: CheckConfig
    splits: Mapping[str, Samples]
    labels: LabelMap
    crop_size: Size
    """The crop size that training would use."""
    strays: Sequence[str]
    """Label files without an image."""
    passed_over: Sequence[str]
    """Lines about image files that are not read."""
    complaints: Sequence[str]
    """Why training would not find its splits."""
    notes: Sequence[str]

    def count(self, name: str) -> int | None:
        """Return the number of samples of a split that will be read; None if not known."""
        samples, limit = self.splits[name], self.config.sample
        total = length_of(samples)
        return limit if total is None else min(total, limit or total)

    @property
    def total(self) -> int | None:
        """The number of samples of all splits that will be read; None if not known."""
        known = [count for name in self.splits if (count := self.count(name)) is not None]
        return sum(known) if len(known) == len(self.splits) else None


@dataclass(frozen=True)
class Findings:
    """The facts of all splits and the duplicates; `verdict` judges them."""

    data: OpenData
    splits: Mapping[str, SplitFacts]
    twins: Sequence[Twins]


def open_data(dataset: Chosen, config: CheckConfig) -> OpenData:
    """Build a data set and choose the splits to check, those of a training run first.

    Raises:
        SegaccError: it cannot be built.
    """
    train, scored = config.train_split, config.eval_split
    splits, notes = data_splits(
        dataset, config.val_fraction, config.seed, train=train, scored=scored
    )
    config = replace(config, eval_split=split_name(splits, scored))
    found, complaints = of_a_run(splits, config)
    taken = {name.partition("[")[0] for name in found}
    found |= {name: some for name, some in splits.splits.items() if name not in taken}
    asked = {name.partition("[")[0] for name in (config.train_split, config.eval_split)}
    told = unusable_lines(splits, [name for name in splits.unusable if name not in asked - taken])
    lost = [*passed_over(splits.splits.values()), *told]
    streams = {name: some for name, some in found.items() if isinstance(some, Stream)}
    lost += [line for name, some in streams.items() for line in lost_samples(name, some)]
    return OpenData(
        dataset=dataset,
        config=config,
        splits=found,
        labels=splits.labels,
        crop_size=config.crop_size or splits.crop_size or DEFAULT_CROP,
        strays=strays(splits),
        passed_over=lost,
        complaints=complaints,
        notes=notes,
    )


def of_a_run(splits: DataSplits, config: CheckConfig) -> tuple[dict[str, Samples], list[str]]:
    """Return the splits that training would use, and why others are not available.

    Raises:
        OptionError: a slice of an existing split is invalid.
    """
    found, complaints = dict[str, Samples](), list[str]()
    flags = {"--train-split": config.train_split, "--eval-split": config.eval_split}
    for flag, name in flags.items():
        try:
            found[name] = pick_split(splits, name, flag)
        except DataError as error:
            complaints.append(str(error))
        except OptionError as error:
            if name.partition("[")[0] in splits.splits:
                raise
            complaints.append(str(error))
    return found, complaints


def strays(splits: DataSplits) -> list[str]:
    """List the label files without an image, in the folders of the samples' labels.

    Labels that no sample uses are not listed if their image exists: lists of samples may omit them,
    and VOC has two labels for some images.
    """
    used, patterns = set[Path](), dict[tuple[Path, str, str], set[tuple[Path, str, str]]]()
    for samples in splits.splits.values():
        for sample in () if isinstance(samples, Stream) else samples:
            image, label = sample.image, sample.label
            if not isinstance(label, Path) or not isinstance(image, Path):
                break  # the samples of a split are either all paths or all encoded bytes
            name = Path(sample.id).name
            used.add(label)
            if label.stem.startswith(name):
                pattern = label.parent, label.stem.removeprefix(name), label.suffix
                ending = image.stem.removeprefix(name)
                patterns.setdefault(pattern, set()).add((image.parent, ending, image.suffix))
    folders = {folder for images in patterns.values() for folder, _, _ in images}
    there = {folder: set(_listed(folder)) for folder in folders}
    return sorted(
        str(path)
        for (folder, ending, suffix), images in patterns.items()
        for path in _listed(folder)
        if path.suffix == suffix and path.stem.endswith(ending) and path not in used
        if not path.name.startswith(".")
        if not any(
            where / f"{path.stem.removesuffix(ending)}{end}{kind}" in there[where]
            for where, end, kind in images
        )
    )


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def check(data: OpenData, console: Console) -> Findings:
    """Read a data set, with a progress bar if the console is a terminal.

    Raises:
        SegaccError: a worker process was killed.
    """
    with reading(data) as pool, progress_bar(console, data.total, "reading") as tick:
        splits = {name: walk(data, name, pool, tick) for name in data.splits}
    run = data.config.train_split, data.config.eval_split
    return Findings(data, splits, find_twins(list(splits.values()), run))


@contextmanager
def reading(data: OpenData) -> Iterator[ProcessPoolExecutor | None]:
    """Start worker processes; yields None if this process reads by itself."""
    workers, total = data.config.num_workers, data.total
    if not workers or (total is not None and total <= FEW):
        yield None
        return
    with ProcessPoolExecutor(workers, initializer=leave_signals) as pool:
        try:
            pool.submit(int).result()  # start them before the progress bar starts a thread
            yield pool
        except BrokenProcessPool:
            raise DataError(
                f"--num-workers {workers}: a worker process was killed, perhaps because memory ran "
                "out. Use fewer workers, or 0."
            ) from None


def leave_signals() -> None:
    """Ignore Ctrl+C in a worker; the main process ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def walk(
    data: OpenData, name: str, pool: ProcessPoolExecutor | None, tick: Callable[..., None]
) -> SplitFacts:
    """Read all samples of a split, or as many as `--sample` says."""
    samples, count = data.splits[name], data.count(name)
    facts = SplitFacts(name, length_of(samples))
    if isinstance(samples, Stream):
        chosen: Iterable[tuple[int, Sample]] = enumerate(
            islice(from_stream(samples, facts.faults), count)
        )
        out_of = count or 0
    else:
        chosen = ((index, samples[index]) for index in evenly_spaced(len(samples), count or 0))
        out_of = len(samples)
    for index, sample, found in scan_all(data, chosen, pool):
        facts.add(sample, found)
        if not found.faults:
            facts.keep(sample, index, out_of=out_of)
        tick(advance=1)
    return facts


def from_stream(stream: Stream, faults: list[Fault]) -> Iterator[Sample]:
    """Yield the samples of a stream shard by shard; unreadable shards are added to `faults`."""
    for shard in stream.shards:
        try:
            for sample, _ in read_shard(stream, shard):
                yield sample
        except DataError as error:
            faults.append(Fault("shard", shard, str(error)))


def scan_all(
    data: OpenData, chosen: Iterable[tuple[int, Sample]], pool: ProcessPoolExecutor | None
) -> Iterator[tuple[int, Sample, SampleFacts]]:
    """Yield each index and sample with the facts, in order, reading some samples in advance."""
    waiting = deque[tuple[int, Sample, Future[SampleFacts]]]()
    for index, sample in chosen:
        if pool is None:
            yield index, sample, scan(sample, data.labels, data.config.num_channels)
            continue
        future = pool.submit(scan, sample, data.labels, data.config.num_channels)
        waiting.append((index, sample, future))
        if len(waiting) > AHEAD * data.config.num_workers:
            index, sample, future = waiting.popleft()
            yield index, sample, future.result()
    for index, sample, future in waiting:
        yield index, sample, future.result()
