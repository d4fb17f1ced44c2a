"""A hook of mkdocs: files beside docs/ that its pages link to are part of the site.

In a page, `../recipes/tutorial.yaml` is a link that works on GitHub. In the site, docs/ is the
root, so the file is added as `recipes/tutorial.yaml` and the link loses its `../`; likewise, links
in CONTRIBUTING.md lose their `docs/`.
"""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
BESIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "accelerate_configs/*.yaml",
    "recipes/*.yaml",
)
"""What pages may link to, as patterns below the root of the repository."""


def on_files(files: Files, *, config: Any) -> Files:
    """Add the files beside docs/."""
    for pattern in BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Change links between docs/ and the files beside it into links within the site."""
    return markdown.replace("](../", "](").replace("](docs/", "](")
