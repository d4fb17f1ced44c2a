"""Cache of decoded samples: `--cache ram`, or a folder that later runs can reuse."""

import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from filelock import FileLock, Timeout

from segacc.data.augment import Pair
from segacc.data.batches import EvalData, Source
from segacc.data.cache_files import DATA, INDEX, Notice, Work, estimate, gigabytes, is_whole, stored
from segacc.data.cache_key import key_of
from segacc.errors import DataError, OptionError, SegaccError, count_of
from segacc.hookspecs import Stream

if TYPE_CHECKING:
    from segacc.data.streams import EvalStream

RAM = "ram"
SHARE = 0.8
"""Maximum fraction of the available memory for a cache."""

SHARED = Path("/dev/shm")
"""Shared memory on Linux."""

ALIVE = "alive.lock"
"""A lock file in a room, held while the process that made it is alive."""

PULSE = 5.0
"""Seconds between two collective calls while others wait: collectives time out after minutes."""


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
            with suppress(Timeout), FileLock(left / ALIVE).acquire(timeout=0):
                shutil.rmtree(left, ignore_errors=True)


def available_memory() -> int:
    """Return the available memory in bytes, within the container's limit."""
    try:
        told = dict(line.split(":", 1) for line in _lines(Path("/proc/meminfo")))
        kernel = 1024 * int(told["MemAvailable"].split()[0])
    except OSError:  # not Linux: total memory
        kernel = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        parts = dict(line.split() for line in _lines(group / "memory.stat"))
    except (OSError, ValueError):  # no such group, or "max", which is no limit
        return kernel
    return min(kernel, limit - used + int(parts["inactive_file"]))  # old file pages make way


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


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


class Keeper:
    """Finds or builds the cache folders of some splits, and owns their room, if any."""

    def __init__(self, given: str, where: str) -> None:
        """Store the value of `--cache` and its origin."""
        self.given, self.where = given, where
        self.room: Room | None = None

    def store(self, sources: Sequence[Source], notice: Notice) -> Work[tuple[Path, ...]]:
        """Return the complete cache folder of each split.

        Raises:
            SegaccError: see `stored`; or there is not enough memory.
        """
        keys, lasting = [], None if self.given == RAM else Path(self.given).expanduser().absolute()
        for source in sources:
            keys.append((yield from key_of(source, lasting, notice)))
        by_key = dict(zip(keys, sources, strict=True))
        root = lasting or self._in_memory(by_key.values())
        if missing := [one for key, one in by_key.items() if not is_whole(root / key)]:
            count, size = sum(map(len, missing)), gigabytes(sum(map(estimate, missing)))
            notice.start(f"decoding {count_of(count, 'sample')}, about {size}, into {root}")
        for key, source in by_key.items():
            yield from stored(source, root / key, self.where, notice)
        return tuple(root / key for key in keys)

    def _in_memory(self, sources: Iterable[Source]) -> Path:
        self.room = Room(base_of_room(sum(map(estimate, sources)), self.where))
        return self.room.folder


State = tuple[bool, Any, SegaccError | None]
"""Whether a process has finished, its result, and its error."""


def together(work: Work[Any] | None, accelerator: Accelerator) -> list[Any]:
    """Run the work of some processes while the others keep making collective calls.

    Returns:
        Each process's result, on all processes; None for one without work.

    Raises:
        SegaccError: the first error of any process, on all processes.
    """
    mine: State = (work is None, None, None)
    while True:
        if work is not None and not mine[0]:
            mine = _for_a_while(work)
        states: list[State] = gather_object([mine])
        if all(done for done, _, _ in states):
            break
    for _, _, error in states:
        if error is not None:
            raise error
    return [result for _, result, _ in states]


def _for_a_while(work: Work[Any]) -> State:
    until = time.monotonic() + PULSE
    try:
        while time.monotonic() < until:
            next(work)
    except StopIteration as end:
        return True, end.value, None
    except SegaccError as error:
        return True, None, error
    return False, None, None


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
        DataError: a sample is invalid. An unreadable one is an error only when it is read.
    """
    if isinstance(train, Stream) or not isinstance(scored, EvalData):
        which = "training split" if isinstance(train, Stream) else "evaluation split"
        raise OptionError(
            f"{where}: {given}: the {which} is streamed shard by shard because it "
            "may not fit on a disk. Omit this option, or use a data set whose samples are on disk."
        )
    sources, keeper = (train, scored.source), Keeper(given, where)
    notice = Notice(speaks=accelerator.is_main_process)
    work = keeper.store(sources, notice) if accelerator.is_local_main_process else None
    told = together(work, accelerator)
    folders = told[accelerator.process_index - accelerator.local_process_index]
    pairs = zip(sources, folders, strict=True)
    kept = [
        CachedSource(**vars(source), folder=folder, room=keeper.room) for source, folder in pairs
    ]
    return kept[0], EvalData(kept[1])
