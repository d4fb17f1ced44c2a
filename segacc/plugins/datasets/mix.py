"""`mix`: several data sets as one, with their classes unified by name.

Classes are unified if their names are identical; `map` of a data set renames its own classes. A
class that a data set does not have is never labelled there: its pixels have some other label in
that data set, perhaps background, and the network learns this. If that is wrong, rename, merge or
drop classes until the names have the same meaning in all data sets, or use `classes=common`.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt
from pydantic import AllowInfNan, BeforeValidator

from segacc.contracts import IGNORE
from segacc.data.samples import ids_of
from segacc.errors import DataError, OptionError
from segacc.hookspecs import Dataset, DataSplits, Sample, Stream, hookimpl
from segacc.labels import Color, LabelMap, edit, spread_colors
from segacc.labels.label_map import naming, refuse_many
from segacc.settings.options import parse_component

WHERE = "--dataset mix"
KEPT = 16
"""Number of translated label maps of single samples to cache."""


def _brackets(value: Any) -> Any:
    """Reject a text instead of a list: splitting it at `/` would break paths."""
    if isinstance(value, str):
        raise ValueError('Write a list in brackets, e.g. sets=["nuclei","folder:root=data/a"]')
    return value


Sets = Annotated[tuple[str | dict[str, Any], ...], BeforeValidator(_brackets)]


@dataclass(frozen=True, kw_only=True)
class MixOptions:
    """Options of mix."""

    sets: Sets
    """Data sets, or mappings with `name`, e.g. `sets=["nuclei","folder:root=a"]`."""
    weights: tuple[Annotated[float, Gt(0), AllowInfNan(False)], ...] = ()
    """Sampling weights of the data sets in training, e.g. `weights=2/1`; default: each sample once
    per epoch."""
    classes: Literal["all", "common"] = "all"
    """`all`: every class of any data set; `common`: classes of all data sets, others are
    ignored."""
    map: Path | dict[str, Any] | None = None
    """Edits of the unified classes: a YAML file or mapping, see docs/data.md; raw ids are indices
    of the unified classes."""

    def __post_init__(self) -> None:
        """Check that there are several data sets, and one weight for each."""
        if len(self.sets) < 2:
            raise ValueError(
                'sets needs two or more data sets, e.g. sets=["nuclei","folder:root=data/a"]'
            )
        if len(self.weights) not in (0, len(self.sets)):
            raise ValueError(
                f"weights has {len(self.weights)} numbers for {len(self.sets)} sets; give one each"
            )


@dataclass(frozen=True)
class Translation:
    """Mapping from the classes of one data set to those of the mix."""

    whole: LabelMap
    """The label map of the mix."""
    classes: tuple[int | None, ...]
    """For each class of the data set its class in the mix, 255 if it is ignored, or None if its raw
    ids are errors."""
    kept: list[tuple[LabelMap, LabelMap]] = field(default_factory=list, compare=False)
    """Most recent translations, since samples share few maps, and each map caches tables."""

    def of(self, labels: LabelMap) -> LabelMap:
        """Return a map from the data set's raw ids to the classes of the mix."""
        for before, after in self.kept:
            if before is labels:
                return after
        found = {
            raw: IGNORE if k == IGNORE else self.classes[k] for raw, k in labels.classes.items()
        }
        classes = {raw: k for raw, k in found.items() if k is not None}
        classes = classes or {IGNORE: IGNORE}  # every other raw id is an error
        names, palette = self.whole.names, self.whole.palette
        translated = replace(labels, names=names, classes=classes, palette=palette)
        self.kept[KEPT - 1 :] = []
        self.kept.insert(0, (labels, translated))
        return translated


