"""Makes streams and shards for tests, and serves shards over HTTP."""

import io
import tarfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from data_tools import random_sample
from segacc.errors import DataError
from segacc.hookspecs import Sample, Stream


@dataclass(frozen=True)
class FromLists:
    """What `Stream.read` is, over samples in memory; a position counts them."""

    samples: Mapping[str, Sequence[Sample]]
    broken: Mapping[str, int] = field(default_factory=dict)
    """Shards that cannot be read from some sample on."""

    def __call__(self, shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
        for number, sample in enumerate(self.samples[shard]):
            if number == self.broken.get(shard):
                raise DataError(f"{shard}: the shard cannot be read.")
            if number >= (position or 0):
                yield sample, number + 1


def small_stream(*counts: int, buffer: int = 6, **more: Any) -> Stream:
    """Make a stream of shards a, b, ... with so many samples of 8x8 pixels: a0, a1, ..., b0, ..."""
    names = "abcdefghijkl"[: len(counts)]
    samples = {
        name: [random_sample(k, size=(8, 8), where=name) for k in range(count)]
        for name, count in zip(names, counts, strict=True)
    }
    return Stream(shards=tuple(names), read=FromLists(samples, **more), buffer=buffer)


class Counted:
    """What `Stream.read` is, over samples that are made when they are read and counted alive."""

    def __init__(self, count: int) -> None:
        self.count, self.alive, self.most, self.made = count, 0, 0, 0
        self.sample = random_sample(0, size=(8, 8))

    def __call__(self, shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
        for number in range(position or 0, self.count):
            sample = Sample(self.sample.image, self.sample.label, f"{shard}{number}")
            weakref.finalize(sample, self._gone)
            self.made += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
            yield sample, number + 1

    def _gone(self) -> None:
        self.alive -= 1


def write_tar(path: Path, members: Mapping[str, bytes], format: int = tarfile.USTAR_FORMAT) -> Path:
    """Write a tar of files by name."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_samples(path: Path, samples: Sequence[Sample], **more: Any) -> Path:
    """Write a tar of KEY.jpg and KEY.seg.png, the keys the ids; the pictures are what they are."""
    members = {}
    for sample in samples:
        members[f"{sample.id}.jpg"] = content(sample.image)
        members[f"{sample.id}.seg.png"] = content(sample.label)
    return write_tar(path, members, **more)


def write_parquet(path: Path, samples: Sequence[Sample], *, group: int = 100) -> Path:
    """Write a parquet file of columns `image` and `label`, as `datasets` has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "image": {"bytes": content(sample.image), "path": f"{sample.id}.jpg"},
            "label": {"bytes": content(sample.label), "path": f"{sample.id}.png"},
            "scene": sample.id,
        }
        for sample in samples
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def content(source: bytes | Path) -> bytes:
    """Return an encoded picture."""
    return source if isinstance(source, bytes) else source.read_bytes()


class Plain(SimpleHTTPRequestHandler):
    """Python's own file server, which knows no ranges; it notes what it is asked for."""

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))  # type: ignore[attr-defined]
        super().do_GET()


class Ranges(Plain):
    """A file server that knows ranges, and breaks off its first answers where it is told to."""

    def do_GET(self) -> None:
        server: Any = self.server
        asked = self.headers.get("Range")
        server.asked.append((self.path, asked))
        body = Path(self.translate_path(self.path)).read_bytes()
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        part = body[int(first) : int(last) + 1 if last else len(body)]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}")
        self.end_headers()
        cut = server.breaks.pop(0) if server.breaks else len(part)
        self.wfile.write(part[:cut])
        self.close_connection = True


@contextmanager
def serving(
    folder: Path, handler: type[Plain] = Plain, breaks: Sequence[int] = ()
) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Serve a folder; give its address, and what was asked for so far: (path, range).

    Args:
        folder: is served.
        handler: knows ranges or not.
        breaks: after how many bytes each of the first answers breaks off.
    """
    server: Any = ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *given: handler(*given, directory=str(folder))
    )
    server.daemon_threads, server.asked, server.breaks = True, [], list(breaks)
    server.handle_error = lambda *given: None  # of a client that has read enough
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
