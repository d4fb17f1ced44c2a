"""The conformance kit finds data sets and augmentations that break their promise, and says how."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from refusals import NoOptions, assert_refuses
from segacc.errors import DataError
from segacc.hookspecs import Augmentation, Dataset, DataSplits, Sample
from segacc.labels import LabelMap
from segacc.testing import (
    check_augmentation,
    check_dataset,
)

# ------------------------------------------------------------------------------------- data sets


def encoded(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def picture(name: str, label: int = 1, size: int = 8) -> Sample:
    return Sample(encoded(np.zeros((size, size, 3))), encoded(np.full((8, 8), label)), name)


def dataset(build: Callable[[], list[Sample]], split: str = "train") -> Dataset:
    labels = LabelMap.plain(("road", "tree"))
    return Dataset(
        name="data",
        summary="data",
        options=NoOptions,
        build=lambda options: DataSplits({split: build()}, labels),
    )


def shuffled() -> list[Sample]:
    return [picture(str(number)) for number in torch.randperm(50).tolist()]


def missing() -> list[Sample]:
    raise DataError("the folder is not there")


def test_a_right_dataset() -> None:
    check_dataset(dataset(lambda: [picture("a"), picture("b", 0)]))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: [], "samples in split train; found none."),
        (
            lambda: [picture("a"), picture("a")],
            "one id for each sample of split train; found a twice.",
        ),
        (lambda: [("a", "b")], "segacc.Sample in split train; found tuple."),
        (
            shuffled,
            "split train to be the same, in the same order, when built again; found another "
            "sample at index #: sort the contents of folders and sets, and use seeded "
            "generators only.",
        ),
        (
            lambda: [picture("a", 2)],
            "sample a of split train to decode; found DataError: sample a: label values outside "
            "the 2 classes: 2 (64 pixels). ...",
        ),
        (
            lambda: [picture("a", size=9)],
            "sample a of split train to decode; found DataError: sample a: the label is 8x8 "
            "pixels, its image 9x9 ...",
        ),
        (
            lambda: [picture("a", 255)],
            "some labelled pixels in split train; found ignored ones only.",
        ),
        (
            lambda: [Sample(b"no", b"no", "a")],
            "sample a of split train to decode; found UnreadableError: ...",
        ),
        (missing, "the data set to be built and read; found DataError: the folder is not there."),
    ],
)
def test_a_broken_dataset(build: Callable[[], list[Sample]], text: str) -> None:
    assert_refuses(f"dataset data: expected {text}", check_dataset, dataset(build))


# --------------------------------------------------------------------------------- augmentations


def augmentation(change: Callable[..., Any], **more: Any) -> Augmentation:
    build = lambda options, facts: change  # noqa: E731
    return Augmentation(name="aug", summary="aug", options=NoOptions, build=build, **more)


def noisy(image: Any, label: Any) -> Any:
    noise = torch.randint(-20, 21, image.shape)
    return tv_tensors.Image((image + noise).clamp(0, 255).to(torch.uint8)), label


def image_alone(image: Any, label: Any) -> Any:
    return tv_tensors.Image(image.flip(-1)), label


def shifted(image: Any, label: Any) -> Any:
    return image, tv_tensors.Mask(label.roll(8, 0))


def bilinear(image: Any, label: Any) -> Any:
    size = [side + 9 for side in label.shape]
    label = functional.resize(tv_tensors.Image(label[None]), size)
    return functional.resize(image, size), tv_tensors.Mask(label[0])


def halved(image: Any, label: Any) -> Any:
    size = [max(1, side // 2) for side in label.shape]
    label = functional.resize(tv_tensors.Mask(label[None]), size)
    return functional.resize(image, size), tv_tensors.Mask(label[0])


def halved_image(image: Any, label: Any) -> Any:
    return halved(image, label)[0], label


def floats(image: Any, label: Any) -> Any:
    return tv_tensors.Image(image / 255), label


def bare(image: Any, label: Any) -> Any:
    return image.as_subclass(Tensor), label


def keeps_image(image: Any, label: Any) -> Any:
    return image


def forgets(image: Any, label: Any) -> Any:
    return image, tv_tensors.Mask(label.where(label != 255, 0).to(torch.uint8))


def black(image: Any, label: Any) -> Any:
    return image, tv_tensors.Mask(torch.full_like(label, 255))


def rgb(image: Any, label: Any) -> Any:
    return tv_tensors.Image(image[[2, 1, 0]]), label


def even(image: Any, label: Any) -> Any:
    halves = label.reshape(label.shape[0] // 2, 2, label.shape[1] // 2, 2)
    return image, tv_tensors.Mask(halves.reshape(label.shape))


GENERATOR = np.random.default_rng(0)


def own(image: Any, label: Any) -> Any:
    noise = GENERATOR.integers(0, 9)
    return tv_tensors.Image((image // 2 + noise).to(torch.uint8)), label


RIGHT = {
    "rotation": v2.RandomRotation(45, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
    "resized_crop": v2.RandomResizedCrop((40, 56)),
    "erasing": v2.RandomErasing(p=0.5),
    "gray": v2.RandomGrayscale(p=0.5),
    "invert": v2.RandomInvert(p=0.5),
    "posterize": v2.RandomPosterize(bits=3, p=0.5),
    "solarize": v2.RandomSolarize(threshold=128, p=0.5),
    "blur": v2.GaussianBlur(3),
    "noise": noisy,
    "perspective": v2.RandomPerspective(fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_augmentations(name: str) -> None:
    check_augmentation(augmentation(RIGHT[name]))


returned = (
    "images (1, 120, 150) to be accepted; found PluginError: --aug aug: the augmentation returned"
)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            image_alone,
            "image and label to be transformed together; found that only # % of the pixels still "
            "have the colour of their class, # % in the worst of # images.",
        ),
        (
            shifted,
            "image and label to be transformed together; found that only # % of the pixels still "
            "have the colour of their class, # % in the worst of # images.",
        ),
        (
            bilinear,
            "only label values of the original (0, 1, 2, 255); found #, #, #, # and # more: "
            "resize labels with nearest neighbour, fill with 255.",
        ),
        (
            floats,
            f"{returned} (float32 (1, 120, 150), uint8 (120, 150)); expected an image of uint8 in "
            "0..255, (1, H, W), and its label of uint8, (H, W). This is a bug in its plugin.",
        ),
        (
            bare,
            "a tv_tensors.Image, which the next augmentation needs; found Tensor.",
        ),
        (keeps_image, f"{returned} uint8 (1, 120, 150); expected an image ..."),
        (forgets, "a label that is all ignored (255) to stay all ignored; found 0."),
        (
            black,
            "some images to have labelled pixels left; found labels that are all or almost "
            "all ignored.",
        ),
        (rgb, "images (1, 120, 150) to be accepted; found IndexError: ..."),
        (even, "images (1, 61, 75) to be accepted; found RuntimeError: ..."),
        (
            halved_image,
            f"{returned} (uint8 (1, 60, 75), uint8 (120, 150)); expected an image ...",
        ),
        (
            own,
            "the same result with the same seed of torch, numpy and random; found another one: "
            "use only these generators, and no state of its own.",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_augmentation(change: Callable[..., Any], text: str) -> None:
    assert_refuses(f"augmentation aug: expected {text}", check_augmentation, augmentation(change))


def test_an_augmentation_of_the_device_keeps_the_size() -> None:
    check_augmentation(augmentation(halved))
    found = f"{returned} (uint8 (1, 60, 75), uint8 (60, 75)); expected an image of uint8 in 0..255"
    text = f"augmentation aug: expected {found}, (1, 120, 150), ..."
    assert_refuses(text, check_augmentation, augmentation(halved, on="device"))
