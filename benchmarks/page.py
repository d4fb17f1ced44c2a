"""Writes the figures of the benchmarks into docs/results.md, each table between two marks.

    python benchmarks/page.py       all tables of TABLES, from the figures in benchmarks/results

`make bench` ends with it. Text around the marks is written by hand. camvid.py, exactness.py and
round_trip.py write their own tables, with `--report`.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scaling_paper import COUNTS, verdict

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Write the tables."""
    for name, lines in TABLES.items():
        path = RESULTS / f"{name}.json"
        told = lines(json.loads(path.read_text())) if path.exists() else ["Not measured yet."]
        fill(PAGE, f"<!-- {name}: benchmarks/page.py -->", told)


def fill(page: Path, mark: str, lines: Sequence[str]) -> None:
    """Replace what stands between two marks by lines."""
    before, found, rest = page.read_text(encoding="utf-8").partition(mark)
    _, end, after = rest.partition(mark)
    assert found and end, f"{page} does not have {mark} twice"
    text = "\n".join([f"{before}{mark}", "", *lines, "", f"{mark}{after}"])
    page.write_text(text, encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """Return a table, of whose columns the first ones are words and all others are figures."""
    ruler = "|" + "---|" * words + "---:|" * (len(head) - words)
    first, *others = ("| " + " | ".join(row) + " |" for row in (head, *rows))
    return [first, ruler, *others]


def versions(result: dict[str, Any]) -> str:
    """Return a line with the versions."""
    return ", ".join(f"{name} {one}" for name, one in result["versions"].items()) + "."


def train(result: dict[str, Any]) -> list[str]:
    """Return the table of train.py."""
    ways = {
        "tutorial": "the tutorial's recipe: Trainer, image processor, ColorJitter",
        "segacc": "`segacc train`, random scale and crop, flip, colours",
        "bare": "the network alone: `logits.mean()` as loss, no data",
    }
    speeds = result["images_per_second"]
    memory = {name: f"{one:.0f}" for name, one in result["memory_mb"].items()}
    rows = [[text, f"{speeds[name]:.2f}", memory.get(name, "")] for name, text in ways.items()]
    told = f"segacc / recipe: {result['ratio']:.2f}; a step of segacc / of the network alone: "
    told += f"{result['overhead']:.2f}; memory of segacc / of the recipe: {result['memory']:.2f}."
    told += f" {result['rounds']} rounds of {result['steps']} steps; {result['threads']} threads; "
    told += versions(result)
    return [*table(["", "images/s", "MB"], rows), "", told]


def evaluate(result: dict[str, Any]) -> list[str]:
    """Return the table of evaluate.py."""
    few, many = result.get("memory_mb", {}), result.get("memory_many_mb", {})
    rows = []
    for name, speed in result["images_per_second"].items():
        cells = [f"{one[name]:.0f}" if name in one else "" for one in (few, many)]
        rows.append([name, f"{speed:.2f}", *cells])
    head = ["", "images/s", f"MB, {result['images']} images", f"MB, {many.get('images', 0)} images"]
    told = f"segacc / tutorial: {result['ratio']:.2f}; segacc / forward passes alone: "
    told += f"{result['of_forward']:.2f}. {result['rounds']} rounds; {result['threads']} threads; "
    told += versions(result)
    return [*table(head, rows), "", told]


def start(result: dict[str, Any]) -> list[str]:
    """Return the table of start.py."""
    names = {
        "torch": "`import torch`",
        "torch and class": "`import torch`, and `SegformerForSemanticSegmentation`",
        "segacc": "`segacc`",
        "segacc, 2 processes": "`segacc --processes 2`",
        "accelerate launch": "`accelerate launch -m segacc`",
    }
    least, rows = result["seconds"]["torch and class"]["cpu"], []
    for name, one in result["seconds"].items():
        begun = one.get("begun", one["cpu"])
        after = f"{one['cpu']:.1f}" if "begun" in one else ""
        rows.append([names[name], f"{begun:.1f}", f"{begun / least:.2f}", after])
    return table(["", "until the first step begins", "ratio", "after the first step"], rows)


def scaling(result: dict[str, Any]) -> list[str]:
    """Return the tables of scaling.py."""
    measured = []
    for count, one in result["processes"].items():
        alone = one.get("seconds_without_exchange", one["seconds"])  # one process exchanges nothing
        cells = [f"{one['seconds']:.3f}", f"{alone:.3f}"]
        measured.append([count, *cells, f"{one.get('bytes', 0) / 1e6:.1f}"])
    head = ["processes", "seconds of a step", "without exchange", "MB exchanged in a step"]
    lines, rows = [*table(head, measured), ""], []
    for name, one in result["paper"].items():
        about = [name, f"{one['size'] / 1e6:.0f}", f"{1000 * one['seconds']:.0f}, {one['source']}"]
        for links, found in one["links"].items():
            shares = [f"{found['efficiency'][str(count)]:.0%}" for count in COUNTS]
            rows.append([*about, links, *shares, verdict(found["stops_at"], found["cures"])])
    head = ["network", "MB of gradients", "ms of a step", "links"]
    head += [f"{count:,} GPUs" for count in COUNTS]
    return [*lines, *table([*head, "stops scaling"], rows, words=len(head) + 1)]


def gpu(result: dict[str, Any]) -> list[str]:
    """Return the tables of gpu.py."""
    steps, kernels = [], []
    for case, one in result["cases"].items():
        if "failed" in one:
            steps.append([case.replace(",", ", "), "failed", *[""] * 9])
        elif "segacc" in one:
            ways = [one[way] for way in ("plain", "segacc", "files")]
            cells = [f"{way['images_per_second']:.0f}" for way in ways]
            cells += [f"{way['peak_gib']:.1f}" for way in ways[:2]]
            cells += [f"{way['mfu']:.0%}" if way["mfu"] else "" for way in ways[:2]]
            cells += [f"{one['files']['data_wait']:.0%}", f"{one['ratio']:.2f}"]
            steps.append([case.replace(",", ", "), str(one["batch"]), *cells])
        elif case == "kernels":
            for name, found in one.items():
                parts = [found.get(way) for way in ("plain", "segacc", "compiled")]
                cells = [f"{1000 * part:.2f}" if part else "" for part in parts]
                kernels.append([name, *cells, f"{found['ratio']:.2f}"])
    head = ["", "batch", "images/s: plain", "segacc", "from files", "GiB: plain", "segacc"]
    head += ["MFU: plain", "segacc", "wait for files", "segacc / plain"]
    names = ["", "ms: plain", "segacc", "compiled", "plain / segacc"]
    left = ", ".join(result["left_out"])
    told = f"{result['device']}; {versions(result)}" + (f" Left out: {left}." if left else "")
    return [*table(head, steps), "", *table(names, kernels), "", told]


def workers(result: dict[str, Any]) -> list[str]:
    """Return the table of data.py."""
    names = {
        "tutorial": "Hugging Face tutorial: PIL, ColorJitter, SegformerImageProcessor",
        "worker": "segacc worker: decode, map labels, crop, draw random scale, flip and colours, "
        "collate",
        "device": "plus the device's part, here on the CPU: scale, flip, colours, normalize",
        "worker cached": "segacc worker, samples from `--cache`",
        "device cached": "plus the device's part",
    }
    other = RESULTS / "data-pillow.json"
    found = [result, *([json.loads(other.read_text())] if other.exists() else [])]
    rows = []
    for name, text in names.items():
        figures = [(one["images_per_second"][name], one["ratios"][name]) for one in found]
        rows.append([text, *(cell for a, b in figures for cell in (f"{a:.1f}", f"{b:.2f}"))])
    head = ["", "images/s", "speed-up", "images/s (Pillow)", "speed-up"][: 1 + 2 * len(found)]
    rounds = " and ".join(str(one["rounds"]) for one in found)
    lines = [*table(head, rows), "", f"{rounds} rounds; {versions(result)}"]
    if by_count := result.get("by_workers"):
        cells = [[count, f"{speed:.1f}"] for count, speed in by_count.items()]
        lines += ["", *table(["workers, on all cores", "images/s"], cells)]
    return lines


def arithmetic(result: dict[str, Any]) -> list[str]:
    """Return the table of arithmetic.py: a row for each kernel, a column for each K."""
    kernels: dict[str, dict[int, str]] = {}
    for name, one in result["kernels"].items():
        kernel, classes = name.removesuffix(" classes").rsplit(", ", 1)
        told = f"{one['ratio']:.1f}" + (f", {one['memory']:.0%}" if "memory" in one else "")
        kernels.setdefault(kernel, {})[int(classes)] = told
    counts = sorted({count for found in kernels.values() for count in found})
    rows = [[name, *(one.get(count, "") for count in counts)] for name, one in kernels.items()]
    told = f"Images of {result['size']}x{result['size']}, {result['rounds']} rounds, "
    told += f"{result['threads']} threads; {versions(result)}"
    return [*table(["", *(f"{count} classes" for count in counts)], rows), "", told]


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "data": workers,
    "train": train,
    "evaluate": evaluate,
    "arithmetic": arithmetic,
    "start": start,
    "scaling": scaling,
    "gpu": gpu,
}
"""By the name of the file in benchmarks/results."""


if __name__ == "__main__":
    main()
