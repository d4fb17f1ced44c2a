"""Sequences of samples: their files and ids, a digest of them, and reading a shard."""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from segacc.contracts import Reading
from segacc.errors import DataError, OptionError, Origin, PluginError, SegaccError, count_of
from segacc.hookspecs import Chosen, DatasetOptions, DataSplits, Sample, Stream
from segacc.labels import LabelMap, edit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
IMAGE_SUFFIXES = (
    *(*JPEG_SUFFIXES, ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".jp2", ".j2k"),
    *(".avif", ".pgm", ".ppm", ".pbm", ".pnm", ".tga"),
)
"""Lower-case file endings of images that are read."""
OTHER_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".jls", ".exr", ".hdr", ".pfm", ".psd", ".xcf"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".dcm"),
    *(".mpo", ".apng", ".jpx", ".jpf", ".j2c", ".jpc", ".pcx", ".sgi", ".ras", ".qoi", ".dds"),
    *(".fits", ".svg", ".eps"),
)
"""Lower-case file endings of other image formats, which are not read."""

SYSTEM_NAMES = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
"""Lower-case names of files and folders that Windows, macOS and Synology's disks create."""


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return up to `count` of the indices 0..total-1, evenly spaced."""
    count = min(total, count)
    return [turn * total // count for turn in range(count)]


def ids_of(samples: Sequence[Sample]) -> Sequence[str]:
    """Return the ids of a split, without reading its samples if it has `ids`."""
    known: Sequence[str] | None = getattr(samples, "ids", None)
    return [samples[k].id for k in range(len(samples))] if known is None else known


def digest(ids: Sequence[str], chances: "ArrayLike | None" = None) -> str:
    """Return a hash of 12 hexadecimal digits of the ids in order and the sampling weights.

    Weights are rounded to 32 bits, because processors may differ in the last bits of the 64-bit
    weights of rare-class sampling.
    """
    import numpy as np

    found = blake2b(json.dumps(list(ids)).encode(), digest_size=6)
    if chances is not None:
        found.update(np.asarray(chances, "<f4").tobytes())
    return found.hexdigest()


def read_shard(stream: Stream, shard: str, position: Any = None) -> Iterator[tuple[Sample, Any]]:
    """Yield the samples of a shard from a position on, as `Stream.read` does.

    Raises:
        DataError: `read` raised another exception, such as a lost connection. A process that
            exits with it alone would leave the others waiting; a SegaccError stops them all.
    """
    try:
        yield from stream.read(shard, position)
    except SegaccError:
        raise
    except Exception as error:
        why = " ".join(f"{type(error).__name__} {error}".split()).rstrip(".")
        raise DataError(f"{shard}: the shard cannot be read: {why}.") from error


def samples_of(split: Sequence[Sample] | Stream) -> Iterator[Sample]:
    """Yield the samples of a split in order.

    Raises:
        SegaccError: a shard cannot be read.
    """
    if not isinstance(split, Stream):
        yield from split
        return
    for shard in split.shards:
        yield from (sample for sample, _ in read_shard(split, shard))


def length_of(split: Sized | Stream) -> int | None:
    """Return the number of samples of a split; None if it is not known."""
    return split.num_samples if isinstance(split, Stream) else len(split)


# --------------------------------------------------------------------- how images are interpreted
@runtime_checkable
class Indexed(Protocol):
    """What a split needs if it is not a Stream: a length, and samples by index."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> Any:
        """Return a sample."""


@dataclass(frozen=True)
class ReadAs(Sequence[Sample]):
    """Samples that are made on access, with the options of every data set applied to them."""

    samples: Sequence[Sample]
    common: DatasetOptions
    origin: Origin

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    @property
    def ids(self) -> Sequence[str]:
        """Return the samples' ids."""
        with self.origin.doing("listing the ids of its samples"):
            return ids_of(self.samples)

    def __getitem__(self, index: Any) -> Any:
        """Return one Sample, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[k] for k in range(len(self))[index]]
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # which ends a loop over the samples
        with self.origin.doing(f"reading sample {index}"):
            return meant(self.samples[index], self.common)


@dataclass(frozen=True)
class ReadStream:
    """The `read` of a stream with the options of every data set applied to its samples."""

    stream: Stream
    common: DatasetOptions
    origin: Origin | None
    """The data set of a plugin, which is to blame for what `read` raises; None for a built-in one,
    which raises what the storage does."""

    def __call__(self, shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
        """Yield the stream's samples with the options applied."""
        step = f"reading shard {shard}"
        with self.origin.doing(step) if self.origin else nullcontext():
            for sample, behind in self.stream.read(shard, position):
                yield meant(sample, self.common), behind