@dataclass(frozen=True)
class Member:
    """The part of a split that comes from one data set."""

    samples: Sequence[Sample]
    labels: LabelMap
    """The data set's own label map."""
    translation: Translation
    prefix: str = ""
    """Prefix of the samples' ids."""

    def sample(self, index: int) -> Sample:
        """Return a sample with a label map to the classes of the mix."""
        one = self.samples[index]
        labels = self.translation.of(one.labels or self.labels)
        return replace(one, id=f"{self.prefix}{one.id}", labels=labels)


@dataclass(frozen=True)
class MixedSamples(Sequence[Sample]):
    """A split of all data sets, one after the other; samples are read on access."""

    members: tuple[Member, ...]
    ends: tuple[int, ...]
    """Cumulative number of samples up to the end of each member."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.ends[-1]

    @property
    def ids(self) -> list[str]:
        """Return the samples' ids."""
        return [f"{one.prefix}{name}" for one in self.members for name in ids_of(one.samples)]

    def __getitem__(self, index: Any) -> Any:
        """Return one Sample, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[k] for k in range(len(self))[index]]
        position = range(len(self))[index]
        number = bisect_right(self.ends, position)
        return self.members[number].sample(position - (self.ends[number - 1] if number else 0))


def build_mix(options: MixOptions, parts: tuple[DataSplits, ...]) -> DataSplits:
    """Combine the splits of data sets with one label map: raw id i is class i.

    Args:
        options: options of the mix.
        parts: the data sets of `options.sets`.

    Raises:
        DataError: a data set is streamed, or there are too many or too few classes.
        OptionError: `map` does not fit the classes, or a weighted data set has no training split.
    """
    told = [f"set {number} ({name})" for number, name in enumerate(_names(options), 1)]
    _refuse_streams(told, parts)
    labels, translations = unify(parts, options)
    splits: dict[str, MixedSamples] = {}
    chances: dict[str, Sequence[float]] = {}
    unusable = {name: error for part in parts for name, error in part.unusable.items()}
    for split in dict.fromkeys(name for part in parts for name in part.splits):
        if split in unusable:
            continue
        members = {k: _samples(p, split) for k, p in enumerate(parts) if split in p.splits}
        prefixes = _prefixes(_names(options), members)
        row = tuple(
            Member(samples, parts[k].labels, translations[k], prefixes[k])
            for k, samples in members.items()
        )
        splits[split] = MixedSamples(row, tuple(accumulate(len(one.samples) for one in row)))
        if drawn := _chances(options, parts, split):
            chances[split] = drawn
    if options.weights and "train" in splits:
        _refuse_idle(told, parts)
    crop = next((part.crop_size for part in parts if part.crop_size), None)
    notes = [f"{who}: {note}" for who, one in zip(told, parts, strict=True) for note in one.notes]
    return DataSplits(splits, labels, crop, chances, unusable, tuple(notes))


def _names(options: MixOptions) -> list[str]:
    """Return the data sets' names, without the distribution prefix of a plugin."""
    return [parse_component(one, WHERE).name.rpartition("/")[2] for one in options.sets]


def _refuse_streams(told: Sequence[str], parts: Sequence[DataSplits]) -> None:
    for who, part in zip(told, parts, strict=True):
        for name, samples in part.splits.items():
            if isinstance(samples, Stream):
                raise DataError(
                    f"{WHERE}: {who} is streamed (its split {name}), so it is read sequentially, "
                    "but a mix needs random access. Mix data sets on disk, or "
                    "write all data as shards of one stream."
                )


def _samples(part: DataSplits, split: str) -> Sequence[Sample]:
    samples = part.splits.get(split, ())
    assert not isinstance(samples, Stream)  # it was refused
    return samples


def _refuse_idle(told: Sequence[str], parts: Sequence[DataSplits]) -> None:
    for who, part in zip(told, parts, strict=True):
        if "train" not in part.splits:
            raise OptionError(
                f"{WHERE}: weights: {who} has no split train to draw from; it has "
                f"{', '.join(part.splits)}. Leave out weights, or mix sets that all have one."
            )


