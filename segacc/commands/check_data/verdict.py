"""Judge the facts of `segacc check-data`: problems, warnings and facts."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from segacc.commands.check_data.check import Findings
from segacc.commands.check_data.duplicates import Twins
from segacc.commands.check_data.scan import Fault, FaultKind
from segacc.commands.check_data.split_facts import SplitFacts
from segacc.data.quick_check import open_turns_text, unused_bits_text
from segacc.errors import count_of

Level = Literal["problem", "warning", "fact"]
LEVELS: tuple[Level, ...] = ("problem", "warning", "fact")
FILMED = 0.9
"""Share of a split's images with an earlier near duplicate above which they are taken for frames of
a video: of CamVid's validation images, all from one video, 97 of 100 have one."""
MUCH_IGNORED = 0.5
"""Share of ignored pixels in a split above which there is a warning."""
FAULTS: dict[FaultKind, tuple[str, str]] = {
    "missing image": ("image of {} is missing", "images of {} are missing"),
    "missing label": ("label of {} is missing", "labels of {} are missing"),
    "unreadable image": ("image of {} cannot be read", "images of {} cannot be read"),
    "unreadable label": ("label of {} cannot be read", "labels of {} cannot be read"),
    "image": ("image of {} is invalid", "images of {} are invalid"),
    "label": ("label of {} is invalid", "labels of {} are invalid"),
    "size": (
        "label of {} differs in size from its image",
        "labels of {} differ in size from their images",
    ),
    "values": (
        "label of {} has values without a class",
        "labels of {} have values without a class",
    ),
    "shard": ("shard of {} cannot be read", "shards of {} cannot be read"),
}
"""The sentence for one file, and for several."""
TELLING = ("unreadable image", "unreadable label", "image", "label", "size", "shard")
"""Kinds of faults for which the message of the first file is printed as well."""


@dataclass(frozen=True)
class Finding:
    """A problem, warning or fact about a data set."""

    level: Level
    """`problem`: training would fail; `warning`: may be wrong; `fact`: nothing to fix."""
    split: str
    """The split; empty if it concerns several or none."""
    text: str
    """One sentence."""
    files: tuple[str, ...] = ()
    """All files concerned, in order."""
    kind: FaultKind | Literal["split", "nothing", ""] = ""
    """What an option may fix: a kind of fault, a missing split, or no labelled pixels."""


def judge(found: Findings) -> list[Finding]:
    """Return the problems, then the warnings, then the facts."""
    told = [
        *(Finding("problem", "", text, kind="split") for text in found.data.complaints),
        *_faults(found),
        *_empty(found),
        *_nothing_to_learn(found),
        *_between(found),
        *(one for name in found.splits for one in _labels(found, name)),
        *(one for facts in found.splits.values() for one in _meant(facts)),
        *_strays(found),
        *(Finding("warning", "", line.rstrip(".")) for line in found.data.passed_over),
        *(one for facts in found.splits.values() for one in _ids(facts)),
    ]
    return sorted(told, key=lambda finding: LEVELS.index(finding.level))


def _faults(found: Findings) -> Iterator[Finding]:
    """Yield the faults of samples, which are problems only in the splits that training uses."""
    run = found.data.config.train_split, found.data.config.eval_split
    for facts, (kind, forms) in itertools.product(found.splits.values(), FAULTS.items()):
        some = [fault for fault in facts.faults if fault.kind == kind]
        if some:
            text = f"{len(some)} {forms[len(some) > 1].format(facts.name)}{_more(kind, some)}"
            files = tuple(fault.file for fault in some)
            level: Level = "problem" if facts.name in run else "warning"
            yield Finding(level, facts.name, text, files, kind)


def _more(kind: FaultKind, faults: Sequence[Fault]) -> str:
    """Return the values, or the error message of the first file."""
    if kind == "values":
        return f": {told_values(faults)}"
    if kind not in TELLING:
        return ""
    reason = faults[0].text.removeprefix(f"{faults[0].file}: ").rstrip(".")
    for opening in ("the image cannot be read: ", "the label cannot be read: "):
        reason = reason.removeprefix(opening)
    return f": {reason}" if len(faults) == 1 else f"; the first: {reason}"


def outside(faults: Sequence[Fault]) -> Counter[int]:
    """Return the number of pixels of each raw id outside the map."""
    total = Counter[int]()
    for fault in faults:
        total.update(fault.values)
    return total


def told_values(faults: Sequence[Fault], most: int = 8) -> str:
    """Format the raw ids outside the map, most frequent first: `7 (5 pixels), 9 (1 pixel)`."""
    total = outside(faults)
    told = [f"{value} ({count_of(n, 'pixel')})" for value, n in total.most_common(most)]
    more = f" and {len(total) - most} more values" if len(total) > most else ""
    return ", ".join(told) + more