def meant(sample: Sample, common: DatasetOptions) -> Sample:
    """Apply a Reading to a sample; values that the sample already has are kept.

    Raises:
        TypeError: it is not a Sample.
        OptionError: the label map is edited, and the sample has another one.
    """
    if not isinstance(sample, Sample):
        raise TypeError(f"expected a segacc.Sample, found {type(sample).__name__}")
    if common == DatasetOptions():
        return sample
    if common.map is not None and sample.labels is not None:
        raise OptionError(
            f"map: sample {sample.id} has a label map of its own, to which the edits of the data "
            "set's label map do not apply. Leave out map."
        )
    own = {k: v for k, v in asdict(sample.reading).items() if v != getattr(Reading, k)}
    return replace(sample, reading=replace(common.reading, **own))


def build_splits(dataset: Chosen) -> DataSplits:
    """Build a data set, after the data sets that it is made of.

    Raises:
        DataError: the data is missing or invalid. OptionError: `map` does not fit the classes.
    """
    parts = () if dataset.record.parts is None else (tuple(map(build_splits, dataset.parts)),)
    data: DataSplits = dataset.build(*parts)
    origin = dataset.origin
    origin.expect(data, DataSplits, "segacc.DataSplits")
    origin.expect(data.splits, Mapping, "a mapping as its splits")
    origin.expect(data.labels, LabelMap, "a segacc.LabelMap as its labels")
    edits, root = dataset.common.map, getattr(dataset.options, "root", None)
    if isinstance(edits, Path) and isinstance(root, Path):
        edits = in_root(root, edits)
    labels = edit(data.labels, edits, f"--dataset {dataset.name}: map")
    for name, some in data.splits.items():
        what = f'a sequence of segacc.Sample, or a segacc.Stream, as its split "{name}"'
        origin.expect(some, Indexed | Stream, what)
        if (chances := data.chances.get(name)) is not None:
            _refuse_chances(chances, some, f'{origin}: the chances of its split "{name}"')
    made = {id(some): _with_options(some, dataset) for some in data.splits.values()}
    splits = {name: made[id(some)] for name, some in data.splits.items()}
    return replace(data, splits=splits, labels=labels)


def _refuse_chances(chances: "ArrayLike", some: Sequence[Sample] | Stream, what: str) -> None:
    """Refuse sampling weights that are not one for each sample, at least 0 and not all 0.

    Raises:
        PluginError: they are not.
    """
    import numpy as np

    found, count = np.asarray(chances), None if isinstance(some, Stream) else len(some)
    if found.shape != (count,):
        raise PluginError(f"{what} have the shape {found.shape}; expected one for each sample.")
    if not np.isfinite(found).all() or (found < 0).any() or (count and not found.sum() > 0):
        raise PluginError(f"{what} must be finite numbers of at least 0, and not all 0.")


def _with_options(some: Sequence[Sample] | Stream, dataset: Chosen) -> Sequence[Sample] | Stream:
    """Apply the options of every data set to the samples of a split, and check their type."""
    common, origin = dataset.common, dataset.origin
    plain = common == DatasetOptions()
    if isinstance(some, Stream):
        own = None if dataset.distribution == "segacc" else origin
        return some if plain and own is None else replace(some, read=ReadStream(some, common, own))
    if type(some) in (list, tuple):
        with origin.doing("build"):
            read = [meant(sample, common) for sample in some]
        return some if plain else read
    return ReadAs(some, common, origin)


