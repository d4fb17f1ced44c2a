"""Splits by name, slices of them, and a validation split carved out of the training split."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segacc.data.samples import build_splits, ids_of
from segacc.errors import DataError, OptionError
from segacc.hookspecs import Chosen, DataSplits, Sample, Stream

DRAW = 0x5641
"""Keeps the draw of `carve` apart from those of the epochs, which the same seed decides."""

_SLICE = re.compile(r"(?P<base>[^\[\]]+)\[(?P<first>-?\d+%?)?:(?P<last>-?\d+%?)?\]")


@dataclass(frozen=True)
class Part(Sequence[Sample]):
    """Some samples of a split; each is read when it is asked for."""

    samples: Sequence[Sample]
    places: Sequence[int]
    """Indices into `samples`, in ascending order."""

    def __len__(self) -> int:
        """Count the samples of the part."""
        return len(self.places)

    @property
    def ids(self) -> list[str]:
        """List the samples' ids."""
        whole = ids_of(self.samples)
        return [whole[place] for place in self.places]

    def __getitem__(self, index: Any) -> Any:
        """Return one Sample, or for a slice another Part."""
        if isinstance(index, slice):
            return Part(self.samples, self.places[index])
        return self.samples[self.places[index]]


def data_splits(
    dataset: Chosen,
    fraction: float | None,
    seed: int,
    *,
    scored: str,
    train: str = "train",
    where: str = "--val-fraction",
) -> tuple[DataSplits, tuple[str, ...]]:
    """Build a data set and, where `fraction` is given, carve its validation split.

    Args:
        dataset: as it was named.
        fraction: see `carve`; None carves nothing.
        seed: of the run.
        scored: the split that is scored, which is carved.
        train: the split that it is carved out of.
        where: the fraction was typed.

    Returns:
        The splits, and what the user is told of them.

    Raises:
        SegaccError: the data is not there, or nothing can be carved.
    """
    splits = build_splits(dataset)
    if fraction is None:
        return splits, ()
    carved = carve(splits, fraction, seed, train=train, validation=scored, where=where)
    return carved, (carved_line(carved, fraction, seed, train=train, validation=scored),)


def pick_split(
    splits: DataSplits, name: str, where: str, *, hint: str = ""
) -> Sequence[Sample] | Stream:
    """Return a split, or a slice as in `train[:50]`, `train[-20:]` and `train[10%:20%]`.

    A slice ends where its split ends; percentages are rounded to the nearest sample. So the parts
    `[:80%]` and `[80%:]`, or `[:50]` and `[50:]`, are the whole, each sample once. `hint` is told
    where there is no such split.

    Raises:
        OptionError: there is no such split, the slice cannot be read, or the split is streamed and
            cannot be cut. DataError: it is empty.
    """
    if name in splits.splits:
        whole = splits.splits[name]
        if not isinstance(whole, Stream) and not len(whole):
            raise DataError(f'{where}: the split "{name}" is empty.')
        return whole
    match = _parsed(name, where)
    base = match["base"] if match else name
    if base not in splits.splits:
        raise OptionError(
            f'{where}: the data set has no split "{base}"; it has {", ".join(splits.splits)}.{hint}'
        )
    assert match is not None  # else the name would be the base
    whole = splits.splits[base]
    if isinstance(whole, Stream):
        raise OptionError(
            f'{where}: "{name}" is a slice of "{base}", which is streamed from front to back and '
            f"cannot be cut; name the whole split, {base}."
        )
    places = _places(match, len(whole))
    if not places:
        raise DataError(f'{where}: "{name}" is empty: the split has {_samples(len(whole))}.')
    return Part(whole, places)


def _parsed(name: str, where: str) -> re.Match[str] | None:
    """Read the slice in a name; None where there is no bracket."""
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
        raise OptionError(f'{where}: "{name}" names more than 100 % of the split.')
    return match


def _places(match: re.Match[str], count: int) -> range:
    first = _bound(match["first"], count) if match["first"] else 0
    last = _bound(match["last"], count) if match["last"] else count
    return range(first, max(first, last))


