"""Judge the facts of `segacc check-data`: problems, warnings and facts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from segacc.commands.check_data.check import Findings
from segacc.commands.check_data.duplicates import Twins
from segacc.data.quick_check import class_warnings, image_warnings
from segacc.data.scan import Fault, SplitFacts
from segacc.errors import count_of, first_of

Level = Literal["problem", "warning", "fact"]
LEVELS: tuple[Level, ...] = ("problem", "warning", "fact")
FILMED = 0.9
"""Share of a split's images with an earlier near duplicate above which they are taken for frames of
a video: of CamVid's validation images, all from one video, 97 of 100 have one."""
MUCH_IGNORED = 0.5
"""Share of ignored pixels in a split above which there is a warning."""
FAULTS = {
    "missing image": ("image", "is missing", "are missing"),
    "missing label": ("label", "is missing", "are missing"),
    "unreadable image": ("image", "cannot be read", "cannot be read"),
    "unreadable label": ("label", "cannot be read", "cannot be read"),
    "image": ("image", "is invalid", "are invalid"),
    "label": ("label", "is invalid", "are invalid"),
    "size": ("label", "differs in size from its image", "differ in size from their images"),
    "exif": ("label", "differs in size from its image", "differ in size from their images"),
    "values": ("label", "has values without a class", "have values without a class"),
    "shard": ("shard", "cannot be read", "cannot be read"),
}
"""For each kind of fault what has it, and what is said of one and of several."""


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
    kind: str = ""
    """What an option may fix: a kind of fault, `split`, or `nothing` if no pixel has a class."""


def judge(found: Findings) -> list[Finding]:
    """Return the problems, then the warnings, then the facts."""
    data = found.data
    told = [Finding("problem", "", text, kind="split") for text in data.complaints]
    told += [Finding("warning", "", text.rstrip(".")) for _, text in class_warnings(data.labels)]
    for facts in found.splits.values():
        told += [*_faults(found, facts), *_labels(found, facts), *_images(facts)]
    told += [_duplicates(found, twins) for twins in found.twins]
    if data.strays:
        text = f"{count_of(len(data.strays), 'label')} without an image"
        told.append(Finding("warning", "", text, tuple(data.strays)))
    told += [Finding("warning", "", line.rstrip(".")) for line in data.passed_over]
    return sorted(told, key=lambda finding: LEVELS.index(finding.level))


def _faults(found: Findings, facts: SplitFacts) -> Iterator[Finding]:
    """Yield the faults of samples, which are problems only in the splits that training uses."""
    in_run = facts.name in (found.data.config.train_split, found.data.config.eval_split)
    for kind, (what, one, several) in FAULTS.items():
        some = [fault for fault in facts.faults if fault.kind == kind]
        if some:
            verb = one if len(some) == 1 else several
            text = f"{count_of(len(some), what)} of {facts.name} {verb}{_more(kind, some)}"
            files = tuple(fault.file for fault in some)
            yield Finding("problem" if in_run else "warning", facts.name, text, files, kind)
    if in_run and not facts.read and not facts.faults:  # a stream; others are refused earlier
        yield Finding("problem", facts.name, f"{facts.name} has no sample")


def _more(kind: str, faults: Sequence[Fault]) -> str:
    """Return the values, or the error message of the first file."""
    if kind in ("missing image", "missing label"):
        return ""
    if kind == "values":
        values = [f"{value} ({count_of(n, 'pixel')})" for value, n in outside(faults).most_common()]
        return f": {first_of(values, 8)}"
    reason = faults[0].text.removeprefix(f"{faults[0].file}: ").rstrip(".")
    for opening in ("the image cannot be read: ", "the label cannot be read: "):
        reason = reason.removeprefix(opening)
    return f": {reason}" if len(faults) == 1 else f"; the first: {reason}"


def outside(faults: Sequence[Fault]) -> Counter[int]:
    """Return the number of pixels of each raw id outside the map."""
    return sum((Counter(fault.values) for fault in faults), Counter[int]())


def _labels(found: Findings, facts: SplitFacts) -> Iterator[Finding]:
    """Report absent classes, many ignored pixels, and a split in which nothing can be learnt."""
    name, names = facts.name, found.data.labels.names
    training = name == found.data.config.train_split
    ignored = tuple(facts.all_ignored)
    present = [k for k in range(len(names)) if facts.pixels[k]]
    if not present:
        if facts.raw and training:
            text = f"{name} has no pixel of any class: all pixels that were read are ignored"
            yield Finding("problem", name, text, ignored, "nothing")
        elif facts.raw:
            text = f"{name} has no pixel of any class, so it cannot be used for evaluation"
            yield Finding("warning", name, text, ignored)
        return
    if training and len(present) == 1:
        text = f"{name} has a single class, {names[present[0]]}: there is nothing to learn"
        yield Finding("warning", name, text)
    absent = [names[k] for k in range(len(names)) if k not in present]
    if absent:
        many = count_of(len(absent), "class does", "classes do")
        yield Finding("warning", name, f"{many} not occur in {name}: {first_of(absent, 8)}")
    if facts.ignored_share > MUCH_IGNORED:
        text = f"{facts.ignored(found.data.labels)} of the pixels of {name} are ignored"
        yield Finding("warning", name, text)
    if ignored:
        many = count_of(len(ignored), f"label of {name} has", f"labels of {name} have")
        yield Finding("warning", name, f"{many} only ignored pixels", ignored)


def _images(facts: SplitFacts) -> Iterator[Finding]:
    """Warn of ambiguous images, and of duplicate ids, which are ambiguous in errors."""
    for text, samples in image_warnings(facts):
        yield Finding("warning", facts.name, text.rstrip("."), samples)
    twice = tuple(name for name, count in Counter(facts.ids).items() if count > 1)
    if twice:
        text = f"{facts.name} has {count_of(len(twice), 'id')} used by several samples"
        yield Finding("warning", facts.name, text, twice)


def _duplicates(found: Findings, twins: Twins) -> Finding:
    """Report duplicates; in one split, those of frames of a video are no mistake."""
    second, first = twins.splits
    within = second == first
    what = "label" if twins.kind == "label" else "image"
    text = count_of(len(twins.pairs), f"{what} of {second} is", f"{what}s of {second} are")
    text += " nearly identical to " if twins.kind == "near" else " identical to "
    text += "an earlier one" if within else f"one of {first}"
    if twins.kind == "label":
        text += ", but the images differ"
    elif not within:
        text += ", so scores would be too high"
    elif twins.kind == "near":
        text += ", like frames of a video"
    read = found.splits[second].read
    filmed = within and twins.kind == "near" and len(twins.pairs) >= FILMED * (read - 1)
    files = tuple(f"{a} = {b}" for a, b, _ in twins.pairs)
    return Finding("fact" if filmed else "warning", second if within else "", text, files)
