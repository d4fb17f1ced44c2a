"""`mix`: several data sets as one, whose classes are unified by name.

Two classes are one where their names are the same, letter by letter; `map` of a set renames its
own. A class that a set does not have is never labelled there: such pixels are whatever that set
calls them, perhaps background, and the network learns them so. Where that is wrong, rename, merge
or drop until the names mean the same in all sets, or keep what they share with `classes=common`.
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
from segacc.settings.options import parse_component

WHERE = "--dataset mix"
KEPT = 16
"""Label maps of single samples that are kept translated."""


def _brackets(value: Any) -> Any:
    """Refuse a text in place of a list: cut at `/`, as texts are, it would break paths."""
    if isinstance(value, str):
        raise ValueError('Write a list in brackets, as in sets=["nuclei","folder:root=data/a"]')
    return value


Sets = Annotated[tuple[str | dict[str, Any], ...], BeforeValidator(_brackets)]


@dataclass(frozen=True, kw_only=True)
class MixOptions:
    """Options of mix."""

    sets: Sets
    """Data sets, or mappings with `name`, as in `sets=["nuclei","folder:root=a"]`."""
    weights: tuple[Annotated[float, Gt(0), AllowInfNan(False)], ...] = ()
    """How many training samples are drawn from each set, in proportion, as in `weights=2/1`;
    default each sample once an epoch."""
    classes: Literal["all", "common"] = "all"
    """`all`: every class of any set; `common`: those that all sets have, others are ignored."""
    map: Path | dict[str, Any] | None = None
    """Edits of the unified classes: a YAML file or mapping, see docs/data.md; raw ids are places
    in the unified row."""

    def __post_init__(self) -> None:
        """Refuse a mix of one, and weights that belong to no set."""
        if len(self.sets) < 2:
            raise ValueError(
                'sets needs two data sets or more, as in sets=["nuclei","folder:root=data/a"]'
            )
        if len(self.weights) not in (0, len(self.sets)):
            raise ValueError(
                f"weights has {len(self.weights)} numbers for {len(self.sets)} sets; give one each"
            )


@dataclass(frozen=True)
class Translation:
    """From the classes of one set to those of the mix."""

    whole: LabelMap
    """The mix's own."""
    classes: tuple[int | None, ...]
    """For each class of the set its class in the mix, 255 where it is ignored, or None where its
    raw ids are errors."""
    kept: list[tuple[LabelMap, LabelMap]] = field(default_factory=list, compare=False)
    """What was translated last: samples share few maps, and each map keeps tables."""

    def of(self, labels: LabelMap) -> LabelMap:
        """Return a map of the set's raw ids to the classes of the mix."""
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
    """What a set gives to one split."""

    samples: Sequence[Sample]
    labels: LabelMap
    """The set's own."""
    translation: Translation
    prefix: str = ""
    """Of the samples' ids."""

    def sample(self, index: int) -> Sample:
        """Return a sample with the map to the mix's classes."""
        one = self.samples[index]
        labels = self.translation.of(one.labels or self.labels)
        return replace(one, id=f"{self.prefix}{one.id}", labels=labels)


@dataclass(frozen=True)
class MixedSamples(Sequence[Sample]):
    """A split of all sets, one after the other; each sample is read when it is asked for."""

    members: tuple[Member, ...]
    ends: tuple[int, ...]
    """Samples up to the end of each member."""

    def __len__(self) -> int:
        """Count the samples."""
        return self.ends[-1]

    @property
    def ids(self) -> list[str]:
        """List the samples' ids."""
        return [f"{one.prefix}{name}" for one in self.members for name in ids_of(one.samples)]

    def __getitem__(self, index: Any) -> Any:
        """Return one Sample, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        number = bisect_right(self.ends, place)
        return self.members[number].sample(place - (self.ends[number - 1] if number else 0))


def build_mix(options: MixOptions, parts: tuple[DataSplits, ...]) -> DataSplits:
    """Join the splits of data sets under one label map: raw id i is class i.

    Args:
        options: of the mix.
        parts: the data sets, as `options.sets` names them.

    Raises:
        DataError: a set is streamed, or the classes together are too many or too few.
        OptionError: `map` does not fit the classes, or a set with a weight has nothing to train on.
    """
    told = [f"set {number} ({name})" for number, name in enumerate(_names(options), 1)]
    _refuse_streams(told, parts)
    labels, translations = unify(parts, options)
    splits: dict[str, MixedSamples] = {}
    chances: dict[str, Sequence[float]] = {}
    for split in dict.fromkeys(name for part in parts for name in part.splits):
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
    return DataSplits(splits, labels, crop, chances)


def _names(options: MixOptions) -> list[str]:
    """Return the sets' names, without the distribution that a stranger's may start with."""
    return [parse_component(one, WHERE).name.rpartition("/")[2] for one in options.sets]


def _refuse_streams(told: Sequence[str], parts: Sequence[DataSplits]) -> None:
    for who, part in zip(told, parts, strict=True):
        for name, samples in part.splits.items():
            if isinstance(samples, Stream):
                raise DataError(
                    f"{WHERE}: {who} is streamed (its split {name}): it is read from front to "
                    "back, and a mix draws samples in any order. Mix sets that lie on disk, or "
                    "write all as shards of one stream."
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
                f"{', '.join(part.splits)}. Leave weights out, or mix sets that all have one."
            )


def _prefixes(names: Sequence[str], members: Mapping[int, Sequence[Sample]]) -> dict[int, str]:
    """Tell samples of different sets apart: by nothing, or by the set's name or number.

    Ids that only the samples themselves tell are taken to clash: to compare them, all pictures of
    a split would have to be read.
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
    """Return how often each sample of a split is drawn; None for each once an epoch.

    A set's weight, or else its size, is shared out among its samples: evenly, or by chances of
    its own.
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
    """Unify class sets by name, in order of first appearance, and edit what comes out.

    Args:
        parts: the data sets.
        options: MixOptions, of which `classes` and `map` count here.

    Returns:
        The mix's own map, and the way to it from each part's classes.

    Raises:
        SegaccError: the classes together are too many or too few, or `map` does not fit them.
    """
    names = list(dict.fromkeys(name for part in parts for name in part.labels.names))
    if options.classes == "common":
        names = _common(parts, names)
    try:
        joined = LabelMap.plain(names, palette=_palette(parts, names))
    except DataError as error:
        raise DataError(f"{WHERE}: the classes of all sets: {error}") from None
    edited = edit(joined, options.map, f"{WHERE}: map")
    whole = LabelMap.plain(edited.names, palette=edited.palette)
    place = {name: edited.classes.get(k) for k, name in enumerate(names)}
    rows = [tuple(place.get(name, IGNORE) for name in part.labels.names) for part in parts]
    return whole, tuple(Translation(whole, row) for row in rows)


def _common(parts: Sequence[DataSplits], names: Sequence[str]) -> list[str]:
    """Choose the classes that all sets have."""
    shared = [name for name in names if all(name in part.labels.names for part in parts)]
    if len(shared) < 2:
        told = f"only {shared[0]}" if shared else "no class"
        raise DataError(
            f"{WHERE}: classes=common: the {len(parts)} sets share {told}, and a network needs "
            "two. Rename classes of a set with its map, or leave classes=common out."
        )
    return shared


def _palette(parts: Sequence[DataSplits], names: Sequence[str]) -> list[Color]:
    """Give each class the colour of the first set that has it, or a free one where it is taken."""
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
