"""Compare the results of two runs of a benchmark, and tell which ratios fell.

    python benchmarks/compare.py OLD.json NEW.json

Times depend on the machine, ratios inside one run hardly do: only numbers under the keys `ratio`,
`ratios` and `of_forward` (more is better), `overhead` and `memory` (less is better) are compared.
Exit code 1 if one of them is worse by more than a tenth.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MORE, LESS = ("ratio", "ratios", "of_forward"), ("overhead", "memory")
ALLOWED = 0.1


def main() -> int:
    """Compare, print, and tell whether a ratio fell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    typed = parser.parse_args()
    old, new = (dict(ratios(json.loads(path.read_text()))) for path in (typed.old, typed.new))
    worse = 0
    for name, (value, more) in new.items():
        if name not in old:
            continue
        before, _ = old[name]
        least, found = (before, value) if more else (value, before)
        fell = found < least * (1 - ALLOWED)
        worse += fell
        print(f"{'WORSE' if fell else '':<6}{before:9.3f} -> {value:9.3f}  {name}")
    missing = sorted(old.keys() - new.keys())
    if missing or not new:
        print(f"not in {typed.new}: {', '.join(missing) or 'any ratio'}")
    return int(worse > 0 or bool(missing) or not new)


def ratios(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[float, bool]]]:
    """Yield each ratio: its path in the file, its value, and whether more is better."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from ratios(value, (*path, key))
    elif isinstance(content, int | float) and not isinstance(content, bool):
        for keys, more in ((MORE, True), (LESS, False)):
            if any(key in keys for key in path):
                yield " / ".join(path), (float(content), more)


if __name__ == "__main__":
    sys.exit(main())
