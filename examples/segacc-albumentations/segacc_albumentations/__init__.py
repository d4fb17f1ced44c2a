"""Albumentations for segacc: `--aug albumentations:GridDistortion` and `albumentations_file:FILE`.

Importing this module is cheap: Albumentations, OpenCV and torch are imported where they are needed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc import Augmentation, Facts, hookimpl

if TYPE_CHECKING:
    from segacc_albumentations.transform import Albumentation


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of albumentations."""

    transform: str
    """Name of a class of Albumentations, e.g. `GridDistortion`."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Its arguments, e.g. `kwargs={distort_limit: 0.2, p: 1}`. Most transforms are applied to half
    of the images unless `p` is given."""


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Options of albumentations_file."""

    file: Path
    """File of a transform or a Compose, written by `albumentations.save`: .json, or .yaml."""


def build(options: Options, facts: Facts) -> "Albumentation":
    """Build a transform by its name; see `Albumentation`."""
    from segacc_albumentations.transform import Albumentation, named

    return Albumentation(lambda: named(options, facts), "--aug albumentations", facts)


def build_file(options: FileOptions, facts: Facts) -> "Albumentation":
    """Build the transform of a file; see `Albumentation`."""
    from segacc_albumentations.transform import Albumentation, loaded

    return Albumentation(lambda: loaded(options.file, facts), "--aug albumentations_file", facts)


@hookimpl
def segacc_augmentations() -> list[Augmentation]:
    """Register albumentations and albumentations_file."""
    return [
        Augmentation(
            name="albumentations",
            summary="any transform of Albumentations, as albumentations:GridDistortion",
            options=Options,
            build=build,
        ),
        Augmentation(
            name="albumentations_file",
            summary="a pipeline saved by albumentations.save, as albumentations_file:pipeline.json",
            options=FileOptions,
            build=build_file,
        ),
    ]
