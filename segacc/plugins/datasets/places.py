"""The files of a folder by template, such as `images/SPLIT`, in which `folder` finds its layout."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from segacc.data.samples import IMAGE_SUFFIXES, is_hidden
from segacc.plugins.datasets.files import IMAGE_WORDS, LABEL_SUFFIXES, LABEL_WORDS, SPLITS, words
from segacc.plugins.datasets.folder_layout import SPLIT

DEPTH = 5
"""Number of folder levels that are searched."""

Tree = Mapping[str, Sequence[str]]
"""Names of the files in each folder, by the folder's path relative to the root."""

_NAMES = sorted(
    ((name, split) for split, names in SPLITS.items() for name in names),
    key=lambda pair: -len(pair[0]),
)
_JOINED = "annot|label|mask|image|img"


@dataclass(frozen=True)
class Place:
    """The image files in the folders of one template, such as `images/SPLIT`."""

    template: str
    ends: Sequence[str] = LABEL_SUFFIXES
    """Suffixes that labels may have."""
    direct: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Split, or "" without splits -> stem -> the suffixes of its files."""
    nested: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Likewise for the files in subfolders, such as those of cities; stems contain their name."""

    @property
    def stems(self) -> dict[str, dict[str, list[str]]]:
        """Return the files that are read: those in subfolders only of splits without others."""
        return self.direct or {split: some for split, some in self.nested.items() if split}

    @property
    def kind(self) -> str:
        """Return `label`, `image` or "", as the last telling part of the template says."""
        for part in reversed(PurePosixPath(self.template).parts):
            if words(part) & LABEL_WORDS:
                return "label"
            if words(part) & IMAGE_WORDS:
                return "image"
        return ""

    @property
    def option(self) -> str:
        """Return the value of the option `images` or `labels` of `folder`."""
        return self.template.removesuffix(f"/{SPLIT}")


def tree_of(root: Path) -> Tree:
    """List the files of a folder and its subfolders, without hidden ones and run folders."""
    found: dict[str, list[str]] = {}
    for here, folders, files in os.walk(root, followlinks=True):
        name = os.path.relpath(here, root)
        deep = 0 if name == "." else name.count(os.sep) + 1
        inside = [] if deep >= DEPTH or ".segacc_run" in files else sorted(folders)
        folders[:] = [one for one in inside if not is_hidden(one)]
        if ".segacc_run" not in files:
            found[Path(name).as_posix()] = sorted(one for one in files if not is_hidden(one))
    return found


def places_of(
    tree: Tree, ends: Sequence[str] = LABEL_SUFFIXES, *, apart: bool = False
) -> list[Place]:
    """Return the folders of images by template.

    With `apart`, folders of any name beside each other are one place, as one folder for each image.
    """
    places: dict[str, Place] = {}
    for folder, names in tree.items():
        template, split, inner = placed(folder)
        before = f"{inner}/" if inner else ""
        if apart and template == folder != "." and not Place(folder).kind:
            above, _, name = folder.rpartition("/")
            template, before = above or ".", f"{name}/"
        parts = [parts_of(name) for name in names]
        read = {*IMAGE_SUFFIXES, *LABEL_SUFFIXES}
        images = [(stem, end.lower()) for stem, end in parts if end.lower() in read]
        if not images or "/" in inner:
            continue
        place = places.setdefault(template, Place(template, ends))
        stems = (place.nested if inner else place.direct).setdefault(split, {})
        for stem, end in images:
            stems.setdefault(f"{before}{stem}", []).append(end)
    return list(places.values())


def parts_of(name: str) -> tuple[str, str]:
    """Return the stem and the ending of a file name."""
    stem, dot, end = name.rpartition(".")
    return (stem, f".{end}") if dot else (name, "")


def placed(folder: str) -> tuple[str, str, str]:
    """Return the template, the split and the subfolder of a folder.

    `images/train/aachen` is `images/SPLIT`, `train` and `aachen`.
    """
    parts, split = list(PurePosixPath(folder).parts), ""
    for k, part in enumerate(parts):
        if not split:
            parts[k], split = split_in(part)
    known = LABEL_WORDS | IMAGE_WORDS
    telling = [k for k, part in enumerate(parts) if SPLIT in part or words(part) & known]
    last = telling[-1] + 1 if telling else len(parts)
    return "/".join(parts[:last]) or ".", split, "/".join(parts[last:])


@cache
def split_in(part: str) -> tuple[str, str]:
    """Replace the name of a split in a folder's name: `train_masks` is `SPLIT_masks`, train."""
    for name, split in _NAMES:
        ends = rf"(?=$|[^a-z]|(?i:{_JOINED}))"
        if found := re.search(rf"(?<![A-Za-z])(?i:{name}){ends}", part):
            return f"{part[: found.start()]}{SPLIT}{part[found.end() :]}", split
    return part, ""