def _bound(text: str, count: int) -> int:
    """Tell a bound as an index 0..count; one with a minus counts from the end."""
    number = text.strip("-%")
    size = round(int(number) * count / 100) if text.endswith("%") else int(number)
    size = min(size, count)
    return count - size if text.startswith("-") else size


def chances_of(splits: DataSplits, name: str) -> Sequence[float] | None:
    """Return how often training draws each sample of a split or slice; None for the usual way.

    Args:
        splits: of the data set.
        name: as `pick_split` takes it, which is asked first.
    """
    if name in splits.splits:
        return splits.chances.get(name)
    match = _SLICE.fullmatch(name)
    whole = splits.chances.get(match["base"]) if match else None
    if match is None or whole is None:
        return None
    return _taken(whole, _places(match, len(whole)))


def carve(
    splits: DataSplits,
    fraction: float,
    seed: int,
    *,
    train: str,
    validation: str,
    where: str,
) -> DataSplits:
    """Turn a drawn share of the training split into the validation split that is missing.

    Which samples are drawn depends on their number, the fraction and the seed alone. Both parts
    keep the order of the split, and its chances.

    Args:
        splits: of the data set.
        fraction: in (0, 1); the share is rounded to the nearest sample, half a sample up, and
            neither side is left without one.
        seed: of the run.
        train: the split or slice that is shared out, as in `train[:50]`. Under this name the
            result holds what is left of it; the split that a slice was cut from is no longer in it.
        validation: the split, or a slice of the split, that is missing.
        where: the fraction was typed.

    Raises:
        OptionError: there is such a split, or no split to carve it out of, or that one is
            streamed. DataError: it is empty or has one sample.
    """
    scored = _base(validation)
    whole = _carvable(splits, train, scored, where)
    share = min(max(math.floor(fraction * len(whole) + 0.5), 1), len(whole) - 1)
    order = np.random.default_rng((seed, DRAW)).permutation(len(whole)).tolist()
    places = {train: sorted(order[share:]), scored: sorted(order[:share])}
    others = [name for name in splits.splits if name not in (train, _base(train))]
    parts: dict[str, Sequence[Sample] | Stream] = {
        name: Part(whole, tuple(some)) for name, some in places.items()
    }
    chances = {name: splits.chances[name] for name in others if name in splits.chances}
    weights = chances_of(splits, train)
    if weights is not None:
        chances |= {name: _taken(weights, some) for name, some in places.items()}
    parts |= {name: splits.splits[name] for name in others}
    return replace(splits, splits=parts, chances=chances)


def _carvable(splits: DataSplits, train: str, scored: str, where: str) -> Sequence[Sample]:
    if scored in splits.splits:
        raise OptionError(
            f'{where}: the data set has a split "{scored}", so none is carved out of "{train}"; '
            "leave the fraction out."
        )
    whole = pick_split(splits, train, where)
    if isinstance(whole, Stream):
        raise OptionError(
            f'{where}: the split "{train}" is streamed, so no share of it can be set apart; name a '
            "split to score that the data set has."
        )
    if len(whole) < 2:
        raise DataError(f'{where}: the split "{train}" has one sample, which cannot be shared out.')
    return whole


def carved_line(
    carved: DataSplits, fraction: float, seed: int, *, train: str, validation: str
) -> str:
    """Tell what `carve` did; the arguments are its own, `carved` is its result."""
    scored = _base(validation)
    left, share = carved.splits[train], carved.splits[scored]
    assert not isinstance(left, Stream) and not isinstance(share, Stream)
    return (
        f"carved {len(share)} of {_samples(len(share) + len(left))} of {train} as {scored} "
        f"(--val-fraction {fraction:g}, seed {seed})"
    )


def _base(name: str) -> str:
    """Return the split that a slice is cut from; a plain name is its own."""
    match = _SLICE.fullmatch(name)
    return match["base"] if match else name


def _taken(values: Sequence[float], places: Iterable[int]) -> list[float]:
    return [values[place] for place in places]


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"
