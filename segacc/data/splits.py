"""Splits by name, slices of splits, and holding out a validation split from the training split."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from segacc.data.samples import build_splits, ids_of
from segacc.errors import DataError, OptionError, count_of
from segacc.hookspecs import Chosen, DataSplits, Sample, Stream

T = TypeVar("T")
VALIDATION, ALSO = "validation", ("val", "valid", "dev")
"""The usual name of the validation split, and names that mean it unless a split has them."""
DRAW = 0x5641
"""Separates the random stream of `carve` from those of the epochs, which use the same seed."""

SplitsRead = tuple[dict[str, list[Sample]], dict[str, DataError]]
"""Samples by split, and the errors of the splits that cannot be read."""

_SLICE = re.compile(r"(?P<base>[^\[\]]+)\[(?P<first>-?\d+%?)?:(?P<last>-?\d+%?)?\]")


def read_each(
    readers: Mapping[str, Callable[[], T]],
) -> tuple[dict[str, T], dict[str, DataError]]:
    """Read each split; the error of one stops only a run that uses this split.

    Returns:
        What was read, and the errors of the other splits.

    Raises:
        DataError: none can be read; the error is that of the first.
    """
    found, unusable = dict[str, T](), dict[str, DataError]()
    for split, read in readers.items():
        try:
            found[split] = read()
        except DataError as error:
            unusable[split] = error
    if unusable and not found:
        raise next(iter(unusable.values()))
    return found, unusable


@dataclass(frozen=True)
class Part(Sequence[Sample]):
    """A subset of a split; samples are read on access."""

    samples: Sequence[Sample]
    indices: Sequence[int]
    """Indices into `samples`, in ascending order."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.indices)

    @property
    def ids(self) -> list[str]:
        """Return the samples' ids."""
        whole = ids_of(self.samples)
        return [whole[index] for index in self.indices]

    def __getitem__(self, index: Any) -> Any:
        """Return one Sample, or another Part for a slice."""
        if isinstance(index, slice):
            return Part(self.samples, self.indices[index])
        return self.samples[self.indices[index]]


def data_splits(
    dataset: Chosen,
    fraction: float | None,
    seed: int,
    *,
    scored: str,
    train: str = "train",
    where: str = "--val-fraction",
) -> tuple[DataSplits, tuple[str, ...]]:
    """Build a data set and, if `fraction` is given, hold out its validation split.

    Args:
        dataset: the chosen data set.
        fraction: see `carve`; None holds out nothing.
        seed: random seed of the run.
        scored: name of the evaluation split, which is created; see `split_name`.
        train: the split that its samples are taken from.
        where: origin of the fraction, for errors.

    Returns:
        The splits, and notes for the user.

    Raises:
        SegaccError: the data is missing, or nothing can be held out.
    """
    splits = build_splits(dataset)
    notes = (*filter(None, [dataset.note]), *splits.notes)
    if fraction is None:
        return splits, notes
    if (base := _base(scored)) in ALSO and base not in splits.splits:
        scored = scored.replace(base, VALIDATION, 1)
    carved = carve(splits, fraction, seed, train=train, validation=scored, where=where)
    line = carved_line(carved, fraction, seed, train=train, validation=scored)
    return carved, (*notes, line)


def pick_split(
    splits: DataSplits, name: str, where: str, *, hint: str = ""
) -> Sequence[Sample] | Stream:
    """Return a split, or a slice such as `train[:50]`, `train[-20:]` or `train[10%:20%]`.

    A slice never extends beyond its split; percentages are rounded to the nearest sample. So the
    parts `[:80%]` and `[80%:]`, or `[:50]` and `[50:]`, contain each sample exactly once. `hint` is
    appended to the error if the split does not exist or cannot be read.

    Raises:
        OptionError: the split does not exist, the slice is malformed, or the split is streamed and
            cannot be sliced. DataError: the split cannot be read, or it or the slice is empty.
    """
    name = split_name(splits, name)
    if name in splits.splits:
        whole = splits.splits[name]
        if not isinstance(whole, Stream) and not len(whole):
            raise DataError(f'{where}: the split "{name}" is empty.')
        return whole
    match = parsed_slice(name, where)
    base = match["base"] if match else name
    if base not in splits.splits and base in splits.unusable:
        raise DataError(f"{splits.unusable[base]}{hint}")
    if base not in splits.splits:
        raise OptionError(
            f'{where}: the data set has no split "{base}"; it has {", ".join(splits.splits)}.{hint}'
        )
    assert match is not None  # else the name would be the base
    whole = splits.splits[base]
    if isinstance(whole, Stream):
        raise OptionError(
            f'{where}: "{name}" is a slice of "{base}", which is streamed and cannot be '
            f"sliced; give the whole split, {base}."
        )
    indices = slice_indices(match, len(whole))
    if not indices:
        raise DataError(
            f'{where}: "{name}" is empty: the split has {count_of(len(whole), "sample")}.'
        )
    return Part(whole, indices)


def split_name(splits: DataSplits, name: str) -> str:
    """Return the name of a split or slice, where `val`, `valid` and `dev` may mean `validation`."""
    base, bracket, part = name.partition("[")
    known = {*splits.splits, *splits.unusable}
    if base in ALSO and base not in splits.splits and VALIDATION in known:
        return f"{VALIDATION}{bracket}{part}"
    return name


