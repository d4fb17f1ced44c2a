"""Where `folder` finds the images and labels of a split, whoever drew them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from segacc.errors import DataError, did_you_mean
from segacc.hookspecs import Sample
from segacc.plugins.datasets.files import (
    LABEL_SUFFIXES,
    SPLITS,
    expect_labels,
    first_folder,
    listing,
    with_labels,
)

WHERE = "--dataset folder"
SPLIT = "SPLIT"
"""Stands for the name of a split in a template."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where things lie in `root`, and how the names of files differ."""

    root: Path
    images: str
    """A template: the folder of a split's images, relative to `root`, with SPLIT in it."""
    labels: str
    image_suffix: str = ""
    label_suffix: str = ""
    annotator: str | None = None

    def fixed(self, template: str) -> Path:
        """Return the part of a template that is the same for all splits."""
        parts = PurePath(template).parts
        place = next(k for k, part in enumerate(parts) if SPLIT in part)
        return self.root.joinpath(*parts[:place])

    def find(self, template: str, split: str) -> Path | None:
        """Return the folder of a split, in whatever case its names are written."""
        folder: Path | None = self.root
        for part in PurePath(template).parts:
            if folder is None or not folder.is_dir():
                return None
            names = tuple(part.replace(SPLIT, name).lower() for name in SPLITS[split])
            folder = first_folder(folder, names) if SPLIT in part else folder / part
        return folder if folder is not None and folder.is_dir() else None


def template(folder: str) -> str:
    """Let the folders of the splits lie in a folder that does not say where they are."""
    return folder if SPLIT in folder else f"{folder.rstrip('/')}/{SPLIT}"


def is_flat(layout: Layout, images: Path) -> bool:
    """Tell whether all splits' images lie in one folder, which is this."""
    return layout.images.endswith(f"/{SPLIT}") and images == layout.fixed(layout.images)


def label_place(layout: Layout, split: str, images: Path) -> tuple[Path, str]:
    """Find the labels of a split.

    Args:
        layout: where things lie.
        split: as segacc calls it.
        images: folder of its images; labels of images that do not lie in folders for their splits
            need not either.

    Returns:
        The folder, and what follows an image's name in its label's.

    Raises:
        DataError: no folder, or labels of several annotators, or none of the one that is wanted.
    """
    above = layout.fixed(layout.labels)
    folder = layout.find(layout.labels, split)
    if folder is None and is_flat(layout, images) and above.is_dir():
        folder = above
    if layout.annotator is not None:
        return _of_annotator(layout, split, folder)
    if folder is not None and _stems(folder):
        return folder, layout.label_suffix
    if people := _people(layout, split, folder):
        told = " or ".join(f"annotator={one}" for one in people)
        raise DataError(
            f"{WHERE}: {folder or above} has labels of several annotators; choose one with {told}."
        )
    if folder is None and layout.labels.endswith(f"/{SPLIT}"):
        raise DataError(f"{WHERE}: {images} has no folder of labels beside it in {above}.")
    if folder is None:
        raise DataError(
            f"{WHERE}: {images} has no folder of labels {layout.labels} in {layout.root}, where "
            f"SPLIT is {' or '.join(SPLITS[split])}; {above} holds {listing(above)}."
        )
    return folder, layout.label_suffix


def _of_annotator(layout: Layout, split: str, folder: Path | None) -> tuple[Path, str]:
    wanted = layout.annotator or ""
    name, above = (wanted.lower(),), layout.fixed(layout.labels)
    own = first_folder(above, name) if above.is_dir() else None
    place = (folder and first_folder(folder, name)) or (own and first_folder(own, SPLITS[split]))
    if place:
        return place, layout.label_suffix
    ending = f"_{wanted}{layout.label_suffix}"
    stems = _stems(folder) if folder else []
    if folder and any(stem.endswith(ending) for stem in stems):
        return folder, ending
    cut = [stem.removesuffix(layout.label_suffix) for stem in stems]
    ends = {stem.rpartition("_")[2] for stem in cut if "_" in stem}
    known = _people(layout, split, folder) or (sorted(ends) if len(ends) <= 12 else [])
    found = f"Found: {', '.join(known)}." if known else "It has no labels of several annotators."
    raise DataError(
        f"{WHERE}: annotator={wanted}: no labels of that name in {folder or above}. "
        f"{did_you_mean(wanted, known)}{found}"
    )


def _people(layout: Layout, split: str, folder: Path | None) -> list[str]:
    """Name the folders of annotators, which are inside a split's or have splits inside."""
    inside = _folders(folder) if folder else []
    above = _folders(layout.fixed(layout.labels)) if layout.labels.endswith(f"/{SPLIT}") else []
    apart = [one for one in above if first_folder(one, SPLITS[split])]
    return sorted({one.name for one in inside if _stems(one)} | {one.name for one in apart})


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def _stems(folder: Path) -> list[str]:
    """Name the label files of a folder, without what follows the dot."""
    return [
        path.stem
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in LABEL_SUFFIXES and not path.name.startswith(".")
    ]


def labelled(
    layout: Layout, images: Mapping[str, Path], folder: Path, place: tuple[Path, str]
) -> list[Sample]:
    """Give each image its label.

    Args:
        layout: where things lie.
        images: by their names, without the suffix of images.
        folder: of the images, for errors.
        place: of the labels, see `label_place`.

    Raises:
        DataError: two labels of one image, JPEG labels, or no label at all.
    """
    labels, ending = place
    if labels == folder and ending:
        images = {stem: path for stem, path in images.items() if not stem.endswith(ending)}
    samples = with_labels(images, labels, endings=(ending,))
    if not any(isinstance(one.label, Path) and one.label.is_file() for one in samples):
        if ending == "" and (endings := _endings(images, labels)):
            told = " or ".join(f"label_suffix={one}" for one in endings)
            raise DataError(
                f"{WHERE}: the labels in {labels} are not called as the images in {folder}: their "
                f"names go on. Add {told}."
            )
        expect_labels(WHERE, samples)
    return samples


def _endings(images: Mapping[str, Path], labels: Path) -> list[str]:
    """Tell what follows the images' names in those of the labels, of the first images."""
    stems, known = _stems(labels), list(images)[:20]
    found = {stem.removeprefix(name) for name in known for stem in stems if stem.startswith(name)}
    return sorted(end for end in found if end and not end[0].isalnum())[:8]