def is_inside(root: Path, path: str | Path) -> bool:
    """Return whether a path is inside a folder; symbolic links are not resolved."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))  # noqa: PTH100


def in_root(root: Path, path: Path) -> Path:
    """Return a path as typed, or relative to `root` if only that exists."""
    return root / path if not path.exists() and (root / path).exists() else path


# ------------------------------------------------------------------------- files that are not read
def is_hidden(name: str) -> bool:
    """True for hidden files and folders, and for those that systems put beside a user's."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_image(path: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> bool:
    """True if the file ending is that of an image; files like macOS's `._NAME.jpg` are excluded."""
    return path.suffix.lower() in suffixes and not is_hidden(path.name)


def folders_inside(folder: Path, but: Iterable[Path] = ()) -> list[tuple[Path, list[Path]]]:
    """Return the folders below a folder, at any depth, that contain images, with their images.

    Args:
        folder: not listed itself; hidden folders are skipped.
        but: folders that are skipped too.
    """
    found, closed = [], {path.resolve() for path in but}
    for name, folders, files in os.walk(folder):
        here = Path(name)
        folders[:] = sorted(
            one for one in folders if not is_hidden(one) and (here / one).resolve() not in closed
        )
        images = sorted(filter(is_image, map(here.joinpath, files)))
        if here != folder and images:
            found.append((here, images))
    return found


def other_endings(folders: Iterable[Path]) -> list[str]:
    """Return a warning about files in these folders that are images of an unsupported format."""
    listed = (path for folder in folders for path in sorted(folder.iterdir()))
    if not (others := [path for path in listed if is_image(path, OTHER_SUFFIXES)]):
        return []
    counts = Counter(path.suffix.lower() for path in others)
    told = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
    are = "file is" if len(others) == 1 else "files are"
    return [
        f"{len(others)} {are} skipped, such as {others[0]}: images with these endings are not read "
        f"({told}). Save them as PNG or in another supported format: "
        f"{', '.join(IMAGE_SUFFIXES)}."
    ]


def passed_over(splits: Iterable[Sequence[Sample] | Stream]) -> list[str]:
    """Return warnings about images next to or below those of the splits that are not read.

    Args:
        splits: all splits of a data set: a folder that one of them uses is not reported.
    """
    images, used = dict[Path, None](), set[Path]()
    for samples in splits:
        for sample in () if isinstance(samples, Stream) else samples:
            if not isinstance(sample.image, Path):
                break  # a split has either paths or encoded images
            images[sample.image.parent] = None
            used.add(sample.image.parent)
            if isinstance(sample.label, Path):
                used.add(sample.label.parent)
    folders = [folder for folder in images if folder.is_dir()]
    roots = [folder for folder in folders if not used.intersection(folder.parents)]
    taken = {one.resolve() for folder in used for one in (folder, *folder.parents)}
    below = [row for folder in roots for row in folders_inside(folder, but=used)]
    below = [row for row in below if row[0].resolve() not in taken]
    lines = other_endings(folders)
    if below:
        count = sum(len(files) for _, files in below)
        lines.append(
            f"skipped: {count_of(len(below), 'subfolder')} of the image folders, such as "
            f"{below[0][0]}, with {count_of(count, 'image')}. Move the images up, or list the "
            "files in a text file."
        )
    return lines


def lost_samples(name: str, stream: Stream, seconds: float = math.inf) -> list[str]:
    """Return a warning if a stream loses samples because of their file names.

    Args:
        name: name of the split.
        stream: only its local shards are checked.
        seconds: time after which no further shard is checked.
    """
    if stream.lost is None:
        return []
    shards, lost, until = list[str](), list[tuple[str, str]](), time.monotonic() + seconds
    for shard in (one for one in stream.shards if Path(one).is_file()):
        if shards and time.monotonic() > until:
            break
        shards.append(shard)
        lost += [(shard, file) for file in stream.lost(shard)]
    if not lost:
        return []
    shard, file = lost[0]
    return [
        f"{name}: {count_of(len(lost), 'sample')} lost in {count_of(len(shards), 'shard')} "
        f"checked, such as {file} in {shard}: the key of a sample ends at the first dot of the "
        "file name, and the rest of this name is not a known extension. Rewrite the tars without "
        "other dots in the names."
    ]
