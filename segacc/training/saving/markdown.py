"""Text of users and files in Markdown: nothing in it is read as Markdown or as HTML."""

import re
from collections.abc import Sequence

_SPECIAL = re.compile(r"[\\`*\[\]<>&|~$#!]|:(?=//)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def printable(text: str) -> str:
    """Show line breaks and other control characters by their escapes."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode()
        for one in text
    )


def escaped(text: object) -> str:
    """Return a text as one line of Markdown, also inside a table, that shows it as it is."""
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", printable(str(text)))


def fenced(text: str, language: str) -> str:
    """Return a code block; each line of the text is one of the block."""
    lines = [printable(line) for line in text.rstrip("\n").split("\n")]
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *lines, fence])


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: int = 0) -> str:
    """Return a table of escaped texts; the last `numbers` columns are aligned to the right."""
    rules = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    lines = [[escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in ([*head], rules, *lines))


def folded(text: str, summary: str) -> str:
    """Return a text that a page shows only when `summary` is clicked."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"
