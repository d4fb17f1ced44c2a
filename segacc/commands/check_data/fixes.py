"""Options that mend what `segacc check-data` found, written so that they can be pasted."""

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segacc.commands.check_data.check import Findings
from segacc.commands.check_data.split_facts import SplitFacts
from segacc.commands.check_data.verdict import Finding, imbalance, outside
from segacc.errors import OptionError
from segacc.hookspecs import Chosen, Stream
from segacc.settings.config import CheckConfig
from segacc.settings.options import parse_component

IMBALANCE = 20.0
"""Times the pixels of the rarest class that the most frequent one has, from which class weights are
suggested; CamVid, on which ENet's weights were shown, has 109."""
RARE = 0.05
"""Share of the training labels under which a class that occurs is rare."""
ENOUGH = 20
"""Labels from which such a share means something."""
MANY_VALUES = 20
"""Raw ids outside the map above which they are no ids, but colours or noise."""
CROP = (512, 512)
"""What training sees where nobody says otherwise; `segacc.training.defaults` has it for the run."""
RUN_SETTINGS = (
    *("train_split", "eval_split", "val_fraction", "seed", "num_channels"),
    *("aug", "augment", "crop_size"),
)
"""Settings of a check that are those of a run."""
STEP = 32
"""A crop whose sides are multiples of it suits nearly every network."""
IDS = ("values", "nothing")
"""Problems of labels whose ids mean other classes."""
SPLIT = ("split",)
UNREADABLE = ("missing image", "missing label", "unreadable image", "unreadable label")


@dataclass(frozen=True)
class Cure:
    """An option, and why it would help."""

    why: str
    flags: Mapping[str, str]
    """Flags of the command line, without what the data set is given."""
    dataset: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the data set that are changed or added, or with None left out."""
    sure: bool = True
    """False for one that only the user can choose."""
    mends: tuple[str, ...] = ()
    """Kinds of problems."""


def cures(found: Findings) -> list[Cure]:
    """List what would help, the mending of labels first."""
    train = found.splits.get(found.data.config.train_split)
    told = [*_of_labels(found), *_of_splits(found), *_of_files(found)]
    if train is not None and train.read:
        told += [*_of_images(found, train), *_of_balance(found, train)]
    return told


def unmended(findings: Sequence[Finding], told: Sequence[Cure]) -> list[Finding]:
    """List the problems that no option mends: files must be changed by hand."""
    mended = {kind for cure in told for kind in cure.mends}
    return [one for one in findings if one.level == "problem" and one.kind not in mended]


def paste(dataset: Chosen, cure: Cure) -> str:
    """Write a cure as it is typed: its flags, and the data set with its options."""
    return _typed(dataset, [cure], whole=False)


def command(found: Findings, told: Sequence[Cure]) -> str | None:
    """Write a training as it was checked, with all cures that are sure; None where there is none.

    What was typed of the run goes along: splits, `--val-fraction`, channels, augmentations.
    """
    sure = [cure for cure in told if cure.sure]
    if not sure:
        return None
    cured = {flag for cure in sure for flag in cure.flags}
    typed = [
        f" {flag} {shlex.quote(value)}"
        for flag, value in _of_the_run(found.data.config)
        if flag not in cured
    ]
    options = _typed(found.data.dataset, sure, whole=True)
    return f"accelerate launch -m segacc {options}{''.join(typed)}"


def _of_the_run(config: CheckConfig) -> Iterator[tuple[str, str]]:
    """Yield the settings of a run that are not as they are by themselves, as they are typed."""
    for name in RUN_SETTINGS:
        value = getattr(config, name)
        if value == getattr(CheckConfig, name):
            continue
        flag = f"--{name.replace('_', '-')}"
        if name == "crop_size":
            yield flag, "x".join(map(str, value))
        elif name == "aug":
            yield from ((flag, str(one)) for one in value)
        else:
            yield flag, str(value)


def _typed(dataset: Chosen, told: Sequence[Cure], *, whole: bool) -> str:
    changes = {key: value for cure in told for key, value in cure.dataset.items()}
    flags = {flag: value for cure in told for flag, value in cure.flags.items()}
    if changes or whole:
        flags = {"--dataset": with_options(dataset, changes), **flags}
    return " ".join(f"{flag} {shlex.quote(value)}" for flag, value in flags.items())


def with_options(dataset: Chosen, changes: Mapping[str, Any]) -> str:
    """Write a data set as `name:key=value,...` with some options changed, added or left out."""
    component = parse_component(dataset.text, "--dataset")
    values = {**component.values, **changes}
    given = {key: value for key, value in values.items() if value is not None}
    told = ",".join(f"{key}={_value(value)}" for key, value in given.items())
    return f"{component.name}:{told}" if told else component.name


def _value(value: Any) -> str:
    """Write an option's value: YAML where it would not be read as it stands."""
    if isinstance(value, str):
        try:
            plain = parse_component(f"a:b={value},c=d", "").values == {"b": value, "c": "d"}
        except OptionError:
            plain = False
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return json.dumps(value, ensure_ascii=False, default=str)


