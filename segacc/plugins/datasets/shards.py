"""`shards`: WebDataset tars or parquet files, on disk or far away, read from front to back."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from segacc.data.samples import IMAGE_SUFFIXES
from segacc.errors import DataError
from segacc.hookspecs import Dataset, DataSplits, Stream, hookimpl
from segacc.labels import LabelMap, edit, read_names
from segacc.plugins.datasets.files import LABEL_SUFFIXES
from segacc.plugins.datasets.shard_access import is_far
from segacc.plugins.datasets.shard_names import WHERE, name_of, shards_of, suffix

NAMES_FILES = ("classes.json", "id2label.json", "classes.txt")
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
    """Shards that end in .tar (WebDataset: KEY.jpg and KEY.png or KEY.seg.png one after the other)
    or .parquet: paths, globs, ranges as in `data/train-{000..146}.tar`, addresses (https://,
    s3://, whatever fsspec knows), or a list of these in brackets."""
    validation: Shards = ()
    """Those of the validation split."""
    test: Shards = ()
    """Those of the test split."""
    names: Path | None = None
    """Class names: a text file with one a line, or JSON; default: classes.json, id2label.json or
    classes.txt beside the first shard."""
    ignore: tuple[int, ...] = ()
    """Raw label ids that count for nothing, as in `ignore=11` or `ignore=0/11`; 255 always does."""
    reduce_labels: bool | None = None
    """True: raw id 0 is ignored, raw id i is class i - 1 (ADE20K); default: classes.json's."""
    map: Path | dict[str, Any] | None = None
    """Edits of the label map: a YAML file or mapping, see docs/data.md."""
    image: str | None = None
    """What follows a key in the name of an image in a tar, as `jpg`; or the column. Default: found
    in the first sample."""
    label: str | None = None
    """Likewise of a label, as `png` or `seg.png`."""
    num_samples: Annotated[int, Ge(1)] | None = None
    """Samples of the training split, which --epochs needs; parquet files tell it themselves."""
    buffer: Annotated[int, Ge(1)] = 1000
    """Undecoded training samples that are shuffled among each other, over all workers."""


def build_shards(options: ShardsOptions) -> DataSplits:
    """List the shards and look into the first one; all others are opened when it is their turn.

    Raises:
        DataError: no shards, shards of another kind, one on disk is missing, no class names, or the
            first sample does not tell image from label.
    """
    given = {"train": options.train, "validation": options.validation, "test": options.test}
    found = {split: shards_of(split, typed) for split, typed in given.items() if typed}
    if not found:
        raise DataError(
            f"{WHERE}: no shards; say where they are, as in "
            "shards:train=data/train-{000..146}.tar,validation=data/val-000.tar,names=classes.txt."
        )
    kinds = Counter(suffix(shard) for shards in found.values() for shard in shards)
    if len(kinds) > 1:
        told = " and ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise DataError(f"{WHERE}: the shards are {told}; give all of one kind.")
    first = next(iter(found.values()))[0]
    path = names_of(options, first)
    image, label = roles(first, fields_of(first), options.image, options.label)
    labels = label_map(options, path, label)
    splits = {
        split: stream(shards, image, label, options, split) for split, shards in found.items()
    }
    return DataSplits(splits, labels)


def stream(
    shards: Sequence[str], image: str, label: str, options: ShardsOptions, split: str
) -> Stream:
    """Describe a split; parquet files are asked how many samples they hold."""
    from concurrent.futures import ThreadPoolExecutor

    from segacc.plugins.datasets.shard_files import LostSamples, ShardReader

    count = options.num_samples if split == "train" else None
    if count is None and suffix(shards[0]) == ".parquet":
        with ThreadPoolExecutor(16) as pool:  # an address takes its time to answer
            count = sum(pool.map(num_rows, shards))
    stems = {name_of(shard).stem for shard in shards}
    read = ShardReader(image, label, whole_names=len(stems) < len(shards))
    return Stream(
        shards=tuple(shards),
        read=read,
        num_samples=count,
        buffer=options.buffer,
        lost=LostSamples(image, label),
    )


def names_of(options: ShardsOptions, first: str) -> Path:
    """Return the file of class names, the one beside the first shard where none was given.

    Raises:
        DataError: there is none.
    """
    folder = Path(first).parent
    beside = [] if is_far(first) else [folder / name for name in NAMES_FILES]
    path = options.names.expanduser() if options.names else None
    path = path or next((place for place in beside if place.is_file()), None)
    if path is None:
        put = "" if is_far(first) else ", or put classes.txt beside the first shard"
        raise DataError(
            f"{WHERE}: no class names. Add names=FILE (a text file with one class name a line, or "
            f"JSON){put}."
        )
    return path


def label_map(options: ShardsOptions, path: Path, label: str) -> LabelMap:
    """Read the class names of a field or column of labels.

    Raises:
        DataError: they cannot be read. OptionError: see `edit`.
    """
    told = read_names(path, label)
    reduce_labels = told.reduce_labels if options.reduce_labels is None else options.reduce_labels
    ignore = (*told.ignored, *options.ignore)
    labels = LabelMap.plain(
        told.names, ignore=ignore, reduce_labels=reduce_labels, palette=told.palette
    )
    return edit(labels, options.map, f"{WHERE}: map")


# -------------------------------------------------------------------------------- what they hold


def fields_of(shard: str) -> list[str]:
    """List the files of a tar's first sample, or the columns of pictures of a parquet file.

    Raises:
        DataError: it cannot be read, or holds nothing of the kind.
    """
    from segacc.plugins.datasets.shard_access import once
    from segacc.plugins.datasets.shard_files import picture_columns, tar_groups

    def look() -> list[str]:
        if suffix(shard) == ".parquet":
            return picture_columns(shard)
        first = next(tar_groups(shard, None, None), None)
        return [] if first is None else list(first[0][1])

    found = once(shard, look)
    if not found:
        what = "no column of encoded pictures" if suffix(shard) == ".parquet" else "no sample"
        raise DataError(f"{WHERE}: {shard} holds {what}.")
    return found


def num_rows(shard: str) -> int:
    """Count the rows of a parquet file by its footer."""
    from segacc.plugins.datasets.shard_access import once
    from segacc.plugins.datasets.shard_files import count_rows

    return once(shard, lambda: count_rows(shard))


def roles(
    shard: str, fields: Sequence[str], image: str | None, label: str | None
) -> tuple[str, str]:
    """Tell which field is the image and which the label.

    Args:
        shard: that they were found in.
        fields: what follows the key in a tar, as `jpg` and `seg.png`; or columns.
        image: as it was typed.
        label: as it was typed.

    Raises:
        DataError: what was typed is not there, or it is not clear which is which.
    """
    holds = f"{shard} holds {', '.join(fields)}"
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
        merged = sum(count > 1 for count in files.values()) > 1  # as 0.jpg, 0.png, 1.jpg, 1.png
        more = (
            " If these are several samples, name their files anew: the key of a sample ends at the "
            "first dot of the name, so no other dot may be in it."
        )
        raise DataError(
            f"{WHERE}: {holds}, which does not tell image from label. Say which is which, as in "
            f"image=jpg,label=seg.png.{more if merged else ''}"
        )
    return image, label


def only(*ways: list[str]) -> str | None:
    """Return what the first way that finds something finds, if that is one thing."""
    found: list[str] = next(filter(None, ways), [])
    return found[0] if len(found) == 1 else None


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register shards."""
    return [
        Dataset(
            name="shards",
            summary="WebDataset tars or parquet files, local or far away, streamed",
            options=ShardsOptions,
            build=build_shards,
        )
    ]
