"""Finds local files and saved data sets for `hub`, and their splits."""

import glob
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from segacc.data.samples import is_hidden, is_inside
from segacc.data.splits import parsed_slice, read_each, slice_indices
from segacc.errors import DataError, OptionError, quoted
from segacc.plugins.datasets.bombs import refuse_bombs
from segacc.plugins.datasets.files import listing, names_beside

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Names of the table that pairs the files of an image folder in `datasets`."""

WHERE = "--dataset hub"

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Words in file and folder names that indicate the split, as in `datasets`."""

SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")
"""Start of the stem of a shard as named by `push_to_hub`: `train-00000-of-00002`."""


@dataclass(frozen=True)
class Loaded:
    """A data set whose columns are not yet known."""

    what: str
    """The option as typed: `path=FOLDER` or `id=USER/NAME`."""
    splits: Mapping[str, Callable[[], Any]]
    """By name, in the order of datasets: functions that return the datasets.Dataset."""
    find_names: Callable[[], Path | None]
    """Finds a file of class names next to the data."""
    roots: tuple[Path, ...] = field(default=())
    """Folders that relative paths in its rows may refer to."""


@contextmanager
def quiet_datasets(**more: Any) -> Iterator[None]:
    """Suppress progress bars, log messages and unnecessary requests of `datasets`.

    The requests are the download counter, which would delay local data, and the dataset viewer,
    which gives no additional information.

    Args:
        more: other values of `datasets.config`.
    """
    import datasets

    wanted = {"HF_UPDATE_DOWNLOAD_COUNTS": False, "USE_PARQUET_EXPORT": False, **more}
    kept = {name: getattr(datasets.config, name, None) for name in wanted}
    level, bars = datasets.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    free = datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is None  # not set by the user
    for name, value in wanted.items():
        setattr(datasets.config, name, value)
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if bars and free:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if bars and free:
            datasets.enable_progress_bars()
        datasets.logging.set_verbosity(level)
        for name, value in kept.items():
            setattr(datasets.config, name, value)


def read(what: str, call: Callable[[], Any]) -> Any:
    """Call a function of `datasets`.

    Raises:
        DataError: the call failed; the message includes its error.
    """
    try:
        return call()
    except Exception as error:  # its readers may raise anything
        if "scripts are no longer supported" in str(error):
            raise DataError(script_text(what, str(error).split()[-1])) from None
        raise DataError(f"{WHERE}: {what} cannot be loaded: {with_cure(error)}") from None


def with_cure(error: BaseException) -> str:
    """Describe an error in one line, with a hint to `config` if it is about configurations."""
    text = reason(error)
    return f"{text}." + (" Choose with config=NAME." if "config" in text.lower() else "")


