"""CPU cores and memory that this process may use: of its machine, container and batch job."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")
"""Control groups of Linux, by which containers and batch systems limit processes: version 2 in this
folder, version 1 in a folder of it for each kind of limit."""
OWN = Path("/proc/self/cgroup")


def cores() -> int:
    """Return the number of CPU cores that this process may use; hardware threads do not count."""
    usable = processors()
    return min(usable, psutil.cpu_count(logical=False) or usable)


def processors() -> int:
    """Return the number of hardware threads that this process may use at the same time."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(usable, quota() or usable)


def quota() -> int | None:
    """Return how many cores' time the control groups allow, rounded up; None without a limit."""
    allowed = list[float]()
    for group in groups("cpu"):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with suppress(OSError, ValueError):  # no such file; or "max", which is no limit
                words = [word for name in names for word in (group / name).read_text().split()]
                time, period = (int(word) for word in words)
                allowed += [time / period] if time > 0 else []
    return max(1, math.ceil(min(allowed))) if allowed else None


def whole_memory() -> int:
    """Return the bytes that this process could take if it were alone."""
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in memory_groups())])


def available_memory() -> int:
    """Return the bytes that this process can still take."""
    left = (limit - used for limit, used in memory_groups())
    return min([int(psutil.virtual_memory().available), *left])


def memory_groups() -> Iterator[tuple[int, int]]:
    """Yield the limit and the bytes in use of each control group that limits the memory."""
    for group in groups("memory"):
        for limit, used, files in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                most = int((group / limit).read_text())
            except (OSError, ValueError):  # no such file; or "max", which is no limit
                continue
            yield most, in_use(group / used, group / "memory.stat", files)


def in_use(used: Path, stat: Path, files: str) -> int:
    """Return the bytes that a control group uses, without old pages of files, which make way.

    Args:
        used: the file with the number of bytes.
        stat: the file of parts.
        files: the part of old pages.
    """
    try:
        parts = dict(line.split() for line in stat.read_text().splitlines())
        return int(used.read_text()) - int(parts.get(files, 0))
    except (OSError, ValueError):  # not told
        return 0


def groups(kind: str) -> Iterator[Path]:
    """Yield the folders of the control groups that this process is in, and of those above them.

    In a container the paths may be those of the machine, and the container's own group the
    uppermost one that is there; then what a path begins with is left out.

    Args:
        kind: of limits, as version 1 names them: "cpu" or "memory".
    """
    try:
        lines = OWN.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and kind not in kinds.split(","):
            continue
        top = GROUPS / kind if kinds else GROUPS
        parts = path.strip("/").split("/")
        own = next(filter(Path.is_dir, (top.joinpath(*parts[k:]) for k in range(len(parts)))), top)
        yield own
        yield from (one for one in own.parents if one.is_relative_to(top))