def unusable_lines(splits: DataSplits, names: Iterable[str]) -> list[str]:
    """Describe those of the splits `names` that cannot be read."""
    return [
        f"the data set's split {name} cannot be read: {splits.unusable[name]}"
        for name in names
        if name in splits.unusable
    ]


def parsed_slice(name: str, where: str) -> re.Match[str] | None:
    """Parse the slice in a name; None if there is no bracket."""
    match = _SLICE.fullmatch(name)
    if match is None:
        if "[" not in name:
            return None
        raise OptionError(
            f'{where}: cannot read "{name}". Slices are written train[:50], train[50:], '
            "train[-20:] or train[10%:20%]."
        )
    bounds = [text for text in (match["first"], match["last"]) if text]
    if len({text.endswith("%") for text in bounds}) > 1:
        raise OptionError(
            f'{where}: "{name}" counts one end in samples and the other in percent; use one unit.'
        )
    if any(text.endswith("%") and abs(int(text[:-1])) > 100 for text in bounds):
        raise OptionError(f'{where}: "{name}" is more than 100 % of the split.')
    return match


def slice_indices(match: re.Match[str], count: int) -> range:
    """Return the indices of a parsed slice in a split of `count` samples."""
    first = _bound(match["first"], count) if match["first"] else 0
    last = _bound(match["last"], count) if match["last"] else count
    return range(first, max(first, last))


def _bound(text: str, count: int) -> int:
    """Convert a bound to an index 0..count; a negative one counts from the end."""
    number = text.strip("-%")
    size = round(int(number) * count / 100) if text.endswith("%") else int(number)
    size = min(size, count)
    return count - size if text.startswith("-") else size


def chances_of(splits: DataSplits, name: str) -> Sequence[float] | None:
    """Return the sampling weights of a split or slice; None for uniform sampling.

    Args:
        splits: splits of the data set.
        name: as in `pick_split`, which must be called first.
    """
    name = split_name(splits, name)
    if name in splits.splits:
        return splits.chances.get(name)
    match = _SLICE.fullmatch(name)
    whole = splits.chances.get(match["base"]) if match else None
    if match is None or whole is None:
        return None
    return _taken(whole, slice_indices(match, len(whole)))


def carve(
    splits: DataSplits,
    fraction: float,
    seed: int,
    *,
    train: str,
    validation: str,
    where: str,
) -> DataSplits:
    """Hold out a random fraction of the training split as the missing validation split.

    The choice depends only on the number of samples, the fraction and the seed. Both parts keep the
    order of the split, and its sampling weights.

    Args:
        splits: splits of the data set.
        fraction: in (0, 1); rounded to the nearest sample, half a sample up; both parts get at
            least one sample.
        seed: random seed of the run.
        train: the split or slice to divide, such as `train[:50]`. Under this name the result has
            the remaining samples; the split that a slice belongs to is removed.
        validation: the missing split, or a slice of it.
        where: origin of the fraction, for errors.

    Raises:
        OptionError: the validation split exists, the training split does not, or it is streamed.
            DataError: it is empty or has one sample.
    """
    import numpy as np

    scored = _base(validation)
    whole = _carvable(splits, train, scored, where)
    share = min(max(math.floor(fraction * len(whole) + 0.5), 1), len(whole) - 1)
    order = np.random.default_rng((seed, DRAW)).permutation(len(whole)).tolist()
    indices = {train: sorted(order[share:]), scored: sorted(order[:share])}
    others = [name for name in splits.splits if name not in (train, _base(train))]
    parts: dict[str, Sequence[Sample] | Stream] = {
        name: Part(whole, tuple(some)) for name, some in indices.items()
    }
    chances = {name: splits.chances[name] for name in others if name in splits.chances}
    weights = chances_of(splits, train)
    if weights is not None:
        chances |= {name: _taken(weights, some) for name, some in indices.items()}
    parts |= {name: splits.splits[name] for name in others}
    return replace(splits, splits=parts, chances=chances)


def _carvable(splits: DataSplits, train: str, scored: str, where: str) -> Sequence[Sample]:
    if scored in splits.splits:
        raise OptionError(
            f'{where}: the data set has a split "{scored}", so none can be held out from '
            f'"{train}"; leave out the fraction.'
        )
    whole = pick_split(splits, train, where)
    if isinstance(whole, Stream):
        raise OptionError(
            f'{where}: the split "{train}" is streamed, so no fraction of it can be held out; '
            "choose a validation split of the data set."
        )
    if len(whole) < 2:
        raise DataError(f'{where}: the split "{train}" has one sample, which cannot be divided.')
    return whole


def carved_line(
    carved: DataSplits, fraction: float, seed: int, *, train: str, validation: str
) -> str:
    """Describe what `carve` did; the arguments are the same, `carved` is its result."""
    scored = _base(validation)
    left, share = carved.splits[train], carved.splits[scored]
    assert not isinstance(left, Stream) and not isinstance(share, Stream)
    whole = count_of(len(share) + len(left), "sample")
    return (
        f"held out {len(share)} of {whole} of {train} as {scored} "
        f"(--val-fraction {fraction:g}, seed {seed})"
    )


def _base(name: str) -> str:
    """Return the split that a slice belongs to; a plain name is returned unchanged."""
    match = _SLICE.fullmatch(name)
    return match["base"] if match else name


def _taken(values: Sequence[float], indices: Iterable[int]) -> list[float]:
    return [values[index] for index in indices]
