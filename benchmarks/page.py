"""Writes the figures of a benchmark into a page of docs/, between two marks that stay."""

from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"


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
