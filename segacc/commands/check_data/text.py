"""The report of `segacc check-data`: tables and lines, or JSON."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segacc.commands.check_data.check import Findings
from segacc.commands.check_data.fixes import Fix, command, paste, together, unmended
from segacc.commands.check_data.verdict import Finding
from segacc.commands.terminal.tables import print_in_parts, swatch
from segacc.contracts import IGNORE
from segacc.data.scan import SplitFacts
from segacc.errors import count_of, first_of
from segacc.labels.label_map import ranges

FILES = 5
"""Maximum number of files printed for a finding; JSON has them all."""
MANY = 40
"""Number of classes above which absent ones are only counted; JSON has them all."""
STYLES = {"problem": "bold red", "warning": "yellow", "fact": "cyan"}


def print_report(
    console: Console,
    found: Findings,
    findings: Sequence[Finding],
    told: Sequence[Fix],
    pictures: Sequence[Path],
) -> None:
    """Print the tables, then the findings, suggested options, and the verdict."""
    for line in (found.data.dataset.text, *found.data.notes):
        _say(console, line)
    console.print(facts_table(found), soft_wrap=False)
    print_in_parts(console, partial(classes_table, found, console.width // 2), list(found.splits))
    if hidden := left_out(found):
        names = len(found.data.labels.names)
        _say(console, f"{len(hidden)} of the {names} classes occur in no split\n")
    if line := normalization(found):
        _say(console, line)
    for finding in findings:
        _print_finding(console, finding)
    if told:
        _say(console, "\nsuggested options:")
    for fix in told:
        _say(console, _wrapped(console, f"  {fix.why}:"))
        _paste(console, f"    {paste(found.data.dataset, [fix])}")
    if whole := command(found, told):
        _say(console, f"\nsuggested command{_conditions(findings, told)}:")
        _paste(console, f"  {whole}")
    for path in pictures:
        _paste(console, f"written to {path}", style="")
    told_last = verdict(findings, sample=found.data.config.sample)
    _say(console, told_last, style="red" if would_stop(findings) else "green")


def _conditions(findings: Sequence[Finding], told: Sequence[Fix]) -> str:
    """Return what the suggested command assumes, and how many problems are left."""
    left, assumed = unmended(findings, told), [fix.assumes for fix in together(told) if fix.assumes]
    notes = [f"assuming that {' and that '.join(assumed)}"] if assumed else []
    notes += [f"no option fixes {count_of(len(left), 'problem')}"] if left else []
    return f" ({'; '.join(notes)})" if notes else ""


def would_stop(findings: Sequence[Finding]) -> bool:
    """Return whether training would fail."""
    return any(finding.level == "problem" for finding in findings)


def verdict(findings: Sequence[Finding], *, sample: int | None = None) -> str:
    """Return a line on whether training would fail, as far as the samples that were read show."""
    counts = Counter(finding.level for finding in findings if finding.level != "fact")
    told = ", ".join(count_of(count, word) for word, count in counts.items())
    if would_stop(findings):
        return f"training would fail: {told}"
    what = "no problem found in the samples that were read" if sample else "no problem found"
    return f"{what}{f': {told}' if told else ''}"


def _print_finding(console: Console, finding: Finding) -> None:
    text = Text(_wrapped(console, f"{finding.level}: {finding.text}"))
    text.stylize(STYLES[finding.level], 0, len(finding.level))
    console.print(text, highlight=False)
    for name in finding.files[:FILES]:
        _paste(console, f"  {name}", style="")
    if len(finding.files) > FILES:
        _say(console, f"  ... and {len(finding.files) - FILES} more")


def _wrapped(console: Console, text: str) -> str:
    """Break a line between words on a terminal; not to be used for what may be pasted."""
    if not console.is_terminal:
        return text
    return textwrap.fill(text, console.width, break_long_words=False, break_on_hyphens=False)


def _say(console: Console, text: str, *, style: str = "") -> None:
    console.print(Text(text, style=style), highlight=False)


def _paste(console: Console, text: str, *, style: str = "bold") -> None:
    """Print a command or a path, which must not be broken into lines."""
    console.print(Text(text, style=style), highlight=False, soft_wrap=True)


def facts_table(found: Findings) -> Table:
    """Build a table with a column for each split: sizes, kinds of files, ignored pixels."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in found.splits:
        table.add_column(Text(name), overflow="fold")
    columns = [_column(facts, found) for facts in found.splits.values()]
    for title in columns[0] if columns else ():
        table.add_row(title, *(Text(column[title]) for column in columns))
    return table


def _column(facts: SplitFacts, found: Findings) -> dict[str, str]:
    """Return the cells of a split, by row."""
    names, wrong = found.data.labels.names, len({fault.file for fault in facts.faults})
    present = sum(facts.pixels[k] > 0 for k in range(len(names)))
    means, spread = facts.statistics()
    return {
        "samples": "unknown" if facts.total is None else str(facts.total),
        "read": f"{facts.read}, faults in {count_of(wrong, 'file')}" if wrong else str(facts.read),
        "image size": _sizes(facts),
        "image modes": _counter(facts.image_modes),
        "labels": _counter(facts.label_kinds),
        "classes": f"{present} of {len(names)}",
        "ignored pixels": facts.ignored(found.data.labels),
        "mean": " ".join(f"{one:.3f}" for one in means),
        "deviation": " ".join(f"{one:.3f}" for one in spread),
    }