def _offers(found: Findings, option: str) -> bool:
    """Tell whether the data set has an option."""
    fields = dataclasses.fields(found.data.dataset.record.options)
    return option in {field.name for field in fields}


def _of_labels(found: Findings) -> Iterator[Cure]:
    faults = [f for facts in found.splits.values() for f in facts.faults]
    wrong = outside([fault for fault in faults if fault.kind == "values"])
    raw = sum((facts.raw for facts in found.splits.values()), Counter[int]())
    other = [value for value in raw if value]
    binary = len(found.data.labels.names) == 2 and 0 in raw and len(other) == 1 and other != [1]
    if binary and _offers(found, "binary") and not found.data.dataset.options.binary:
        why = f"the labels hold 0 and {other[0]} only, as binary masks do"
        yield Cure(why, {}, {"binary": "true", "colors": None, "reduce_labels": None}, mends=IDS)
    elif wrong and len(wrong) <= MANY_VALUES:
        yield from _of_values(found, sorted(wrong), starts_at_one=0 not in raw)
    if any(fault.kind == "label" for fault in faults) and _offers(found, "colors"):
        yield Cure(
            "labels in colours need a table of them (FILE: name,r,g,b a line)",
            {},
            {"colors": "FILE", "names": None, "reduce_labels": None},
            sure=False,
            mends=("label",),
        )


def _of_values(found: Findings, wrong: Sequence[int], *, starts_at_one: bool) -> Iterator[Cure]:
    """Suggest to shift the ids by one, to ignore those outside, or to choose between both."""
    classes = found.data.labels.classes
    one_more = list(wrong) == [len(found.data.labels.names)] and classes.get(0) == 0
    shift = one_more and _offers(found, "reduce_labels")
    if shift:
        why = (
            "the ids start at 1: no label holds 0"
            if starts_at_one
            else "if 0 means `not labelled` and the classes start at 1"
        )
        yield Cure(why, {}, {"reduce_labels": "true"}, sure=starts_at_one, mends=IDS)
    if _offers(found, "ignore") and not (shift and starts_at_one):
        told = ", ".join(map(str, wrong))
        why = f"if {told} should count for nothing"
        ignore = {"ignore": _with_ignored(found, wrong)}
        yield Cure(why, {}, ignore, sure=not shift, mends=("values",))


def _with_ignored(found: Findings, more: Sequence[int]) -> tuple[int, ...]:
    """Add raw ids to those that the user has ignored already."""
    given = getattr(found.data.dataset.options, "ignore", None) or ()
    return tuple(dict.fromkeys((*given, *more)))