def _empty(found: Findings) -> Iterator[Finding]:
    """Report a stream without samples; data sets on disk are refused earlier."""
    config = found.data.config
    for name in (config.train_split, config.eval_split):
        facts = found.splits.get(name)
        if facts is not None and not facts.read and not facts.faults:
            yield Finding("problem", name, f"{name} has no sample")


def _nothing_to_learn(found: Findings) -> Iterator[Finding]:
    """Report a training split without labelled pixels, or with a single class."""
    train = found.splits.get(found.data.config.train_split)
    if train is None or not train.raw:
        return
    names = found.data.labels.names
    present = [k for k in range(len(names)) if train.pixels[k]]
    if not present:
        text = f"{train.name} has no pixel of any class: all pixels that were read are ignored"
        yield Finding("problem", train.name, text, tuple(train.all_ignored), "nothing")
    elif len(present) == 1:
        text = f"{train.name} has a single class, {names[present[0]]}: there is nothing to learn"
        yield Finding("warning", train.name, text)


def _between(found: Findings) -> Iterator[Finding]:
    for twins in found.twins:
        second, first = twins.splits
        files = tuple(f"{a} = {b}" for a, b, _ in twins.pairs)
        split = second if second == first else ""
        filmed = bool(split) and twins.kind == "near" and _is_video(found.splits[split], twins)
        yield Finding("fact" if filmed else "warning", split, twins_text(twins), files)


def _is_video(facts: SplitFacts, twins: Twins) -> bool:
    """Return whether nearly all images of a split are near duplicates of an earlier one."""
    return len(twins.pairs) >= FILMED * (facts.read - 1)


def twins_text(twins: Twins) -> str:
    """Return a sentence on the number of duplicates."""
    second, first = twins.splits
    many = count_of(len(twins.pairs), "label" if twins.kind == "label" else "image")
    verb = "is" if len(twins.pairs) == 1 else "are"
    other = "an earlier one" if second == first else f"one of {first}"
    too_good = "" if second == first else ", so scores would be too high"
    if twins.kind == "label":
        return f"{many} of {second} {verb} identical to {other}, but the images differ"
    if twins.kind == "exact":
        return f"{many} of {second} {verb} identical to {other}{too_good}"
    hint = ", like frames of a video" if second == first else ""
    return f"{many} of {second} {verb} nearly identical to {other}{hint}{too_good}"


def _labels(found: Findings, name: str) -> Iterator[Finding]:
    """Warn of absent classes and many ignored pixels."""
    facts, names = found.splits[name], found.data.labels.names
    if not facts.labelled:
        if facts.raw and name != found.data.config.train_split:
            text = f"{name} has no pixel of any class, so it cannot be used for evaluation"
            yield Finding("warning", name, text, tuple(facts.all_ignored))
        return
    absent = [names[k] for k in range(len(names)) if not facts.pixels[k]]
    if absent:
        told = ", ".join(absent[:8]) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
        many = "class does" if len(absent) == 1 else "classes do"
        yield Finding("warning", name, f"{len(absent)} {many} not occur in {name}: {told}")
    if facts.ignored_share > MUCH_IGNORED:
        text = f"{100 * facts.ignored_share:.1f} % of the pixels of {name} are ignored"
        yield Finding("warning", name, text)
    if facts.all_ignored:
        many = count_of(len(facts.all_ignored), "label")
        verb = "has" if len(facts.all_ignored) == 1 else "have"
        text = f"{many} of {name} {verb} only ignored pixels"
        yield Finding("warning", name, text, tuple(facts.all_ignored))


def _meant(facts: SplitFacts) -> Iterator[Finding]:
    """Warn of images with an ambiguous rotation or number of used bits."""
    if count := len(facts.open_turns):
        text = open_turns_text(facts.name, count, facts.read)
        yield Finding("warning", facts.name, text.rstrip("."), tuple(facts.open_turns))
    for text in unused_bits_text(facts.name, facts.uppers):
        yield Finding("warning", facts.name, text.rstrip("."))


def _strays(found: Findings) -> Iterator[Finding]:
    if found.data.strays:
        text = f"{count_of(len(found.data.strays), 'label')} without an image"
        yield Finding("warning", "", text, tuple(found.data.strays))


def _ids(facts: SplitFacts) -> Iterator[Finding]:
    """Warn of duplicate ids, which are ambiguous in errors and pictures."""
    twice = [name for name, count in Counter(facts.ids).items() if count > 1]
    if twice:
        text = f"{facts.name} has {count_of(len(twice), 'id')} used by several samples"
        yield Finding("warning", facts.name, text, tuple(twice))


def imbalance(facts: SplitFacts, num_classes: int) -> tuple[float, int, int] | None:
    """Return the ratio of pixels of the most frequent to the rarest class, and these two classes.

    Absent classes are left out; None if fewer than two classes occur.
    """
    present = sorted((facts.pixels[k], k) for k in range(num_classes) if facts.pixels[k])
    if len(present) < 2:
        return None
    (few, rare), (many, frequent) = present[0], present[-1]
    return many / few, frequent, rare
