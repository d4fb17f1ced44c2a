"""The conformance kit on changes of batches and on those that mix: what it says of broken ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from augmentation_tools import RECORDS
from refusals import NoOptions, assert_refuses
from segacc.data.placement import Placement
from segacc.hookspecs import Augmentation
from segacc.settings.options import decode
from segacc.testing import check_augmentation


def augmentation(change: Any, **more: Any) -> Augmentation:
    return Augmentation(
        name="aug", summary="aug", options=NoOptions, build=lambda options, facts: change, **more
    )


# ------------------------------------------------------------------------------------ built-ins

TYPED: list[tuple[str, dict[str, Any]]] = [
    ("color_jitter", {"exact": "true"}),
    ("photometric_distortion", {"exact": "true", "p": 1}),
    ("tf_color", {"exact": "true"}),
    ("grayscale", {"p": 1}),
    ("rotate", {"p": 1, "degrees": 180}),
    ("random_erasing", {"p": 1, "fill": "mean"}),
    ("trivial_augment", {"strength": 0.3}),
    ("cutmix", {"p": 1, "area_max": 1}),
    ("class_mix", {"p": 1}),
    ("mosaic", {"p": 1}),
    ("copy_paste", {"p": 1, "classes": 2}),
    ("rare_class_crop", {"min_pixels": 10}),
]


@pytest.mark.parametrize(("name", "values"), TYPED, ids=[name for name, _ in TYPED])
def test_built_ins_with_options(name: str, values: dict[str, Any]) -> None:
    record = RECORDS[name]
    check_augmentation(record, decode(record.options, values, "test"), num_channels=(3,))


@pytest.mark.parametrize("name", [name for name in RECORDS if RECORDS[name].on != "worker"])
def test_colours_of_six_channels(name: str) -> None:
    check_augmentation(RECORDS[name], num_channels=(6,))


# ------------------------------------------------------------------------------ whole batches


class Fade:
    """Darken each picture by its own factor."""

    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        return 0.5 + torch.rand(1) / 2

    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> Any:
        return images * drawn[:, :, None, None], labels


class FadeTogether(Fade):
    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> Any:
        return images * drawn.mean(), labels


class Brighten(Fade):
    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> Any:
        return images * 2, labels


class Bytes(Fade):
    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> Any:
        return images.byte(), labels


class Halves(Fade):
    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> Any:
        return images[..., ::2], labels[..., ::2]


class Alone(Fade):
    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> Any:
        return images


class Mirror(Fade):
    """Mirror the images of a batch, but not the labels."""

    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> Any:
        return images.flip(-1), labels


class Doubles(Fade):
    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        return super().draw(image, label).double()


class Number(Fade):
    def draw(self, image: Tensor, label: Tensor) -> Any:
        return 0.5


class Longer(Fade):
    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        return torch.ones(1 + int(torch.rand(()) * 9))

    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> Any:
        return images, labels


class Spoils(Fade):
    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        image += 1
        return super().draw(image, label)


class Sees(Fade):
    draws_unseen = True

    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        return torch.rand(1) * image.float().mean() / 255


class Unseen(Fade):
    draws_unseen = True


def test_one_that_draws_unseen_does_not_look() -> None:
    check_augmentation(augmentation(Unseen(), on="batch"))
    with pytest.raises(AssertionError, match="`draws_unseen` declares"):
        check_augmentation(augmentation(Sees(), on="batch"))


def test_a_change_of_batches_passes() -> None:
    check_augmentation(augmentation(Fade(), on="batch"))
    check_augmentation(augmentation(Fade(), on=lambda options: "batch"), num_channels=(1, 3, 4))


batch = "a batch to be accepted; found PluginError: --aug aug: the augmentation returned"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            FadeTogether(),
            "the same result for a sample in a batch as alone, bit for bit; found another "
            "result for sample # of #: use element-wise arithmetic only.",
        ),
        (
            Brighten(),
            f"{batch} images whose values are # to #; expected values in 0..255, like its input. "
            "This is a bug in its plugin.",
        ),
        (
            Bytes(),
            "images to stay float32; found torch.uint8.",
        ),
        (
            Halves(),
            f"{batch} (float32 (3, 1, 37, 27), uint8 (3, 37, 27)); expected an image of uint8 or "
            "float32 in 0..255, (3, 1, 37, 53), and its label of uint8, (3, 37, 53). This is a "
            "bug in its plugin.",
        ),
        (Alone(), f"{batch} float32 (3, 1, 37, 53); expected an image ..."),
        (
            Mirror(),
            "image and label to be transformed together; found that only # % of the pixels still "
            "have the colour of their class, # % in the worst of # images.",
        ),
        (Doubles(), "`draw` to return a float32 tensor; found torch.float64."),
        (Number(), "`draw` to return a float32 tensor; found float."),
        (Longer(), "`draw` to return the same shape for all samples; found ..."),
        (Spoils(), "`draw` not to modify its image and label; found changed ones."),
        (lambda image, label: (image, label), "a BatchChange, which has `draw`; found function."),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_broken_change_of_batches(change: Any, text: str) -> None:
    broken = augmentation(change, on="batch")
    assert_refuses(f"augmentation aug: expected {text}", check_augmentation, broken)


def test_places_are_told_from_the_options() -> None:
    text = "augmentation aug: expected `on` to be one of worker, device, batch; found 'gpu'."
    assert_refuses(text, check_augmentation, augmentation(Fade(), on=lambda options: "gpu"))
    text = "augmentation aug: expected one with partners to run in the worker; found it runs on"
    broken = augmentation(Fade(), on="device", partners=True)
    assert_refuses(f"{text} the device.", check_augmentation, broken)


# -------------------------------------------------------------------------------------- partners


def beside(image: Any, label: Any, another: Callable[[], Any]) -> Any:
    """Put a partner to the right, cut or repeated to the height."""
    other, classes = another()
    other = functional.resize(other, list(label.shape))
    plain = functional.resize(tv_tensors.Mask(classes[None]), list(label.shape))[0]
    return (
        tv_tensors.Image(torch.cat([image, other], -1)),
        tv_tensors.Mask(torch.cat([label, plain], -1)),
    )


def images_only(image: Any, label: Any, another: Callable[[], Any]) -> Any:
    """Mix colours like mixup, but keep one label."""
    other, _ = another()
    return functional.resize(other, list(label.shape)), label


def same_size(image: Any, label: Any, another: Callable[[], Any]) -> Any:
    other, classes = another()
    return tv_tensors.Image(torch.maximum(image, other)), tv_tensors.Mask(classes)


def new_value(image: Any, label: Any, another: Callable[[], Any]) -> Any:
    return image, tv_tensors.Mask(label.where(label == 255, 9))


def test_one_that_mixes_passes() -> None:
    check_augmentation(augmentation(beside, partners=True))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            images_only,
            "image and label to be transformed together; found that only # % of the pixels still "
            "have the colour of their class, # % in the worst of # images.",
        ),
        (same_size, "images (1, 120, 150) to be accepted; found RuntimeError: ..."),
        (
            new_value,
            "only label values of the original (0, 1, 2, 255); found 9: resize labels with "
            "nearest neighbour, fill with 255.",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_one_that_mixes(change: Any, text: str) -> None:
    broken = augmentation(change, partners=True)
    assert_refuses(f"augmentation aug: expected {text}", check_augmentation, broken)


def test_class_shares_are_told_to_those_that_ask() -> None:
    told = []

    def build(options: Any, facts: Any) -> Any:
        told.append(facts.class_shares)
        return lambda image, label: (image, label)

    for wants in (True, False):
        record = Augmentation(
            name="aug", summary="aug", options=NoOptions, build=build, wants_shares=wants
        )
        check_augmentation(record)
        shares = set(told)
        told.clear()
        assert shares == {(0.6, 0.3, 0.1) if wants else None}


# ------------------------------------------------------------------------- left to the device


class Turn:
    """Mirror now and then."""

    def __call__(self, image: Any, label: Any) -> Any:
        if torch.rand(()) < 0.5:
            return image, label
        return functional.horizontal_flip(image), functional.horizontal_flip(label)

    def deferred_flip(self, placement: Placement) -> Placement:
        return placement if torch.rand(()) < 0.5 else placement.mirror(-1)


class TurnElsewhere(Turn):
    def deferred_flip(self, placement: Placement) -> Placement:
        return placement.mirror(-1)


class Half:
    """Take the upper half."""

    def __call__(self, image: Any, label: Any) -> Any:
        rows = label.shape[0] // 2
        return tv_tensors.Image(image[:, :rows]), tv_tensors.Mask(label[:rows])

    def deferred_crop(self, image: Any, label: Any) -> Any:
        image, label = (one.as_subclass(Tensor) for one in Half.__call__(self, image, label))
        size = (label.shape[0], label.shape[1])
        return image, label, Placement(size, size, size)


class OtherHalf(Half):
    def deferred_crop(self, image: Any, label: Any) -> Any:
        image, label, placement = super().deferred_crop(image, label)
        return image, label.flip(0), placement


class DarkHalf(Half):
    """With a call of its own, so that it must not be declared deferrable."""

    def __call__(self, image: Any, label: Any) -> Any:
        image, label = super().__call__(image, label)
        return tv_tensors.Image(image // 2), label


def test_what_is_left_to_the_device_is_what_a_call_gives() -> None:
    check_augmentation(augmentation(Turn(), deferrable="flip"))
    check_augmentation(augmentation(Half(), deferrable="crop"))
    check_augmentation(augmentation(DarkHalf()))


@pytest.mark.parametrize(
    ("change", "kind"), [(TurnElsewhere(), "flip"), (OtherHalf(), "crop"), (DarkHalf(), "crop")]
)
def test_another_sample_on_the_device_is_told(change: Any, kind: Any) -> None:
    expected = f"`deferred_{kind}` and `segacc.data.placement.placed` to give"
    with pytest.raises(AssertionError, match=expected):
        check_augmentation(augmentation(change, deferrable=kind))