def _of_splits(found: Findings) -> Iterator[Cure]:
    """Suggest other splits where those of a run are not there."""
    config, splits = found.data.config, found.data.splits
    train = splits.get(config.train_split)  # the samples themselves
    others = [name for name in splits if name not in (config.train_split, config.eval_split)]
    if train is None:
        if others:
            why = f"the data set has no split {config.train_split}"
            yield Cure(why, {"--train-split": others[0]}, sure=False, mends=SPLIT)
    elif config.eval_split not in splits:
        none = f"there is no split {config.eval_split}"
        if not isinstance(train, Stream) and len(train) > 1:
            why = f"{none}: score a fifth of {config.train_split}"
            yield Cure(why, {"--val-fraction": "0.2"}, mends=SPLIT)
        elif _offers(found, "validation"):
            why = f"{none}, and a stream cannot be carved: name shards of it"
            yield Cure(why, {}, {"validation": "SHARDS"}, sure=False, mends=SPLIT)
            why = f"or score {config.train_split} itself, which tells less"
            yield Cure(why, {"--eval-split": config.train_split}, sure=False, mends=SPLIT)
        for name in others:
            yield Cure(f"or score {name}", {"--eval-split": name}, sure=False, mends=SPLIT)
    if isinstance(train, Stream) and train.num_samples is None:
        yield from _of_length(found, found.splits[config.train_split])


def _of_length(found: Findings, train: SplitFacts) -> Iterator[Cure]:
    """Suggest how a stream that nobody has counted can end."""
    if train.faults or found.data.config.sample or not _offers(found, "num_samples"):
        why = "a stream that nobody has counted has no epochs: say how long to train"
        yield Cure(why, {"--max-steps": "N"}, sure=False)
    elif train.read:
        why = f"{train.read} samples were counted; with this, epochs have a length"
        yield Cure(why, {}, {"num_samples": train.read})


def _of_files(found: Findings) -> Iterator[Cure]:
    """Suggest to pass over what cannot be read; training and scoring count for themselves."""
    config = found.data.config
    counts = [
        sum(fault.kind in UNREADABLE for fault in found.splits[name].faults)
        for name in (config.train_split, config.eval_split)
        if name in found.splits
    ]
    most: int = max(counts, default=0)
    if most:
        why = f"to pass over what cannot be read, {most} in one split"
        yield Cure(why, {"--skip-unreadable": str(most)}, mends=UNREADABLE)


def _of_images(found: Findings, train: SplitFacts) -> Iterator[Cure]:
    """Suggest channels and a crop that suit the images."""
    config, modes = found.data.config, set(train.image_modes)
    refused = any(f.kind == "image" for facts in found.splits.values() for f in facts.faults)
    if refused and config.num_channels != 3 and modes <= {"RGB", "L", "P"}:
        yield Cure("the images have no more channels", {"--num-channels": "3"}, mends=("image",))
    if config.num_channels == 3 and modes and all(m in ("L", "1") or "I;" in m for m in modes):
        why = "all images are grey: one channel does, unless published weights want three"
        yield Cure(why, {"--num-channels": "1"}, sure=False)
    if config.num_channels == 3 and modes == {"RGBA"}:
        why = "all images have four channels: if the fourth means something"
        yield Cure(why, {"--num-channels": "4"}, sure=False)
    crop, sizes = found.data.crop_size or CROP, train.by_area()
    if sizes:
        height, width = sizes[len(sizes) // 2]
        if height < crop[0] or width < crop[1]:
            fit = [
                max(STEP, min(c, s) // STEP * STEP)
                for c, s in zip(crop, (height, width), strict=True)
            ]
            why = (
                f"a crop of {crop[0]}x{crop[1]} is larger than the images "
                f"({height}x{width} in the median) and would be padded"
            )
            yield Cure(why, {"--crop-size": f"{fit[0]}x{fit[1]}"})


def _of_balance(found: Findings, train: SplitFacts) -> Iterator[Cure]:
    """Suggest weights and sampling for rare classes; neither is for streams."""
    if isinstance(found.data.splits[train.name], Stream):
        return
    names = found.data.labels.names
    uneven = imbalance(train, len(names))
    if uneven and uneven[0] > IMBALANCE:
        times, frequent, rare = uneven
        why = f"{names[frequent]} has {times:.0f} times the pixels of {names[rare]}"
        yield Cure(why, {"--class-weights": "enet"})
    rare_ones = [names[k] for k in range(len(names)) if 0 < train.images[k] < RARE * train.read]
    if rare_ones and train.read >= ENOUGH:
        told = ", ".join(rare_ones[:4]) + (" ..." if len(rare_ones) > 4 else "")
        why = f"fewer than {RARE:.0%} of the images hold {told}: draw these more often"
        yield Cure(why, {"--rare-class-sampling": "0.01"}, sure=False)
