"""The splits of `hub`: told by the names of files, by datasets' names, or chosen with `split=`."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segacc.errors import DataError, OptionError

WHERE = "--dataset hub"

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Words in the names of files and folders that tell the split, as `datasets` knows them."""

SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")
"""How the stem of a shard begins, as `push_to_hub` names it: `train-00000-of-00002`."""


def by_split(
    files: Sequence[Path], root: Path, what: str, *, by_file: bool = True
) -> dict[str, list[Path]]:
    """Group files by the split that their names or folders tell; `train` where none tells one.

    Args:
        files: in order.
        root: folders above it tell nothing.
        what: was typed.
        by_file: False where only folders tell.

    Raises:
        DataError: some files tell their split and others do not.
    """
    told = {file: _split_of(file.relative_to(root), by_file=by_file) for file in files}
    if not any(told.values()):
        return {"train": list(files)}
    if silent := [str(file.relative_to(root)) for file, split in told.items() if split is None]:
        raise DataError(
            f"{WHERE}: {what}: nothing in its name tells the split of {', '.join(silent[:4])}, as "
            "in train.parquet, val/0001.parquet or test-00000-of-00002.parquet. Rename or move it, "
            "or give a pattern without it."
        )
    names = dict.fromkeys(["train", "validation", "test", *sorted(filter(None, told.values()))])
    groups = {name: [file for file in files if told[file] == name] for name in names}
    return {name: group for name, group in groups.items() if group}


def _split_of(file: Path, *, by_file: bool) -> str | None:
    """Tell the split of a file under the root, by its name first, then by its folders'."""
    if by_file and (shard := SHARD.match(file.stem)):
        return usual(shard[1])
    stems = [file.stem] if by_file else []
    for part in (*stems, *reversed(file.parent.parts)):
        for word in re.split(r"[-._ 0-9]+", part.lower()):
            if word in WORDS:
                return WORDS[word]
    return None


def usual(name: str) -> str:
    """Return a split's name inside segacc: `val`, `valid` and `dev` are `validation`."""
    return "validation" if WORDS.get(name) == "validation" else name


def by_name(found: Any) -> dict[str, Callable[[], Any]]:
    """Name the splits of what `datasets` loaded: a DatasetDict, or one Dataset."""
    if not isinstance(found, dict):
        found = {str(found.split or "train").partition("[")[0]: found}
    named: dict[str, Any] = {}
    for name, data in found.items():
        taken = usual(name) in found or usual(name) in named
        named[name if taken else usual(name)] = data
    return {name: partial(_same, data) for name, data in named.items()}


def _same(data: Any) -> Any:
    return data


def choose(
    splits: Mapping[str, Callable[[], Any]], given: str | None
) -> tuple[dict[str, Any], int]:
    """Load all splits, or the one that `given` names, under the name of the whole.

    Args:
        splits: by name, what loads them.
        given: a name, or a slice as `datasets` reads it: `train[:50]`, `train[10%:20%]`.

    Returns:
        Them by name, and the row of the whole that a slice starts with.

    Raises:
        OptionError: `given` cannot be read, or names no split. DataError: the slice is empty.
    """
    import datasets

    if given is None:
        return {name: load() for name, load in splits.items()}, 0
    match = re.fullmatch(r"([^\[\]+]+)(\[[^\[\]]*\])?", given)
    if match is None:
        raise OptionError(_unreadable(given))
    name = match[1] if match[1] in splits else usual(match[1])
    if name not in splits:
        raise OptionError(
            f'{WHERE}: split={given}: there is no split "{match[1]}"; there is {", ".join(splits)}.'
        )
    data = splits[name]()
    if match[2] is None:
        return {name: data}, 0
    try:
        slices = datasets.ReadInstruction.from_spec(f"all{match[2]}").to_absolute(
            {"all": len(data)}
        )
    except ValueError:
        raise OptionError(_unreadable(given)) from None
    first, last = slices[0].from_, slices[0].to
    if first >= last:
        raise DataError(f"{WHERE}: split={given} is empty: {name} has {len(data)} samples.")
    return {name: data.select(range(first, last))}, first


def _unreadable(given: str) -> str:
    return (
        f"{WHERE}: cannot read split={given}. Right is one split, as in train, or a slice of it, "
        "as in train[:50], train[50:], train[-20:] or train[10%:20%]."
    )
