"""`shards`: WebDataset tars or parquet files, local or remote, read sequentially."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from segacc.contracts import MAX_BYTES
from segacc.data.samples import IMAGE_SUFFIXES, is_hidden
from segacc.errors import DataError, expand
from segacc.hookspecs import Dataset, DataSplits, Stream, hookimpl
from segacc.labels import read_names
from segacc.plugins.datasets.files import LABEL_SUFFIXES, names_beside, plain_map
from segacc.plugins.datasets.shard_files import (
    LostSamples,
    ShardReader,
    count_rows,
    file_system,
    is_far,
    name_of,
    once,
    picture_columns,
    suffix,
    tar_groups,
)

WHERE = "--dataset shards"
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
IMAGE_WORDS = ("image", "img", "picture", "photo", "rgb")
LABEL_WORDS = (
    *("label", "labels", "mask", "masks", "seg", "annotation", "annotations", "segmentation"),
    *("label_map", "labelmap", "semseg", "semantic", "segmentation_map", "segmentation_mask", "gt"),
)
LOSSLESS = tuple(suffix.lstrip(".") for suffix in LABEL_SUFFIXES)
PHOTOS = tuple(one.lstrip(".") for one in IMAGE_SUFFIXES if one not in LABEL_SUFFIXES)

Shards = str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ShardsOptions:
    """Options of shards."""

    train: Shards = ()
    """Training shards, .tar (WebDataset: KEY.jpg and KEY.png or KEY.seg.png one after the other) or
    .parquet: paths, globs, ranges such as `data/train-{000..146}.tar`, URLs (https://, s3://,
    anything supported by fsspec), or a list of these in brackets."""
    validation: Shards = ()
    """Shards of the validation split."""
    test: Shards = ()
    """Shards of the test split."""
    names: Path | None = None
    """Class names: a text file with one per line, or JSON; default: classes.json, id2label.json or
    classes.txt next to the first shard."""
    ignore: tuple[int, ...] = ()
    """Raw label ids to ignore, e.g. `ignore=11` or `ignore=0/11`; 255 is always ignored."""
    reduce_labels: bool | None = None
    """True: raw id 0 is ignored, raw id i is class i - 1 (ADE20K); default: as in classes.json."""
    image: str | None = None
    """Extension of image files in a tar, e.g. `jpg`, or the image column; default: detected from
    the first sample."""
    label: str | None = None
    """Extension of label files in a tar, e.g. `png` or `seg.png`, or the label column."""
    num_samples: Annotated[int, Ge(1)] | None = None
    """Number of training samples, required by --epochs; known for parquet files."""
    buffer: Annotated[int, Ge(1)] = 1000
    """Size of the shuffle buffer in undecoded training samples, over all workers."""
    max_bytes: Annotated[int, Ge(1)] = MAX_BYTES
    """Maximum size in bytes of the files of a sample, and of a cell; larger ones are refused before
    they are read."""


def build_shards(options: ShardsOptions) -> DataSplits:
    """List the shards and inspect the first one; the others are opened when they are read.

    Raises:
        DataError: no shards, mixed or unsupported formats, a missing local shard, no class names,
            or image and label of the first sample are ambiguous.
    """
    given = {"train": options.train, "validation": options.validation, "test": options.test}
    found = {split: shards_of(split, typed) for split, typed in given.items() if typed}
    if not found:
        raise DataError(
            f"{WHERE}: no shards given; use for example "
            "shards:train=data/train-{000..146}.tar,validation=data/val-000.tar,names=classes.txt."
        )
    kinds = Counter(suffix(shard) for shards in found.values() for shard in shards)
    if len(kinds) > 1:
        told = " and ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise DataError(f"{WHERE}: the shards are {told}; use a single format.")
    first = next(iter(found.values()))[0]
    path = names_of(options, first)
    fields = fields_of(first, options.max_bytes)
    image, label = roles(first, fields, options.image, options.label)
    labels = plain_map(read_names(path, label), options)
    splits = {
        split: stream(shards, image, label, options, split) for split, shards in found.items()
    }
    return DataSplits(splits, labels)


def stream(
    shards: Sequence[str], image: str, label: str, options: ShardsOptions, split: str
) -> Stream:
    """Create the stream of a split; parquet files are opened to count the samples."""
    from concurrent.futures import ThreadPoolExecutor

    count = options.num_samples if split == "train" else None
    if count is None and suffix(shards[0]) == ".parquet":
        with ThreadPoolExecutor(16) as pool:  # remote files respond slowly
            count = sum(pool.map(count_rows, shards))
    stems = {name_of(shard).stem for shard in shards}
    whole_names = len(stems) < len(shards)
    read = ShardReader(image, label, whole_names=whole_names, max_bytes=options.max_bytes)
    return Stream(
        shards=tuple(shards),
        read=read,
        num_samples=count,
        buffer=options.buffer,
        lost=LostSamples(image, label),
    )


def names_of(options: ShardsOptions, first: str) -> Path:
    """Return the given file of class names, or the one next to the first shard.

    Raises:
        DataError: there is none.
    """
    beside = None if is_far(first) else names_beside(Path(first).parent)
    path = options.names or beside
    if path is None:
        put = "" if is_far(first) else ", or put classes.txt next to the first shard"
        raise DataError(
            f"{WHERE}: no class names. Add names=FILE (a text file with one class name per line, "
            f"or JSON){put}."
        )
    return path


# --------------------------------------------------------------------------------- names of shards


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
            system, path = file_system(text)
            whole = (system.unstrip_protocol(one) for one in system.glob(path))
            return sorted(f"{before}{one}{behind}" for one in whole)

        found = once(text, look)
    else:
        path = expand(text, f"{WHERE}: {split}")
        if path.is_file() or not set("*?[") & set(text):
            return [str(path)]
        matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        found = sorted(str(one) for one in matches if not is_hidden(one.name))
    if not found:
        raise DataError(f"{WHERE}: {split}: nothing matches {text}.")
    return found


# ----------------------------------------------------------------------------- contents of shards


def fields_of(shard: str, max_bytes: int = MAX_BYTES) -> list[str]:
    """Return the fields of a tar's first sample, or the image columns of a parquet file.

    Raises:
        DataError: the shard is unreadable, or contains nothing suitable.
    """

    def look() -> list[str]:
        if suffix(shard) == ".parquet":
            return picture_columns(shard)
        first = next(tar_groups(shard, None, None, max_bytes), None)
        return [] if first is None else list(first[0][1])

    found = once(shard, look)
    if not found:
        what = "no column of encoded images" if suffix(shard) == ".parquet" else "no sample"
        raise DataError(f"{WHERE}: {shard} contains {what}.")
    return found


def roles(
    shard: str, fields: Sequence[str], image: str | None, label: str | None
) -> tuple[str, str]:
    """Return the fields of image and label.

    Args:
        shard: the shard that has these fields.
        fields: extensions in a tar, e.g. `jpg` and `seg.png`, or columns.
        image: as typed.
        label: as typed.

    Raises:
        DataError: a given field does not exist, or the fields are ambiguous.
    """
    holds = f"{shard} contains {', '.join(fields)}"
    for option, given in (("image", image), ("label", label)):
        if given is not None and given not in fields:
            raise DataError(f"{WHERE}: {option}={given}: {holds}.")
    rest = [field for field in fields if field != image]
    label = label or only(
        [field for field in rest if field.lower() in LABEL_WORDS],
        [field for field in rest if field.lower().split(".")[0] in LABEL_WORDS],
        [field for field in rest if field.lower().split(".")[-1] in LOSSLESS],
    )
    rest = [field for field in fields if field != label]
    image = image or only(
        [field for field in rest if field.lower() in IMAGE_WORDS],
        [field for field in rest if field.lower().split(".")[0] in IMAGE_WORDS],
        [field for field in rest if field.lower() in PHOTOS],
        [field for field in rest if field.lower().split(".")[-1] in (*PHOTOS, *LOSSLESS)],
        rest,
    )
    if image is None or label is None or image == label:
        files = Counter(field.rpartition(".")[0] for field in fields)
        merged = sum(count > 1 for count in files.values()) > 1  # e.g. 0.jpg, 0.png, 1.jpg, 1.png
        more = (
            " If these are several samples, rename their files: the key of a sample ends at the "
            "first dot of the name, so there must be no other dot."
        )
        raise DataError(
            f"{WHERE}: {holds}; image and label are ambiguous. Specify both, e.g. "
            f"image=jpg,label=seg.png.{more if merged else ''}"
        )
    return image, label


def only(*ways: list[str]) -> str | None:
    """Return the result of the first non-empty list if it has a single element."""
    found: list[str] = next(filter(None, ways), [])
    return found[0] if len(found) == 1 else None


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register shards."""
    return [
        Dataset(
            name="shards",
            summary="WebDataset tars or parquet files, local or remote, streamed",
            options=ShardsOptions,
            build=build_shards,
        )
    ]
