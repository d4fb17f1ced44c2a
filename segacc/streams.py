"""Splits that are streamed: what training and evaluation load of shards read front to back."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from segacc.augment import Pipeline
from segacc.data import Batch, Item, collate, load, nothing
from segacc.decode import read_sample
from segacc.errors import DataError, SegaccError
from segacc.eval_data import scored_item
from segacc.hookspecs import Sample, Stream
from segacc.labels import LabelMap
from segacc.order import Cut
from segacc.samples import read_shard
from segacc.stream_readers import Place, Reader


@dataclass(frozen=True)
class TrainStream:
    """A training split that is streamed."""

    stream: Stream
    labels: LabelMap
    num_channels: int
    pipeline: Pipeline
    seed: int

    @property
    def num_samples(self) -> int | None:
        """Count the samples; None where nobody has."""
        return self.stream.num_samples

    def loader(
        self, cut: Cut, steps: range, *, positions: Any, num_workers: int, pin_memory: bool
    ) -> DataLoader[Any]:
        """Load this process's micro-batches of some steps; never draws from the global state.

        Args:
            cut: how a step is shared.
            steps: the first and the last but one.
            positions: of this process's readers, one for each worker, as its batches told: a Place
                as a dict, or None for one that starts.
            num_workers: 0 loads in this process.
            pin_memory: for copies to a GPU that do not wait.

        Returns:
            Yields Batch, or SegaccError from where a shard cannot be read. The batches come from
            the readers in turn, from the first step of a run on.
        """
        turns = range(steps.start * cut.accumulation, steps.stop * cut.accumulation)
        train = Turns(self, cut, turns, tuple(positions))
        return load(train, num_workers, ahead=4, batch_size=None, pin_memory=pin_memory)

    def batches(
        self, cut: Cut, mine: int, workers: int, place: Place
    ) -> Iterator[Batch | SegaccError]:
        """Yield the micro-batches of one of a process's readers, endlessly, see `loader`."""
        number, readers = cut.process * workers + mine, cut.processes * workers
        given = self.labels, self.num_channels, self.pipeline, self.seed
        items = Reader(self.stream, *given, number, readers).items(place)
        try:
            while True:
                taken = list(islice(items, cut.batch_size))
                batch = collate([item for item, _ in taken])
                if isinstance(batch, Batch):
                    batch = replace(batch, position=(mine, asdict(taken[-1][1])))
                yield batch
        except SegaccError as error:
            while True:  # the step that meets it needs all its micro-batches
                yield error


@dataclass(frozen=True)
class Turns(IterableDataset[Any]):
    """What a data loader's workers share: micro-batches by number, each worker those in turn."""

    train: TrainStream
    cut: Cut
    turns: range
    """Numbers of the micro-batches among all of this process's run."""
    positions: tuple[dict[str, Any] | None, ...]

    def __iter__(self) -> Iterator[Batch | SegaccError]:
        """Yield every n-th micro-batch, for the worker that calls."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        mine = (self.turns.start + worker) % workers  # a loader starts with its worker 0
        place = self.positions[mine] if self.positions else None
        batches = self.train.batches(self.cut, mine, workers, Place(**place or {}))
        yield from islice(batches, len(self.turns[worker::workers]))


@dataclass(frozen=True)
class EvalStream:
    """A split that is scored, streamed."""

    stream: Stream
    labels: LabelMap
    num_channels: int

    @property
    def num_samples(self) -> int | None:
        """Count the samples; None where nobody has."""
        return self.stream.num_samples

    def samples(self) -> Iterator[Sample]:
        """Yield all samples in order, undecoded.

        Raises:
            SegaccError: a shard cannot be read.
        """
        for shard in self.stream.shards:
            for sample, _ in read_shard(self.stream, shard):
                yield sample

    def example_ids(self, count: int) -> frozenset[str]:
        """Choose the ids of the first `count` samples; others would have to be read for."""
        return frozenset(sample.id for sample in islice(self.samples(), count))

    def loader(self, *, process: int, processes: int, num_workers: int) -> DataLoader[Any]:
        """Load one process's share, sample by sample, in order, with one worker or none.

        All processes walk over all samples, so that each knows how many there are when the split
        ends; each decodes its own only.

        Yields:
            Item, as many on each process; or SegaccError, the last of its process.
        """
        return load(Share(self, process, processes), min(1, num_workers), batch_size=None)

    def batches(
        self, *, process: int, processes: int, num_workers: int, batch_size: int
    ) -> Iterator[list[Item | SegaccError]]:
        """Load one process's share in batches of one: the sizes to come are not known."""
        assert batch_size == 1
        items = self.loader(process=process, processes=processes, num_workers=num_workers)
        return ([item] for item in items)

    def count(self, *, process: int, processes: int, batch_size: int) -> int | None:
        """Count the images of one process's share; None where nobody has counted the stream."""
        return None if self.num_samples is None else -(-self.num_samples // processes)


@dataclass(frozen=True)
class Share(IterableDataset[Any]):
    """Every n-th sample of a stream that is scored, and padding at the end."""

    data: EvalStream
    process: int
    processes: int

    def __iter__(self) -> Iterator[Item | SegaccError]:
        """Yield one process's share; it ends with the error of a shard that cannot be read."""
        data, given, count = self.data, 0, 0
        try:
            for count, sample in enumerate(data.samples(), 1):
                if (count - 1) % self.processes == self.process:
                    read = partial(read_sample, sample, data.labels, data.num_channels)
                    yield scored_item(sample.id, read, data.num_channels)
                    given += 1
            if not count:
                raise DataError(f"{', '.join(data.stream.shards[:4])}: the split has no sample.")
        except SegaccError as error:
            yield error
            return
        for _ in range(-(-count // self.processes) - given):
            yield Item(*nothing(data.num_channels), "", 0, padding=True)
