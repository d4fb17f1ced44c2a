"""Cache of decoded samples: `--cache ram`, or a folder that later runs can reuse."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock

from segacc.data.augment import Pair
from segacc.data.batches import EvalData, Source
from segacc.data.cache_files import (
    DATA,
    INDEX,
    Notice,
    build,
    estimate,
    gigabytes,
    is_whole,
    key_of,
    remove_unlocked,
)
from segacc.errors import DataError, OptionError, SegaccError, count_of, expand
from segacc.hookspecs import Stream
from segacc.settings.machine import available_memory

if TYPE_CHECKING:
    from segacc.data.streams import EvalStream

RAM = "ram"
SHARE = 0.8
"""Maximum fraction of the available memory for a cache."""

SHARED = Path("/dev/shm")
"""Shared memory on Linux."""

ALIVE = "alive.lock"
"""A lock file in a room, held while the process that made it is alive."""

LONGEST = timedelta(days=7)
"""Time for which processes wait for those that decode; by default, torch waits some minutes."""


@dataclass(frozen=True)
class CachedSource(Source):
    """A split whose samples are already decoded; reading gives bit-identical results."""

    folder: Path = field(kw_only=True)
    """Contains the files described in `segacc.data.cache_files`."""
    room: "Room | None" = field(default=None, kw_only=True, repr=False, compare=False)
    """For a cache in memory: removes it in the end; None in other processes."""

    def __getstate__(self) -> dict[str, Any]:
        """Exclude what each process opens itself."""
        return {**{one.name: getattr(self, one.name) for one in fields(self)}, "room": None}

    @cached_property
    def _index(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        index: np.ndarray[Any, np.dtype[np.int64]] = np.load(self.folder / INDEX)
        return index

    def read(self, index: int) -> Pair:
        """Return image (C, H, W) uint8 and label (H, W) uint8, 255 ignored, as a copy.

        A sample that was unreadable when the cache was built is read from its files again, for the
        error message. One sample is memory-mapped at a time, so that no process appears to grow.

        Raises:
            UnreadableError: files are missing or damaged.
            DataError: the cache was removed while it was in use.
        """
        try:
            start, height, width, last = self._index[index].tolist()
            size = height * width * (self.num_channels + 1)
            file = str(self.folder / DATA)  # for a Path, numpy resolves all links each time
            window = np.memmap(file, np.uint8, "r", start, (size,)) if size else None
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.folder}: the cache was changed while it was in use: {error}. The next run "
                "builds it again."
            ) from None
        if window is None:
            return super().read(index)
        pixels, label = (
            torch.from_numpy(np.array(part)) for part in np.split(window, [size - height * width])
        )
        if last:  # memory format of the decoder: rounding in the network may depend on it
            image = pixels.view(height, width, -1).permute(2, 0, 1)
        else:
            image = pixels.view(-1, height, width)
        return image, label.view(height, width)


class Room:
    """A temporary folder in memory; removed with the last split that uses it, or at exit."""

    def __init__(self, base: Path) -> None:
        """Create it under a global lock, so that `sweep` does not take it for a killed run's."""
        with FileLock(base / f"{_prefix()}rooms.lock"):
            made = tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-", dir=base)
            self.folder = Path(made)
            alive = FileLock(self.folder / ALIVE, thread_local=False)
            alive.acquire()
        weakref.finalize(self, _clear, self.folder, alive, os.getpid())


def _prefix() -> str:
    return f"segacc-{os.getuid()}-"


