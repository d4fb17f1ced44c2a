"""Expands and checks the shards of `shards`: ranges, globs and URLs."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from segacc.errors import DataError
from segacc.plugins.datasets.shard_access import far_system, is_far, once

WHERE = "--dataset shards"
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


def name_of(shard: str) -> PurePosixPath:
    """Return the path of a shard, without the host and query of a URL."""
    if not is_far(shard):
        return PurePosixPath(shard)
    # In a chain such as zip://a.tar::https://..., the first link that has a path.
    return PurePosixPath(urlsplit(next(link for link in shard.split("::") if is_far(link))).path)


def suffix(shard: str) -> str:
    """Return the file ending of a shard, such as `.tar` or `.parquet`."""
    return name_of(shard).suffix.lower()


def shards_of(split: str, typed: str | Sequence[str]) -> list[str]:
    """Expand ranges and globs.

    Raises:
        DataError: nothing matches, a local shard is missing, or the format is not supported.
    """
    given = (typed,) if isinstance(typed, str) else typed
    found = [shard for text in given for one in braces(text) for shard in globbed(split, one)]
    for shard in found:
        if suffix(shard) not in (".tar", ".parquet"):
            wild = is_far(shard) and "?" in shard
            raise DataError(
                f"{WHERE}: {split}: {shard} is not in a supported format: .tar (not "
                "compressed) or .parquet, e.g. data/*.tar."
                + (" In a URL ? starts a query; use [0-9] or *." if wild else "")
            )
    missing = [shard for shard in found if not is_far(shard) and not Path(shard).is_file()]
    if missing:
        more = f" ({len(missing)} of {len(found)} shards are missing)" if len(found) > 1 else ""
        raise DataError(f"{WHERE}: {split}: there is no file {missing[0]}{more}.")
    if twice := [shard for shard, count in Counter(found).items() if count > 1]:
        raise DataError(f"{WHERE}: {split}: {twice[0]} is given twice.")
    return found


def braces(text: str) -> list[str]:
    """Expand `{000..010}` and `{a,b}` like a shell."""
    if found := RANGE.search(text):
        ends = found.groups()
        first, last = map(int, ends)
        padded = any(len(end) > 1 and end[0] == "0" for end in ends)
        width, step = max(map(len, ends)) if padded else 0, 1 if first <= last else -1
        words = [f"{number:0{width}d}" for number in range(first, last + step, step)]
    elif found := CHOICE.search(text):
        words = found[1].split(",")
    else:
        return [text]
    start, end = text[: found.start()], text[found.end() :]
    return [whole for word in words for whole in braces(f"{start}{word}{end}")]


def globbed(split: str, text: str) -> list[str]:
    """Return what a path or URL with `*`, `?` or `[...]` matches, in order.

    Raises:
        DataError: nothing matches, or listing is not possible.
    """
    if is_far(text):
        if not set("*[") & set(text):  # a question mark starts a query
            return [text]

        def look() -> list[str]:
            links = text.split("::")  # a chain such as simplecache::https://...
            index = next(k for k, link in enumerate(links) if set("*[") & set(link))
            before = "".join(f"{link}::" for link in links[:index])
            behind = "".join(f"::{link}" for link in links[index + 1 :])
            system, path = far_system(text)
            whole = (system.unstrip_protocol(one) for one in system.glob(path))
            return sorted(f"{before}{one}{behind}" for one in whole)

        found = once(text, look)
    else:
        path = Path(text).expanduser()
        if path.is_file() or not set("*?[") & set(text):
            return [str(path)]
        found = sorted(map(str, Path(path.anchor).glob(str(path.relative_to(path.anchor)))))
    if not found:
        raise DataError(f"{WHERE}: {split}: nothing matches {text}.")
    return found