def _prefixes(names: Sequence[str], members: Mapping[int, Sequence[Sample]]) -> dict[int, str]:
    """Return id prefixes that distinguish samples of different sets: none, or set name or number.

    Ids that are only known after reading samples are assumed to clash, since comparing them would
    require reading all images of a split.
    """
    if len(members) == 1:
        return dict.fromkeys(members, "")
    if all(isinstance(samples, list | tuple) for samples in members.values()):
        ids = [one.id for samples in members.values() for one in samples]
        if len(set(ids)) == len(ids):
            return dict.fromkeys(members, "")
    alone = len(set(names)) == len(names)
    return {k: f"{names[k]}-" if alone else f"{k + 1}-{names[k]}-" for k in members}


def _chances(
    options: MixOptions, parts: Sequence[DataSplits], split: str
) -> tuple[float, ...] | None:
    """Return the sampling weights of a split's samples; None for each once per epoch.

    A set's weight, or else its size, is distributed over its samples: equally, or by their own
    sampling weights.
    """
    own = [part.chances.get(split) for part in parts]
    several = sum(split in part.splits for part in parts) > 1
    if not (options.weights and several) and all(one is None for one in own):
        return None
    found: list[float] = []
    for k, part in enumerate(parts):
        mine, count = own[k], len(_samples(part, split))
        given = [1.0] * count if mine is None else mine
        whole, total = options.weights[k] if options.weights else count, sum(given)
        found += [whole * one / total for one in given]
    return tuple(found)


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register mix."""
    return [
        Dataset(
            name="mix",
            summary="several data sets with weights, their classes unified by name",
            options=MixOptions,
            build=build_mix,
            parts=lambda options: options.sets,
        )
    ]


def unify(parts: Sequence[DataSplits], options: Any) -> tuple[LabelMap, tuple[Translation, ...]]:
    """Unify classes by name, in order of first appearance, and apply the edits.

    Args:
        parts: the data sets.
        options: MixOptions; `classes` and `map` are used.

    Returns:
        The label map of the mix, and the translation of each part's classes.

    Raises:
        SegaccError: there are too many or too few classes, or `map` does not fit them.
    """
    names = list(dict.fromkeys(name for part in parts for name in part.labels.names))
    if options.classes == "common":
        names = _common(parts, names)
    with naming(f"{WHERE}: the classes of all sets"):
        refuse_many(names, "Leave some out of the sets, or take what all have by classes=common.")
        joined = LabelMap.plain(names, palette=_palette(parts, names))
    edited = edit(joined, options.map, f"{WHERE}: map")
    whole = LabelMap.plain(edited.names, palette=edited.palette)
    target = {name: edited.classes.get(k) for k, name in enumerate(names)}
    rows = [tuple(target.get(name, IGNORE) for name in part.labels.names) for part in parts]
    return whole, tuple(Translation(whole, row) for row in rows)


def _common(parts: Sequence[DataSplits], names: Sequence[str]) -> list[str]:
    """Return the classes that all sets have."""
    shared = [name for name in names if all(name in part.labels.names for part in parts)]
    if len(shared) < 2:
        told = f"only {shared[0]}" if shared else "no class"
        raise DataError(
            f"{WHERE}: classes=common: the {len(parts)} sets share {told}, but a network needs "
            "two. Rename classes of a set with its map, or leave out classes=common."
        )
    return shared


def _palette(parts: Sequence[DataSplits], names: Sequence[str]) -> list[Color]:
    """Give each class the colour of the first set that has it, or an unused one if it is taken."""
    first: dict[str, Color] = {}
    for part in parts:
        for name, color in zip(part.labels.names, part.labels.palette, strict=True):
            first.setdefault(name, color)
    wanted = {first[name] for name in names}
    free = iter([one for one in spread_colors(3 * IGNORE)[1:] if one not in wanted])
    palette: list[Color] = []
    for name in names:
        palette.append(next(free) if first[name] in palette else first[name])
    return palette