def _clear(folder: Path, alive: FileLock, owner: int) -> None:
    """Remove a room; a worker that was forked from its owner does nothing."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
        alive.release(force=True)


def sweep(base: Path) -> None:
    """Remove the rooms of killed runs.

    Process ids are not reliable: containers may share memory, but not process ids.
    """
    with FileLock(base / f"{_prefix()}rooms.lock"):
        for left in filter(Path.is_dir, base.glob(f"{_prefix()}*")):
            remove_unlocked(left, left / ALIVE)


def base_of_room(need: int, where: str) -> Path:
    """Choose a folder in memory for this many bytes: shared memory, or a temporary folder.

    Raises:
        OptionError: more than `SHARE` of the available memory would be used.
    """
    temporary = Path(tempfile.gettempdir())
    shared = os.access(SHARED, os.W_OK)
    for base in (SHARED, temporary) if shared else (temporary,):
        sweep(base)
    available = available_memory()
    if need > SHARE * available:
        raise OptionError(
            f"{where}: {RAM}: the decoded samples take about {gigabytes(need)}, more than "
            f"{SHARE:.0%} of the {gigabytes(available)} of available memory. Name a "
            "folder instead to cache them on disk."
        )
    roomy = shared and need <= SHARE * shutil.disk_usage(SHARED).free  # in containers often 64 MB
    return SHARED if roomy else temporary


def store(
    sources: Sequence[Source], given: str, where: str, notice: Notice, rooms: list[Room]
) -> tuple[Path, ...]:
    """Find or build the cache folder of each split; a room that is made for them joins `rooms`.

    Raises:
        SegaccError: see `build`; or there is not enough memory.
    """
    lasting = None if given == RAM else expand(given, where).absolute()
    keys = [key_of(source, lasting, notice) for source in sources]
    by_key = dict(zip(keys, sources, strict=True))
    if lasting is None:
        rooms.append(Room(base_of_room(sum(map(estimate, by_key.values())), where)))
    root = lasting or rooms[-1].folder
    if missing := [one for key, one in by_key.items() if not is_whole(root / key)]:
        count, size = sum(map(len, missing)), gigabytes(sum(map(estimate, missing)))
        notice.start(f"decoding {count_of(count, 'sample')}, about {size}, into {root}")
    for key, source in by_key.items():
        build(source, root / key, where, notice)
    return tuple(root / key for key in keys)


def on_some(accelerator: Accelerator, call: Callable[[], Any] | None) -> list[Any]:
    """Call a function on the processes that have one, while the others wait for them.

    Returns:
        Each process's result, on all processes; None for one without a function.

    Raises:
        SegaccError: the first error of any process, on all processes.
    """
    several = accelerator.num_processes > 1
    group: Any = torch.distributed.new_group(timeout=LONGEST) if several else None

    def gathered(one: Any) -> list[Any]:
        told = [one] * accelerator.num_processes
        if several:
            torch.distributed.all_gather_object(told, one, group)
        return told

    gathered(None)  # connects the processes, before the wait
    error: SegaccError | None = None
    result = None
    try:
        result = call() if call else None
    except SegaccError as problem:
        error = problem
    told = gathered((result, error))
    if several:
        torch.distributed.destroy_process_group(group)
    for _, one in told:
        if one is not None:
            raise one
    return [result for result, _ in told]


def cached(
    train: Source | Stream,
    scored: "EvalData | EvalStream",
    given: str,
    accelerator: Accelerator,
    where: str,
) -> tuple[Source, EvalData]:
    """Return both splits as read from a cache, which is built first if it does not exist.

    Called on all processes: the main process of each machine builds, with its own workers, and the
    others wait. Two runs that need the same cache at the same time build it once.

    Args:
        train: the training split.
        scored: the evaluation split.
        given: `ram`, or the folder of the caches, each in a subfolder named by its key.
        accelerator: the run's Accelerator.
        where: origin of `given`, for errors.

    Raises:
        OptionError: a split is streamed, or there is not enough space.
        SegaccError: the samples cannot be listed. A faulty one is an error only when it is read.
    """
    if isinstance(train, Stream) or not isinstance(scored, EvalData):
        which = "training split" if isinstance(train, Stream) else "evaluation split"
        raise OptionError(
            f"{where}: {given}: the {which} is streamed shard by shard because it "
            "may not fit on a disk. Omit this option, or use a data set whose samples are on disk."
        )
    sources, rooms = (train, scored.source), list[Room]()
    notice = Notice(speaks=accelerator.is_main_process)
    work = partial(store, sources, given, where, notice, rooms)
    told = on_some(accelerator, work if accelerator.is_local_main_process else None)
    folders = told[accelerator.process_index - accelerator.local_process_index]
    room = rooms[0] if rooms else None
    kept = [
        CachedSource(**vars(source), folder=folder, room=room)
        for source, folder in zip(sources, folders, strict=True)
    ]
    return kept[0], EvalData(kept[1])