def reason(error: BaseException) -> str:
    """Describe an error in one line; a mere wrapper is replaced by its cause."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split("\nExample")[0].split())
    if "corresponds to no data" in text:
        return "the files have no rows"
    return (text[:400] or type(error).__name__).rstrip(".")


def script_text(what: str, script: str) -> str:
    """Return the error for a data set with a loading script, with alternatives."""
    converted = "revision=refs/convert/parquet, if the Hub has converted it; "
    return (
        f"{WHERE}: {what} is a script ({script}), which datasets no longer runs since version 4. "
        f"Use instead: {converted if what.startswith('id=') else ''}a copy of it in parquet, from "
        "the Hub (id=USER/NAME) or on disk (path=FOLDER); the image and label files, with "
        "`--dataset folder:root=FOLDER`; for scene_parse_150, which is ADE20K, "
        "`--dataset ade20k:root=ADEChallengeData2016`."
    )


def from_path(path: Path, config: str | None) -> Loaded:
    """Open a folder, a parquet file, or the files that match a pattern.

    Args:
        path: as typed.
        config: configuration to choose in a folder whose README.md lists some.

    Raises:
        DataError: nothing is found, or nothing that can be read. OptionError: `config` is given,
            but there are no configurations.
    """
    what = f"path={path}"
    if path.is_dir():
        return from_folder(path, what, config)
    root, files = (path.parent, [path]) if path.is_file() else _matches(path)
    if not files:
        raise DataError(
            f"{WHERE}: {what} is not a folder, a file, or a pattern that matches files (looked at "
            f"{path.resolve()})."
        )
    if scripts := [file for file in files if file.suffix == ".py"]:
        raise DataError(script_text(what, scripts[0].name))
    if others := [file for file in files if file.suffix.lower() != ".parquet"]:
        raise DataError(
            f"{WHERE}: {what}: {others[0].name} is not a parquet file. Expected is a parquet file, "
            "a pattern such as data/*.parquet, or a folder."
        )
    _refuse_config(config, what)
    return _parquet(files, root, what)


def _matches(pattern: Path) -> tuple[Path, list[Path]]:
    """Return the folder before the first wildcard of a pattern, and the matching files, sorted."""
    fixed = list(takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    root, rest = Path(*fixed), pattern.parts[len(fixed) :]
    found = root.glob(str(Path(*rest))) if rest else ()
    return root, sorted(path for path in found if path.is_file() and not is_hidden(path.name))


def from_folder(folder: Path, what: str, config: str | None) -> Loaded:
    """Open a folder according to its contents; see `from_path`."""
    import datasets

    if _is_saved(folder):
        _refuse_config(config, what)
        saved = read(what, lambda: datasets.load_from_disk(str(folder)))
        return Loaded(what, by_name(saved), partial(names_beside, folder), (folder,))
    if _has_configs(folder):
        call = partial(datasets.load_dataset, str(folder.absolute()), config)
        return Loaded(what, by_name(read(what, call)), partial(names_beside, folder), (folder,))
    _refuse_config(config, what)
    if tables := _metadata(folder):
        groups = by_split(tables, folder, what, by_file=False)
        return _loaded("imagefolder", groups, folder, what)
    if files := _visible(folder, folder.rglob("*.parquet")):
        return _parquet(files, folder, what)
    if script := _script(folder):
        raise DataError(script_text(what, script.name))
    raise DataError(
        f"{WHERE}: {what} contains no parquet file, no metadata.jsonl (or .csv) that pairs images "
        f"and labels, and no data set written by save_to_disk; it contains {listing(folder)}. "
        f"Images and labels in separate folders are read by `--dataset folder:root={folder}`."
    )


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _has_configs(folder: Path) -> bool:
    """True if README.md lists the files of each split, as on the Hub."""
    from huggingface_hub import metadata_load

    try:
        card = metadata_load(folder / "README.md")
    except Exception:  # missing, or not in the Hub's format
        return False
    return bool(card and card.get("configs"))


def _refuse_config(config: str | None, what: str) -> None:
    if config is not None:
        raise OptionError(f"{WHERE}: config={config}: {what} has no configurations in README.md.")


def _metadata(folder: Path) -> list[Path]:
    """Return the metadata tables of an image folder and of its split folders."""
    patterns = [f"{above}{name}" for above in ("", "*/", "*/*/") for name in METADATA_FILES]
    return _visible(folder, (path for pattern in patterns for path in folder.glob(pattern)))


def _visible(folder: Path, found: Iterable[Path]) -> list[Path]:
    """Sort paths; hidden files and folders are excluded."""
    return sorted(
        path
        for path in found
        if path.is_file()
        and not any(is_hidden(part) or part[:2] == "__" for part in path.relative_to(folder).parts)
    )


def _script(folder: Path) -> Path | None:
    """Find a loading script, as used up to datasets 3."""
    mine = [folder / f"{folder.resolve().name}.py", *sorted(folder.glob("*.py"))]
    return next((file for file in mine if file.is_file() and _builds(file)), None)


def _builds(file: Path) -> bool:
    return "BasedBuilder" in file.read_text(encoding="utf-8", errors="replace")


def _parquet(files: Sequence[Path], root: Path, what: str) -> Loaded:
    return _loaded("parquet", by_split(files, root, what), root, what)


def _loaded(kind: str, groups: Mapping[str, list[Path]], root: Path, what: str) -> Loaded:
    """Prepare loading each split separately, since some may be unused or differ in columns.

    Args:
        kind: name of the reader in datasets.
        groups: files by split.
        root: the folder, or the parent of the files.
        what: the option as typed.
    """
    splits = {
        name: partial(read, what, partial(_read_files, kind, files))
        for name, files in groups.items()
    }
    parents = [file.parent for files in groups.values() for file in files]
    roots = tuple(dict.fromkeys([root, *parents]))
    return Loaded(what, splits, partial(names_beside, root), roots)


def _read_files(kind: str, files: Sequence[Path]) -> Any:
    import datasets

    refuse_bombs(files)
    names = [glob.escape(str(file.absolute())) for file in files]
    return datasets.load_dataset(kind, data_files=names, split="train")


def by_split(
    files: Sequence[Path], root: Path, what: str, *, by_file: bool = True
) -> dict[str, list[Path]]:
    """Group files by the split in their names or folders; `train` if none has one.

    Args:
        files: in order.
        root: parents above it are ignored.
        what: the option as typed.
        by_file: False to use only folder names.

    Raises:
        DataError: some files indicate a split and others do not.
    """
    told = {file: _split_of(file.relative_to(root), by_file=by_file) for file in files}
    if not any(told.values()):
        return {"train": list(files)}
    if silent := [str(file.relative_to(root)) for file, split in told.items() if split is None]:
        raise DataError(
            f"{WHERE}: {what}: the names do not indicate the split of {', '.join(silent[:4])}, "
            "unlike train.parquet, val/0001.parquet or test-00000-of-00002.parquet. Rename or move "
            "them, or give a pattern that excludes them."
        )
    names = dict.fromkeys(["train", "validation", "test", *sorted(filter(None, told.values()))])
    groups = {name: [file for file in files if told[file] == name] for name in names}
    return {name: group for name, group in groups.items() if group}


def _split_of(file: Path, *, by_file: bool) -> str | None:
    """Return the split of a file: from its name, or else from its folders below the root."""
    if by_file and (shard := SHARD.match(file.stem)):
        return usual(shard[1])
    stems = [file.stem] if by_file else []
    for part in (*stems, *reversed(file.parent.parts)):
        for word in re.split(r"[-._ 0-9]+", part.lower()):
            if word in WORDS:
                return WORDS[word]
    return None


def usual(name: str) -> str:
    """Return a split's name in segacc: `val`, `valid` and `dev` become `validation`."""
    return "validation" if WORDS.get(name) == "validation" else name


