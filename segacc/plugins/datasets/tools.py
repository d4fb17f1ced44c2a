"""Recognizes the exports of annotation tools in a folder that was given by its path."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path, PurePosixPath

from segacc.data.samples import IMAGE_SUFFIXES
from segacc.errors import DataError
from segacc.hookspecs import Recognized
from segacc.plugins.datasets.class_lists import LABEL_STUDIO, kind_of_json, kind_of_text
from segacc.plugins.datasets.coco import coco_files
from segacc.plugins.datasets.cvat import cvat_files, split_files, split_of
from segacc.plugins.datasets.files import SPLITS
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
        DataError: a CVAT file is faulty, several of CVAT or Label Studio are for one split, or
            there are files of several tools.
    """
    coco, labelme = coco_files(root, tree), labelme_files(root, tree)
    cvat = cvat_files(root, tree)
    read = {path for files in labelme.values() for path in files}
    others = [one for one in _files(tree, ".json") if root / one not in read]
    studio = sorted(one for one in others if kind_of_json(root / one) == LABEL_STUDIO)
    yolo = _kinds_of_texts(root, tree)
    found: dict[str, object] = {
        f"coco:root={given}": coco,
        f"labelme:root={given}": labelme,
        f"cvat:root={given}": cvat,
        "labelstudio:file=...": studio,
        f"yolo:root={given}": [kind for kind in yolo if kind.startswith("polygons")],  # no boxes
    }
    names = [name for name, files in found.items() if files]
    if len(names) > 1:
        tools = ", ".join(name.partition(":")[0] for name in names)
        raise DataError(
            f"{given}: it has annotations of several tools: {tools}. Choose with "
            f"{' or '.join(f'`--dataset {name}`' for name in names)}."
        )
    if coco:
        return _recognized("coco", coco, root=given)
    if labelme:
        return _recognized("labelme", labelme, root=given)
    if cvat:
        return _cvat(root, cvat, given.rstrip("/"))
    if studio:
        return _label_studio(root, studio, given.rstrip("/"))
    if yolo:
        return _recognized("yolo", folders_of(root, config_of(root)), root=given)
    return None


def _cvat(root: Path, files: list[Path], given: str) -> Recognized:
    """Give the only file by its path, and several by the folder, in which each has its split."""
    from segacc.labels.annotations.cvat import read_cvat

    told = split_files(root, files, given)
    splits = [split_of(subset, own) for file, own in told.items() for subset in read_cvat(file)]
    only = f"{given}/{files[0].relative_to(root).as_posix()}"
    return _recognized("cvat", splits, root=only if len(files) == 1 else given)


def _label_studio(root: Path, files: list[str], given: str) -> Recognized:
    """Give each file to the split that its folders are named after; a single one to train."""
    found = dict[str, str]()
    for path in files:
        folders = PurePosixPath(path).parent.parts if len(files) > 1 else ()
        known = (split for one in folders[::-1] for split in SPLITS if one.lower() in SPLITS[split])
        split = next(known, "train")
        if split in found:
            raise DataError(
                f"{given}: {found[split]} and {path} are both files of Label Studio for the split "
                f"{split}. Give them one by one, as in `--dataset labelstudio:file=A,validation=B`."
            )
        found[split] = path
    if "train" not in found:
        raise DataError(f"{given}: no file of Label Studio is of train: {', '.join(files)}.")
    options = {split.replace("train", "file"): f"{given}/{path}" for split, path in found.items()}
    if (root / "classes.txt").is_file():
        options["names"] = f"{given}/classes.txt"
    return _recognized("labelstudio", found, **options)


def _recognized(name: str, splits: Iterable[str], **options: str) -> Recognized:
    return Recognized(name, options, dict.fromkeys(splits, 0))


def _files(tree: Tree, suffix: str) -> list[str]:
    """Return the paths of the files with an ending, given in lower case."""
    paths = ((PurePosixPath(folder) / name for name in names) for folder, names in tree.items())
    return [path.as_posix() for some in paths for path in some if path.suffix.lower() == suffix]


def _kinds_of_texts(root: Path, tree: Tree) -> set[str]:
    """Return the kinds of text files of numbers, as YOLO's, that images have."""
    from segacc.labels.annotations.yolo import text_of

    there = {root / path for path in _files(tree, ".txt")}
    if not there:
        return set()
    images = (root / path for end in IMAGE_SUFFIXES for path in _files(tree, end))
    texts = (path for image in images if (path := text_of(image)) in there)
    return {kind for path in islice(texts, FEW) if (kind := kind_of_text(path))}
