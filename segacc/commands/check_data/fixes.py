"""Options that fix what `segacc check-data` found, to copy and paste."""

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
"""Ratio of pixels of the most frequent class to the rarest one above which class weights are
suggested; for CamVid, which the ENet paper uses, it is 109."""
RARE = 0.05
"""Share of the training labels below which a class counts as rare."""
ENOUGH = 20
"""Minimum number of labels for such a share."""
MANY_VALUES = 20
"""Number of raw ids outside the map above which they are not ids, but colours or noise."""
CROP = (512, 512)
"""The default crop size of training, as in `segacc.training.defaults`."""
RUN_SETTINGS = (
    *("train_split", "eval_split", "val_fraction", "seed", "num_channels"),
    *("aug", "augment", "crop_size"),
)
"""Settings that `check-data` shares with training."""
STEP = 32
"""Suggested crop sizes are multiples of this, which fit nearly every network."""
IDS = ("values", "nothing")
"""Kinds of problems that wrong label ids cause."""
SPLIT = ("split",)
UNREADABLE = ("missing image", "missing label", "unreadable image", "unreadable label")


@dataclass(frozen=True)
class Cure:
    """A suggested option, and the reason for it."""

    why: str
    flags: Mapping[str, str]
    """Flags of the command line, without options of the data set."""
    dataset: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the data set to change or add; None removes one."""
    sure: bool = True
    """False if the user must decide."""
    mends: tuple[str, ...] = ()
    """The kinds of problems that it fixes."""


def cures(found: Findings) -> list[Cure]:
    """List the suggested options, those for labels first."""
    train = found.splits.get(found.data.config.train_split)
    told = [*_of_labels(found), *_of_splits(found), *_of_files(found)]
    if train is not None and train.read:
        told += [*_of_images(found, train), *_of_balance(found, train)]
    return told


def unmended(findings: Sequence[Finding], told: Sequence[Cure]) -> list[Finding]:
    """List the problems that no option fixes: files must be changed by hand."""
    mended = {kind for cure in told for kind in cure.mends}
    return [one for one in findings if one.level == "problem" and one.kind not in mended]


def paste(dataset: Chosen, cure: Cure) -> str:
    """Return a suggestion as command-line text: its flags, and the data set with its options."""
    return _typed(dataset, [cure], whole=False)


def command(found: Findings, told: Sequence[Cure]) -> str | None:
    """Return a training command with all sure suggestions; None if there are none.

    It includes the settings of the check that training shares: splits, `--val-fraction`, channels,
    augmentations.
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
    """Yield the training settings that differ from their defaults, as flag and value."""
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
    """Return a data set as `name:key=value,...` with some options changed, added or removed."""
    component = parse_component(dataset.text, "--dataset")
    values = {**component.values, **changes}
    given = {key: value for key, value in values.items() if value is not None}
    told = ",".join(f"{key}={_value(value)}" for key, value in given.items())
    return f"{component.name}:{told}" if told else component.name


def _value(value: Any) -> str:
    """Return an option's value as text, quoted as JSON if it would be misread otherwise."""
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
    """Return whether the data set has an option."""
    fields = dataclasses.fields(found.data.dataset.record.options)
    return option in {field.name for field in fields}


def _of_labels(found: Findings) -> Iterator[Cure]:
    faults = [f for facts in found.splits.values() for f in facts.faults]
    wrong = outside([fault for fault in faults if fault.kind == "values"])
    raw = sum((facts.raw for facts in found.splits.values()), Counter[int]())
    other = [value for value in raw if value]
    binary = len(found.data.labels.names) == 2 and 0 in raw and len(other) == 1 and other != [1]
    if binary and _offers(found, "binary") and not found.data.dataset.options.binary:
        why = f"the labels contain only 0 and {other[0]}, as binary masks do"
        yield Cure(why, {}, {"binary": "true", "colors": None, "reduce_labels": None}, mends=IDS)
    elif wrong and len(wrong) <= MANY_VALUES:
        yield from _of_values(found, sorted(wrong), starts_at_one=0 not in raw)
    if any(fault.kind == "label" for fault in faults) and _offers(found, "colors"):
        yield Cure(
            "labels in colours need a table of colours (FILE with lines name,r,g,b)",
            {},
            {"colors": "FILE", "names": None, "reduce_labels": None},
            sure=False,
            mends=("label",),
        )


