"""Options that fix what `segacc check-data` found, to copy and paste."""

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segacc.commands.check_data.check import Findings
from segacc.commands.check_data.verdict import Finding, outside
from segacc.data.quick_check import bits_used, class_warnings
from segacc.data.scan import UNREADABLE, SplitFacts
from segacc.errors import OptionError, first_of
from segacc.hookspecs import Chosen, Stream
from segacc.labels.names import starts_at_one
from segacc.settings.commands import CheckConfig
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


@dataclass(frozen=True)
class Fix:
    """Suggested options, and the reason for them."""

    why: str
    options: Mapping[str, Any]
    """Flags by name, as `--crop-size`, and options of the data set; None removes one of these."""
    sure: bool = True
    """False if the user must decide."""
    mends: tuple[str, ...] = ()
    """The kinds of problems that it fixes."""
    assumes: str = ""
    """What is assumed if it is in the suggested command, though it is not sure."""

    @property
    def complete(self) -> bool:
        """Whether no value is a placeholder that the user must replace."""
        return not any(value in ("FILE", "SHARDS", "N") for value in self.options.values())


def fixes(found: Findings) -> list[Fix]:
    """List the suggested options, those for labels first."""
    train = found.splits.get(found.data.config.train_split)
    told = [*_for_labels(found), *_for_classes(found)]
    told += [*_for_splits(found, train), *_for_files(found)]
    if train is not None and train.read:
        told += [*_for_images(found, train), *_for_balance(found, train)]
    return told


def _for_labels(found: Findings) -> Iterator[Fix]:
    labels, typed = found.data.labels, found.data.dataset.options
    faults = [fault for facts in found.splits.values() for fault in facts.faults]
    raw = sum((facts.raw for facts in found.splits.values()), Counter[int]())
    wrong, other = sorted(outside(faults)), [value for value in raw if value]
    binary = len(labels.names) == 2 and 0 in raw and len(other) == 1 and other[0] > 1
    if binary and _offers(found, "binary") and not typed.binary:
        why = f"the labels contain only 0 and {other[0]}, as binary masks do"
        yield Fix(why, {"binary": "true", "colors": None, "reduce_labels": None}, mends=IDS)
    elif wrong and len(wrong) <= MANY_VALUES:
        one_more = wrong == [len(labels.names)] and labels.classes.get(0) == 0
        shift, certain = one_more and _offers(found, "reduce_labels"), 0 not in raw
        if _offers(found, "ignore") and not (shift and certain):
            which = f"{', '.join(map(str, wrong))} should be ignored"
            every = {"ignore": tuple(dict.fromkeys((*(typed.ignore or ()), *wrong)))}
            assumed = which if one_more else ""
            yield Fix(f"if {which}", every, sure=not one_more, mends=("values",), assumes=assumed)
        if shift and (certain or _starts_at_one(found)):
            why = "if 0 means `not labelled` and the classes start at 1"
            why = "the ids start at 1: no label contains 0" if certain else why
            yield Fix(why, {"reduce_labels": "true"}, sure=certain, mends=IDS)
    in_colors = not labels.colors and any(facts.colored for facts in found.splits.values())
    invalid = any(fault.kind == "label" for fault in faults)
    if invalid and in_colors and _offers(found, "colors"):
        why = "labels in colours need a table of colours (FILE with lines name,r,g,b)"
        options = {"colors": "FILE", "names": None, "reduce_labels": None}
        assumed = "FILE is your table"
        yield Fix(why, options, sure=False, mends=("label",), assumes=assumed)


def _starts_at_one(found: Findings) -> bool:
    some = found.splits.values()
    share = sum(one.raw[0] for one in some) / max(1, sum(one.raw.total() for one in some))
    images = sum(one.images[0] for one in some)
    above = sum(fault.kind == "values" for one in some for fault in one.faults)
    return starts_at_one(share, images, above)


def _for_classes(found: Findings) -> Iterator[Fix]:
    """Suggest to drop classes that seem to mean `no label`, unless the user edits the map."""
    if "map" in parse_component(found.data.dataset.text, "--dataset").values:
        return
    for names, _ in class_warnings(found.data.labels):
        why = f"to drop {first_of(names, 4)}, whose pixels are then ignored"
        yield Fix(why, {"map": {"drop": names}}, sure=False)


