"""The report of `segacc check-data`: tables and lines, or JSON."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from segacc.commands.check_data.check import Findings
from segacc.commands.check_data.fixes import Cure, command, paste, unmended
from segacc.commands.check_data.split_facts import Size, SplitFacts
from segacc.commands.check_data.verdict import Finding
from segacc.contracts import IGNORE
from segacc.errors import count_of

FILES = 5
"""Maximum number of files printed for a finding; JSON has them all."""
MANY = 40
"""Number of classes above which absent ones are only counted; JSON has them all."""
STYLES = {"problem": "bold red", "warning": "yellow", "fact": "cyan"}


def print_report(
    console: Console,
    found: Findings,
    findings: Sequence[Finding],
    told: Sequence[Cure],
    pictures: Sequence[Path],
) -> None:
    """Print the tables, then the findings, suggested options, and the verdict."""
    for line in (found.data.dataset.text, *found.data.notes):
        _say(console, line)
    console.print(facts_table(found), soft_wrap=False)
    console.print(classes_table(found), soft_wrap=False)
    if hidden := left_out(found):
        names = len(found.data.labels.names)
        _say(console, f"{len(hidden)} of the {names} classes occur in no split\n")
    for finding in findings:
        _print_finding(console, finding)
    if told:
        _say(console, "\nsuggested options:")
    for cure in told:
        _say(console, f"  {cure.why}:")
        _say(console, f"    {paste(found.data.dataset, cure)}", style="bold")
    if whole := command(found, told):
        left = count_of(len(unmended(findings, told)), "problem")
        notes = [] if all(cure.sure for cure in told) else ["resolve the choices above first"]
        notes += [f"no option fixes {left}"] if unmended(findings, told) else []
        condition = f" ({'; '.join(notes)})" if notes else ""
        _say(console, f"\nsuggested command{condition}:")
        _say(console, f"  {whole}", style="bold")
    for path in pictures:
        _say(console, f"written to {path}")
    told_last = verdict(findings, sample=found.data.config.sample)
    _say(console, told_last, style="red" if _fails(findings) else "green")


def verdict(findings: Sequence[Finding], *, sample: int | None = None) -> str:
    """Return a line on whether training would fail, as far as the samples that were read show."""
    counts = Counter(finding.level for finding in findings if finding.level != "fact")
    told = ", ".join(count_of(count, word) for word, count in counts.items())
    if counts["problem"]:
        return f"training would fail: {told}"
    what = "no problem found in the samples that were read" if sample else "no problem found"
    return f"{what}{f': {told}' if told else ''}"


def _fails(findings: Sequence[Finding]) -> bool:
    return any(finding.level == "problem" for finding in findings)


def _print_finding(console: Console, finding: Finding) -> None:
    style = STYLES[finding.level]
    console.print(Text.assemble((finding.level, style), f": {finding.text}"), highlight=False)
    for name in finding.files[:FILES]:
        _say(console, f"  {name}")
    if len(finding.files) > FILES:
        _say(console, f"  ... and {len(finding.files) - FILES} more")


def _say(console: Console, text: str, *, style: str = "") -> None:
    console.print(Text(text, style=style), highlight=False)


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
    total = "unknown" if facts.total is None else str(facts.total)
    names = found.data.labels.names
    present = sum(facts.pixels[k] > 0 for k in range(len(names)))
    means, spread = facts.statistics()
    return {
        "samples": total,
        "read": _read(facts),
        "image size": _sizes(facts),
        "image modes": _counter(facts.image_modes),
        "labels": _counter(facts.label_kinds),
        "classes": f"{present} of {len(names)}",
        "ignored pixels": f"{100 * facts.ignored_share:.2f} %",
        "mean": " ".join(f"{one:.3f}" for one in means),
        "deviation": " ".join(f"{one:.3f}" for one in spread),
    }


def _read(facts: SplitFacts) -> str:
    """Format the number of samples that were read, and of files with faults."""
    wrong = len({fault.file for fault in facts.faults})
    return f"{facts.read}, faults in {count_of(wrong, 'file')}" if wrong else str(facts.read)


def _sizes(facts: SplitFacts) -> str:
    sizes = facts.by_area()
    if not sizes:
        return "-"
    if len(facts.sizes) == 1:
        return _size(sizes[0])
    ends = f"{_size(sizes[0])} to {_size(sizes[-1])}"
    return f"{ends}, median {_size(sizes[len(sizes) // 2])}, {len(facts.sizes)} kinds"


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _counter(counter: Mapping[str, int]) -> str:
    if len(counter) == 1:
        return next(iter(counter))
    return ", ".join(f"{name} {count}" for name, count in counter.items()) or "-"


def classes_table(found: Findings) -> Table:
    """Build a table of classes: raw ids, share of the labelled pixels, number of images."""
    labels = found.data.labels
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class")
    table.add_column("raw ids")
    for name in found.splits:
        table.add_column(Text(f"{name}: pixels"), justify="right")
        table.add_column("images", justify="right")
    hidden = left_out(found)
    for k, name in enumerate(labels.names):
        if k in hidden:
            continue
        swatch = Text("  ", style=Style(bgcolor="rgb({},{},{})".format(*labels.palette[k])))
        cells = [cell for facts in found.splits.values() for cell in _cells(facts, k)]
        ids = [str(raw) for raw, owner in sorted(labels.classes.items()) if owner == k]
        told = ", ".join(ids[:4]) + (" ..." if len(ids) > 4 else "")
        table.add_row(Text.assemble(swatch, " ", name), told, *cells)
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
    told: Sequence[Cure],
    pictures: Sequence[Path],
) -> dict[str, Any]:
    """Return the whole report for JSON."""
    data = found.data
    return {
        "dataset": data.dataset.text,
        "would_stop": _fails(findings),
        "sample": data.config.sample,
        "classes": list(data.labels.names),
        "raw_ids": {str(raw): k for raw, k in sorted(data.labels.classes.items())},
        "splits": {name: _split(facts, found) for name, facts in found.splits.items()},
        "twins": [
            {"kind": one.kind, "splits": list(one.splits), "pairs": [list(p) for p in one.pairs]}
            for one in found.twins
        ],
        "findings": [
            {"level": f.level, "split": f.split, "text": f.text, "files": list(f.files)}
            for f in findings
        ],
        "cures": [
            {"why": cure.why, "paste": paste(data.dataset, cure), "sure": cure.sure}
            for cure in told
        ],
        "command": command(found, told),
        "unmended": [one.text for one in unmended(findings, told)],
        "notes": list(data.notes),
        "pictures": [str(path) for path in pictures],
    }


def _split(facts: SplitFacts, found: Findings) -> dict[str, Any]:
    names, sizes = found.data.labels.names, facts.by_area()
    means, spread = facts.statistics()
    edges = {"min": 0, "median": len(sizes) // 2, "max": len(sizes) - 1} if sizes else {}
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
        "sizes": {key: list(sizes[index]) for key, index in edges.items()},
        "num_sizes": len(facts.sizes),
        "image_modes": dict(facts.image_modes),
        "label_kinds": dict(facts.label_kinds),
        "mean": means,
        "deviation": spread,
        "faults": list(_faults(facts)),
    }


def _faults(facts: SplitFacts) -> Iterator[dict[str, Any]]:
    for fault in facts.faults:
        told: dict[str, Any] = {"kind": fault.kind, "file": fault.file, "text": fault.text}
        if fault.values:
            told["values"] = {str(raw): pixels for raw, pixels in sorted(fault.values.items())}
        yield told