def normalization(found: Findings) -> str:
    """Return the options that normalize by the mean and deviation of the training split."""
    name = found.data.config.train_split
    if name not in found.splits or not found.splits[name].read:
        return ""
    means, spread = found.splits[name].statistics()
    if not all(spread):
        return ""
    mean, std = ("/".join(f"{one:.4g}" for one in values) for values in (means, spread))
    return f"to normalize by mean and deviation of {name}: --image-mean {mean} --image-std {std}"


def _sizes(facts: SplitFacts) -> str:
    sizes = [f"{height}x{width}" for height, width in facts.by_area()]
    if len(facts.sizes) < 2:
        return sizes[0] if sizes else "-"
    median = sizes[len(sizes) // 2]
    return f"{sizes[0]} to {sizes[-1]}, median {median}, {len(facts.sizes)} kinds"


def _counter(counter: Mapping[str, int]) -> str:
    if len(counter) == 1:
        return next(iter(counter))
    return ", ".join(f"{name} {count}" for name, count in counter.items()) or "-"


def classes_table(found: Findings, widest: int, splits: Sequence[str]) -> Table:
    """Build a table of classes: raw ids, share of the labelled pixels, number of images.

    Args:
        found: the facts.
        widest: characters after which a class name is folded.
        splits: the splits with columns.
    """
    labels, hidden = found.data.labels, left_out(found)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", overflow="fold", max_width=widest)
    table.add_column("raw ids")
    for name in splits:
        table.add_column(Text(f"{name}: pixels"), justify="right", no_wrap=True)
        table.add_column("images", justify="right", no_wrap=True)
    for k, title in enumerate(labels.names):
        if k not in hidden:
            cells = [cell for name in splits for cell in _cells(found.splits[name], k)]
            owned = ranges(raw for raw, owner in labels.classes.items() if owner == k)
            ids = first_of(owned.split(", "), 4)
            table.add_row(swatch(title, labels.palette[k]), ids, *cells)
    return table


def left_out(found: Findings) -> frozenset[int]:
    """Return the classes without a row: the absent ones, if there are more than MANY classes."""
    count, splits = len(found.data.labels.names), found.splits.values()
    absent = frozenset(k for k in range(count) if not any(one.pixels[k] for one in splits))
    return absent if count > MANY else frozenset()


def _cells(facts: SplitFacts, k: int) -> tuple[Text, Text]:
    """Return the cells of a class in a split; an absent class is highlighted."""
    if not facts.pixels[k]:
        return Text("-", style="yellow"), Text("0", style="yellow")
    return Text(f"{100 * facts.share(k):.3f} %"), Text(str(facts.images[k]))


def to_json(
    found: Findings,
    findings: Sequence[Finding],
    told: Sequence[Fix],
    pictures: Sequence[Path],
) -> dict[str, Any]:
    """Return the whole report for JSON."""
    data = found.data
    return {
        "dataset": data.dataset.text,
        "would_stop": would_stop(findings),
        "sample": data.config.sample,
        "classes": list(data.labels.names),
        "raw_ids": {str(raw): k for raw, k in sorted(data.labels.classes.items())},
        "splits": {name: _split(facts, found) for name, facts in found.splits.items()},
        "twins": [asdict(twins) for twins in found.twins],
        "findings": [
            {"level": f.level, "split": f.split, "text": f.text, "files": f.files} for f in findings
        ],
        "cures": [
            {"why": fix.why, "paste": paste(data.dataset, [fix]), "sure": fix.sure} for fix in told
        ],
        "command": command(found, told),
        "unmended": [one.text for one in unmended(findings, told)],
        "notes": data.notes,
        "pictures": [str(path) for path in pictures],
    }


def _split(facts: SplitFacts, found: Findings) -> dict[str, Any]:
    names, sizes = found.data.labels.names, facts.by_area()
    means, spread = facts.statistics()
    edges = {"min": 0, "median": len(sizes) // 2, "max": -1} if sizes else {}
    faults = [asdict(fault) for fault in facts.faults]
    for fault in faults:
        values = {str(raw): pixels for raw, pixels in sorted(fault.pop("values").items())}
        fault |= {"values": values} if values else {}
    return {
        "samples": facts.total,
        "read": facts.read,
        "pixels": {name: facts.pixels[k] for k, name in enumerate(names)},
        "images": {name: facts.images[k] for k, name in enumerate(names)},
        "ignored_pixels": facts.pixels[IGNORE],
        "ignored_share": facts.ignored_share,
        "raw_ids": {str(raw): pixels for raw, pixels in sorted(facts.raw.items())},
        "absent": [name for k, name in enumerate(names) if not facts.pixels[k]],
        "all_ignored": facts.all_ignored,
        "one_class": {names[k]: count for k, count in sorted(facts.constant.items())},
        "sizes": {key: sizes[index] for key, index in edges.items()},
        "num_sizes": len(facts.sizes),
        "image_modes": facts.image_modes,
        "label_kinds": facts.label_kinds,
        "mean": means,
        "deviation": spread,
        "faults": faults,
    }