def _offers(found: Findings, option: str) -> bool:
    """Return whether the data set has an option."""
    fields = dataclasses.fields(found.data.dataset.record.options)
    return option in {field.name for field in fields}


def _for_splits(found: Findings, facts: SplitFacts | None) -> Iterator[Fix]:
    """Suggest other splits if those of training do not exist, and a length for its stream."""
    config, splits = found.data.config, found.data.splits
    train, scored = config.train_split, config.eval_split
    others = [name for name in splits if name not in (train, scored)]
    if facts is None:
        if others:
            why, assumed = f"the data set has no split {train}", f"{others[0]} is for training"
            options = {"--train-split": others[0]}
            yield Fix(why, options, sure=False, mends=SPLIT, assumes=assumed)
        return
    streamed, samples = isinstance(splits[train], Stream), facts.total
    if scored not in splits:
        none = f"there is no split {scored}"
        if not streamed and samples != 1:
            why = f"{none}: hold out a fifth of {train}"
            yield Fix(why, {"--val-fraction": "0.2"}, mends=SPLIT)
        elif _offers(found, "validation"):
            why = f"{none}, and a stream cannot be split: give shards for it"
            yield Fix(why, {"validation": "SHARDS"}, sure=False, mends=SPLIT)
            yield _scored_on(train, f"or evaluate on {train} itself, which says less")
        yield from (_scored_on(name, f"or evaluate on {name}") for name in others)
    if samples is None and (facts.faults or config.sample or not _offers(found, "num_samples")):
        why = "a stream of unknown length has no epochs: say how long to train"
        assumed = "N is the number of steps"
        yield Fix(why, {"--max-steps": "N"}, sure=False, mends=("length",), assumes=assumed)
    elif samples is None and facts.read:
        why = f"{facts.read} samples were counted; this defines the length of an epoch"
        yield Fix(why, {"num_samples": facts.read})


def _scored_on(name: str, why: str) -> Fix:
    options, assumed = {"--eval-split": name}, f"{name} is evaluated"
    return Fix(why, options, sure=False, mends=SPLIT, assumes=assumed)


def _for_files(found: Findings) -> Iterator[Fix]:
    """Suggest how EXIF is meant, and skipping unreadable files.

    Training and validation each have their own count of these.
    """
    config, faults = found.data.config, [f.kind for s in found.splits.values() for f in s.faults]
    if "exif" in faults:
        kept = found.data.dataset.common.exif == "stored"
        now, how = ("upright", "shown") if kept else ("stored", "stored")
        which = f"labels are drawn on the images as they are {how}"
        yield Fix(f"if {which}", {"exif": now}, sure=False, mends=("exif",), assumes=which)
    counts = [
        sum(fault.kind in UNREADABLE for fault in facts.faults)
        for name, facts in found.splits.items()
        if name in (config.train_split, config.eval_split)
    ]
    if most := max(counts, default=0):
        why = f"to skip unreadable files, at most {most} in a split"
        yield Fix(why, {"--skip-unreadable": str(most)}, mends=UNREADABLE)