def _of_values(found: Findings, wrong: Sequence[int], *, starts_at_one: bool) -> Iterator[Cure]:
    """Suggest shifting the ids by one, ignoring those outside the map, or both to choose from."""
    classes = found.data.labels.classes
    one_more = list(wrong) == [len(found.data.labels.names)] and classes.get(0) == 0
    shift = one_more and _offers(found, "reduce_labels")
    if shift:
        why = (
            "the ids start at 1: no label contains 0"
            if starts_at_one
            else "if 0 means `not labelled` and the classes start at 1"
        )
        yield Cure(why, {}, {"reduce_labels": "true"}, sure=starts_at_one, mends=IDS)
    if _offers(found, "ignore") and not (shift and starts_at_one):
        told = ", ".join(map(str, wrong))
        why = f"if {told} should be ignored"
        ignore = {"ignore": _with_ignored(found, wrong)}
        yield Cure(why, {}, ignore, sure=not shift, mends=("values",))


def _with_ignored(found: Findings, more: Sequence[int]) -> tuple[int, ...]:
    """Return the raw ids that are ignored already, with more added."""
    given = getattr(found.data.dataset.options, "ignore", None) or ()
    return tuple(dict.fromkeys((*given, *more)))


def _of_splits(found: Findings) -> Iterator[Cure]:
    """Suggest other splits if those of training do not exist."""
    config, splits = found.data.config, found.data.splits
    train = splits.get(config.train_split)
    others = [name for name in splits if name not in (config.train_split, config.eval_split)]
    if train is None:
        if others:
            why = f"the data set has no split {config.train_split}"
            yield Cure(why, {"--train-split": others[0]}, sure=False, mends=SPLIT)
    elif config.eval_split not in splits:
        none = f"there is no split {config.eval_split}"
        if not isinstance(train, Stream) and len(train) > 1:
            why = f"{none}: hold out a fifth of {config.train_split}"
            yield Cure(why, {"--val-fraction": "0.2"}, mends=SPLIT)
        elif _offers(found, "validation"):
            why = f"{none}, and a stream cannot be split: give shards for it"
            yield Cure(why, {}, {"validation": "SHARDS"}, sure=False, mends=SPLIT)
            why = f"or evaluate on {config.train_split} itself, which says less"
            yield Cure(why, {"--eval-split": config.train_split}, sure=False, mends=SPLIT)
        for name in others:
            yield Cure(f"or evaluate on {name}", {"--eval-split": name}, sure=False, mends=SPLIT)
    if isinstance(train, Stream) and train.num_samples is None:
        yield from _of_length(found, found.splits[config.train_split])


def _of_length(found: Findings, train: SplitFacts) -> Iterator[Cure]:
    """Suggest a length for a stream with an unknown number of samples."""
    if train.faults or found.data.config.sample or not _offers(found, "num_samples"):
        why = "a stream of unknown length has no epochs: say how long to train"
        yield Cure(why, {"--max-steps": "N"}, sure=False)
    elif train.read:
        why = f"{train.read} samples were counted; this defines the length of an epoch"
        yield Cure(why, {}, {"num_samples": train.read})


def _of_files(found: Findings) -> Iterator[Cure]:
    """Suggest skipping unreadable files; training and validation each have their own count."""
    config = found.data.config
    counts = [
        sum(fault.kind in UNREADABLE for fault in found.splits[name].faults)
        for name in (config.train_split, config.eval_split)
        if name in found.splits
    ]
    most: int = max(counts, default=0)
    if most:
        why = f"to skip unreadable files, at most {most} in a split"
        yield Cure(why, {"--skip-unreadable": str(most)}, mends=UNREADABLE)


def _of_images(found: Findings, train: SplitFacts) -> Iterator[Cure]:
    """Suggest the number of channels and a crop size that fit the images."""
    config, modes = found.data.config, set(train.image_modes)
    refused = any(f.kind == "image" for facts in found.splits.values() for f in facts.faults)
    if refused and config.num_channels != 3 and modes <= {"RGB", "L", "P"}:
        why = "the images have three channels at most"
        yield Cure(why, {"--num-channels": "3"}, mends=("image",))
    if config.num_channels == 3 and modes and all(m in ("L", "1") or "I;" in m for m in modes):
        why = "all images are grey: one channel is enough, unless pretrained weights need three"
        yield Cure(why, {"--num-channels": "1"}, sure=False)
    if config.num_channels == 3 and modes == {"RGBA"}:
        why = "all images have four channels: if the fourth one should be used"
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
                f"(median {height}x{width}) and would be padded"
            )
            yield Cure(why, {"--crop-size": f"{fit[0]}x{fit[1]}"})


def _of_balance(found: Findings, train: SplitFacts) -> Iterator[Cure]:
    """Suggest class weights and sampling for rare classes; streams support neither."""
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
        why = f"fewer than {RARE:.0%} of the images contain {told}: sample these more often"
        yield Cure(why, {"--rare-class-sampling": "0.01"}, sure=False)
