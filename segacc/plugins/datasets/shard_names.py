"""Which shards `shards` is given: ranges, globs and addresses, written out and checked."""

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
    """Return the path of a shard, without the host and the query of an address."""
    if not is_far(shard):
        return PurePosixPath(shard)
    # Of a chain, as zip://a.tar::https://..., the first link that has a path.
    return PurePosixPath(urlsplit(next(link for link in shard.split("::") if is_far(link))).path)


def suffix(shard: str) -> str:
    """Return `.tar`, `.parquet` or what else a shard ends in."""
    return name_of(shard).suffix.lower()


def shards_of(split: str, typed: str | Sequence[str]) -> list[str]:
    """Write out ranges and globs.

    Raises:
        DataError: nothing matches, one on disk is missing, or one is of no known kind.
    """
    given = (typed,) if isinstance(typed, str) else typed
    found = [shard for text in given for one in braces(text) for shard in globbed(split, one)]
    for shard in found:
        if suffix(shard) not in (".tar", ".parquet"):
            wild = is_far(shard) and "?" in shard
            raise DataError(
                f"{WHERE}: {split}: {shard} is no shard of a known kind; right are .tar (not "
                "compressed) and .parquet, as in data/*.tar."
                + (" In an address ? starts a query; write [0-9] or *." if wild else "")
            )
    missing = [shard for shard in found if not is_far(shard) and not Path(shard).is_file()]
    if missing:
        more = f" ({len(missing)} of {len(found)} shards are missing)" if len(found) > 1 else ""
        raise DataError(f"{WHERE}: {split}: there is no file {missing[0]}{more}.")
    if twice := [shard for shard, count in Counter(found).items() if count > 1]:
        raise DataError(f"{WHERE}: {split}: {twice[0]} is given twice.")
    return found


def braces(text: str) -> list[str]:
    """Write out `{000..010}` and `{a,b}`, as a shell does."""
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
    """List in order what a path or address with `*`, `?` or `[...]` matches.

    Raises:
        DataError: nothing, or the place cannot be listed.
    """
    if is_far(text):
        if not set("*[") & set(text):  # a question mark starts a query
            return [text]

        def look() -> list[str]:
            links = text.split("::")  # a chain, as simplecache::https://...
            place = next(k for k, link in enumerate(links) if set("*[") & set(link))
            before = "".join(f"{link}::" for link in links[:place])
            behind = "".join(f"::{link}" for link in links[place + 1 :])
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