def _for_images(found: Findings, train: SplitFacts) -> Iterator[Fix]:
    """Suggest the number of channels and a crop size that fit the images."""
    modes, channels = set(train.image_modes), found.data.config.num_channels
    if bits := bits_used(train):
        why = f"if the values of the 16-bit images go from 0 to {(1 << bits) - 1}"
        yield Fix(why, {"bits": bits}, sure=False)
    refused = any(f.kind == "image" for facts in found.splits.values() for f in facts.faults)
    if refused and channels != 3 and modes <= {"RGB", "L", "P"}:
        why = "the images have three channels at most"
        yield Fix(why, {"--num-channels": "3"}, mends=("image",))
    if channels == 3 and modes and all(mode in ("L", "1") or "I;" in mode for mode in modes):
        why = "all images are grey: one channel is enough, unless pretrained weights need three"
        yield Fix(why, {"--num-channels": "1"}, sure=False)
    if channels == 3 and modes == {"RGBA"}:
        why = "all images have four channels: if the fourth one should be used"
        yield Fix(why, {"--num-channels": "4"}, sure=False)
    crop, sizes = found.data.crop_size, train.by_area()
    size = sizes[len(sizes) // 2] if sizes else crop
    if size[0] < crop[0] or size[1] < crop[1]:
        fit = [max(STEP, min(pair) // STEP * STEP) for pair in zip(crop, size, strict=True)]
        why = (
            f"a crop of {crop[0]}x{crop[1]} is larger than the images "
            f"(median {size[0]}x{size[1]}) and would be padded"
        )
        yield Fix(why, {"--crop-size": f"{fit[0]}x{fit[1]}"})


def _for_balance(found: Findings, train: SplitFacts) -> Iterator[Fix]:
    """Suggest class weights and sampling for rare classes; streams support neither."""
    if isinstance(found.data.splits[train.name], Stream):
        return
    names = found.data.labels.names
    present = sorted((train.pixels[k], k) for k in range(len(names)) if train.pixels[k])
    if present and present[-1][0] > IMBALANCE * present[0][0]:
        (pixels, rare), (most, frequent) = present[0], present[-1]
        why = f"{names[frequent]} has {most / pixels:.0f} times the pixels of {names[rare]}"
        yield Fix(why, {"--class-weights": "enet"})
    few = [name for k, name in enumerate(names) if 0 < train.images[k] < RARE * train.read]
    if few and train.read >= ENOUGH:
        why = f"fewer than {RARE:.0%} of the images contain {first_of(few, 4)}"
        yield Fix(f"{why}: sample these more often", {"--rare-class-sampling": "0.01"}, sure=False)


def unmended(findings: Sequence[Finding], told: Sequence[Fix]) -> list[Finding]:
    """List the problems that no option fixes: files must be changed by hand."""
    mended = {kind for fix in told for kind in fix.mends}
    return [one for one in findings if one.level == "problem" and one.kind not in mended]


def together(told: Sequence[Fix]) -> list[Fix]:
    """Return the sure suggestions, and for each problem that is left the likeliest one.

    Among several, one without placeholders is preferred.
    """
    chosen = [fix for fix in told if fix.sure]
    for fix in sorted(told, key=lambda fix: not fix.complete):
        mended = {kind for one in chosen for kind in one.mends}
        if fix.mends and not mended.intersection(fix.mends):
            chosen.append(fix)
    return chosen


def command(found: Findings, told: Sequence[Fix]) -> str | None:
    """Return a training command with the suggestions of `together`; None if there are none.

    It includes the settings of the check that training shares: splits, `--val-fraction`, channels,
    augmentations.
    """
    chosen = together(told)
    if not chosen:
        return None
    fixed = {flag for fix in chosen for flag in fix.options}
    typed = [
        f" {flag} {shlex.quote(value)}"
        for flag, value in _of_the_run(found.data.config)
        if flag not in fixed
    ]
    options = paste(found.data.dataset, chosen, whole=True)
    return f"segacc train {options}{''.join(typed)}"


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


def paste(dataset: Chosen, told: Sequence[Fix], *, whole: bool = False) -> str:
    """Return suggestions as command-line text: their flags, and the data set with its options.

    The data set is left out if it does not change, unless `whole` is true.
    """
    options = {key: value for fix in told for key, value in fix.options.items()}
    flags = {key: value for key, value in options.items() if key.startswith("--")}
    changes = {key: value for key, value in options.items() if key not in flags}
    if changes or whole:
        flags = {"--dataset": _with_options(dataset, changes), **flags}
    return " ".join(f"{flag} {shlex.quote(value)}" for flag, value in flags.items())


def _with_options(dataset: Chosen, changes: Mapping[str, Any]) -> str:
    """Return a data set as `name:key=value,...` with some options changed, added or removed."""
    component = parse_component(dataset.text, "--dataset")
    values = {**component.values, **changes}
    told = ",".join(f"{key}={_value(one)}" for key, one in values.items() if one is not None)
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
