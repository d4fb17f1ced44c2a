"""examples/segacc-albumentations: transforms of Albumentations, with segacc's random numbers."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from cli_tools import TINY, Warm, assert_succeeded
from data_tools import facts
from launches import ROOT
from plugin_tools import pip_install
from segacc.errors import OptionError
from segacc.testing import check_augmentation, check_import, registry_of

pytest_plugins = ["cli_fixtures"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("albumentations") / "site"
    return pip_install(target, ROOT / "examples" / "segacc-albumentations")


@pytest.fixture(scope="module")
def plugin(site: Path) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield importlib.import_module("segacc_albumentations")


@pytest.fixture(scope="module")
def library(plugin: ModuleType) -> Any:
    importlib.import_module("segacc_albumentations.transform")  # it keeps it from asking pypi.org
    return importlib.import_module("albumentations")


def named(plugin: ModuleType, name: str, **kwargs: Any) -> Any:
    return plugin.build(plugin.Options(transform=name, kwargs=kwargs), facts(3))


def from_file(plugin: ModuleType, file: Path) -> Any:
    return plugin.build_file(plugin.FileOptions(file=file), facts(3))


def sample() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 40, 56), generator=generator, dtype=torch.uint8)
    label = torch.randint(3, (40, 56), generator=generator, dtype=torch.uint8)
    return tv_tensors.Image(image), tv_tensors.Mask(label)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("HorizontalFlip", {}),
        ("GridDistortion", {"distort_limit": 0.3}),
        ("ColorJitter", {"p": 1}),
        ("RandomResizedCrop", {"size": [32, 48]}),
        ("Affine", {"rotate": [-30, 30], "p": 1}),
    ],
)
def test_the_kit_accepts_a_transform(plugin: ModuleType, name: str, kwargs: Any) -> None:
    check_import("segacc_albumentations")
    record = registry_of(plugin).find("augmentation", "albumentations", "this test")
    check_augmentation(record, plugin.Options(transform=name, kwargs=kwargs))


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_the_kit_accepts_a_file(
    plugin: ModuleType, library: Any, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / f"pipeline.{kind}"
    choice = library.OneOf([library.Affine(rotate=(-45, 45), p=1), library.GridDistortion(p=1)])
    parts = [library.HorizontalFlip(), choice, library.RandomBrightnessContrast()]
    library.save(library.Compose(parts), file, data_format=kind)
    record = registry_of(plugin).find("augmentation", "albumentations_file", "this test")
    check_augmentation(record, plugin.FileOptions(file=file))


def test_pixels_are_those_of_numpy(plugin: ModuleType) -> None:
    image, label = sample()
    moved, classes = named(plugin, "HorizontalFlip", p=1)(image, label)
    assert torch.equal(moved, image.flip(-1)) and torch.equal(classes, label.flip(-1))
    moved, classes = named(plugin, "InvertImg", p=1)(image, label)
    assert np.array_equal(moved.numpy(), 255 - image.numpy()) and torch.equal(classes, label)


def test_parts_draw_numbers_of_their_own(plugin: ModuleType, library: Any, tmp_path: Path) -> None:
    file = tmp_path / "flips.json"
    library.save(library.Compose([library.HorizontalFlip(), library.VerticalFlip()]), file)
    change, (image, label) = from_file(plugin, file), sample()
    outcomes = [label, label.flip(1), label.flip(0), label.flip(0, 1)]
    seen = []
    for seed in range(64):
        torch.manual_seed(seed)
        found = change(image, label)[1]
        seen.append([torch.equal(found, one) for one in outcomes].index(True))
    counts = np.bincount(seen, minlength=4)
    assert counts.min() > 6, "16 of each are expected; a common seed would flip both or none"


def test_areas_from_outside_are_ignored(plugin: ModuleType, library: Any, tmp_path: Path) -> None:
    image, label = sample()
    padded = {"min_height": 60, "min_width": 60, "position": "top_left"}
    for change, fill in (
        (named(plugin, "PadIfNeeded", **padded), 255),
        (named(plugin, "PadIfNeeded", **padded, fill_mask=0), 0),
    ):
        classes = change(image, label)[1]
        assert torch.equal(classes[:40, :56], label)
        assert (classes[40:] == fill).all() and (classes[:, 56:] == fill).all()
    file = tmp_path / "pad.json"
    library.save(library.Compose([library.PadIfNeeded(**padded)]), file)
    assert (from_file(plugin, file)(image, label)[1][40:] == 255).all()


@pytest.mark.parametrize(
    ("name", "kwargs", "text"),
    [
        (
            "HorizontalFlp",
            {},
            'there is no transform "HorizontalFlp". Did you mean HorizontalFlip?',
        ),
        (
            "BBoxSafeRandomCrop",
            {},
            "BBoxSafeRandomCrop needs bboxes; segacc has only images and labels. Choose a "
            "transform of images and masks.",
        ),
        (
            "RandomCropNearBBox",
            {},
            "RandomCropNearBBox needs cropping_bbox; segacc has only images and labels. Choose a "
            "transform of images and masks.",
        ),
        (
            "HorizontalFlip",
            {"angle": 3},
            "HorizontalFlip cannot be created: UserWarning: Argument(s) 'angle' are not valid for "
            "transform BasicTransform. Its arguments, given as kwargs={name: value}, are p.",
        ),
        (
            "Normalize",
            {},
            "Normalize returns an image (64, 96, 3) float32 and a label (64, 96) uint8; expected "
            "uint8 of one height and width, with 3 channels. segacc itself normalizes images and "
            "makes tensors.",
        ),
        (
            "GridElasticDeform",
            {"num_grid_xy": [4, 4], "magnitude": 9},
            "GridElasticDeform puts the values [0] into a label that did not have them, and not "
            "255, which is ignored. Choose another transform.",
        ),
        (
            "RandomCrop",
            {"height": 9000, "width": 9000},
            "RandomCrop fails for an image (64, 96, 3) uint8 and its label: CropSizeError: Crop "
            "size (height, width) exceeds image dimensions (height, width): (9000, 9000) vs (64, "
            "96).",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    plugin: ModuleType, name: str, kwargs: Any, text: str
) -> None:
    with pytest.raises(OptionError) as error:
        named(plugin, name, **kwargs)
    assert str(error.value) == f"--aug albumentations: {text}"


def test_files_that_do_not_fit_are_refused(
    plugin: ModuleType, library: Any, tmp_path: Path
) -> None:
    file = tmp_path / "pipeline.json"
    for content in ("{", '{"transform": {"__class_fullname__": "os.system", "p": 1}}'):
        file.write_text(content)
        with pytest.raises(OptionError, match=f"{file} cannot be read as json: "):
            from_file(plugin, file)
    file.write_text('{"transform": {"__class_fullname__": "VerticalFlip", "p": 1, "q": 1}}')
    with pytest.raises(OptionError, match=f"{file}: VerticalFlip has no argument q. Remove it"):
        from_file(plugin, file)
    boxes = library.BboxParams("coco", label_fields=["kinds"])
    library.save(library.Compose([library.HorizontalFlip()], bbox_params=boxes), file)
    with pytest.raises(OptionError) as error:
        from_file(plugin, file)
    assert str(error.value) == (
        "--aug albumentations_file: Compose needs boxes or keypoints (its bbox_params, "
        "keypoint_params); segacc has only images and labels. Choose a transform of images and "
        "masks."
    )


def test_the_number_of_workers_does_not_change_a_run(
    warm: Warm, data: Path, site: Path, tmp_path: Path
) -> None:
    more = ("--aug", "random_scale_crop", "--aug", "albumentations:Affine,kwargs={rotate: 30}")
    losses = {}
    for name, workers in (("one", 0), ("two", 2)):
        where = ("--dataset", f"folder:root={data}", "--output-dir", name)
        given = (*TINY[:-1], workers, *where, "--log-every", 1, *more)
        assert_succeeded(warm(*given, cwd=tmp_path, site=site))
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [one["loss"] for one in map(json.loads, lines) if "loss" in one]
    assert len(losses["one"]) == 2
    assert losses["one"] == losses["two"]
