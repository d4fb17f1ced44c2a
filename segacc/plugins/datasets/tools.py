"""Recognizes the exports of annotation tools in a folder that was given by its path."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path, PurePosixPath

from segacc.data.samples import IMAGE_SUFFIXES
from segacc.hookspecs import Recognized
from segacc.plugins.datasets.class_lists import LABEL_STUDIO, head_of, kind_of_json, kind_of_text
from segacc.plugins.datasets.coco import coco_files
from segacc.plugins.datasets.cvat import split_of
from segacc.plugins.datasets.labelme import labelme_files
from segacc.plugins.datasets.places import Tree
from segacc.plugins.datasets.yolo import config_of, folders_of

FEW = 20
"""Number of images whose text files are looked at."""


def recognize_tool(root: Path, tree: Tree, given: str) -> Recognized | None:
    """Find the files of an annotation tool, without reading all of them.

    Args:
        root: the folder.
        tree: its files.
        given: the folder as the user wrote it.

    Returns:
        The data set and its splits, uncounted; None if there are no such files.

    Raises:
        DataError: a CVAT file is faulty.
    """
    from segacc.labels.annotations.cvat import read_cvat

    if found := coco_files(root, tree):
        return _recognized("coco", found, root=given)
    if labelme := labelme_files(root, tree):
        return _recognized("labelme", labelme, root=given)
    for path in _files(tree, ".xml"):
        if all(sign in head_of(root / path) for sign in ("<annotations>", "<image ")):
            subsets = map(split_of, read_cvat(root / path))
            return _recognized("cvat", subsets, root=f"{given.rstrip('/')}/{path}")
    for path in _files(tree, ".json"):
        if kind_of_json(root / path) == LABEL_STUDIO:
            return _recognized("labelstudio", ["train"], file=f"{given.rstrip('/')}/{path}")
    if _has_polygons(root, tree):
        return _recognized("yolo", folders_of(root, config_of(root)), root=given)
    return None


def _recognized(name: str, splits: Iterable[str], **options: str) -> Recognized:
    return Recognized(name, options, dict.fromkeys(splits, 0))


def _files(tree: Tree, suffix: str) -> list[str]:
    """Return the paths of the files with an ending."""
    paths = ((PurePosixPath(folder) / name for name in names) for folder, names in tree.items())
    return [path.as_posix() for some in paths for path in some if path.suffix == suffix]


def _has_polygons(root: Path, tree: Tree) -> bool:
    """Return whether images have text files of numbers, as YOLO's."""
    from segacc.labels.annotations.yolo import text_of

    images = (root / path for end in IMAGE_SUFFIXES for path in _files(tree, end))
    texts = (path for image in images if (path := text_of(image)).is_file())
    return any(kind_of_text(path) for path in islice(texts, FEW))