def by_name(found: Any) -> dict[str, Callable[[], Any]]:
    """Return the splits of a DatasetDict or Dataset by their names in segacc."""
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
) -> tuple[dict[str, Any], dict[str, DataError], int]:
    """Load all splits, or the given one under the name of the whole split.

    Args:
        splits: functions that load them, by name.
        given: a name, or a slice such as `train[:50]` or `train[10%:20%]`.

    Returns:
        The splits by name, the errors of those that cannot be loaded, and the row number at which
        a slice starts.

    Raises:
        OptionError: `given` is malformed, or not a split. DataError: no split can be loaded, or the
            slice is empty.
    """
    if given is None:
        return *read_each(splits), 0
    where = f"{WHERE}: split={given}"
    match = parsed_slice(given, f"{WHERE}: split")
    base = match["base"] if match else given
    name = base if base in splits else usual(base)
    if name not in splits:
        raise OptionError(f'{where}: there is no split "{base}"; there is {", ".join(splits)}.')
    data = splits[name]()
    if match is None:
        return {name: data}, {}, 0
    rows = slice_indices(match, len(data))
    if not rows:
        raise DataError(f"{where} is empty: {name} has {len(data)} samples.")
    return {name: data.select(rows)}, {}, rows.start


def file_in(roots: Sequence[Path], cell: str) -> Path:
    """Return the file that a cell names, relative to one of the folders or absolute.

    Raises:
        DataError: it is outside the folders.
    """
    paths = [root / cell for root in roots]
    paths = [path for path in paths if any(is_inside(root, path) for root in roots)]
    if paths:
        return next((path for path in paths if path.is_file()), paths[0])
    raise DataError(
        f"{WHERE}: a row refers to the file {quoted(cell)}, which is not read, because it is "
        f"outside {' and '.join(map(str, roots))}. Store the images in the table itself, or move "
        "the files there."
    )
