"""torchvision's transforms as augmentations: image and label together, or a clear refusal."""

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from augmentation_tools import apply, blocks, build
from data_tools import facts
from segacc.data.order import seeded
from segacc.errors import OptionError
from segacc.plugins.augmentations.transforms_v2 import transform_class
from segacc.registry import choose, load_registry


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("RandomPerspective", {"distortion_scale": 0.4, "p": 1.0}),
        ("RandomHorizontalFlip", {"p": 1.0}),
        ("RandomAffine", {"degrees": 30, "scale": [0.8, 1.2]}),
        ("ElasticTransform", {}),
        ("GaussianBlur", {"kernel_size": 5}),
        ("RandomResizedCrop", {"size": [40, 50]}),
        ("RandomPhotometricDistort", {}),
    ],
)
def test_image_and_label_are_those_of_torchvision(name: str, kwargs: dict[str, object]) -> None:
    image, label = blocks(60, 80)
    change = build("v2", transform=name, kwargs=kwargs)
    out, classes = apply(change, image, label, seed=3)
    with seeded(3):
        torch.rand(())  # the draw of our own p
        wanted = change.transform(tv_tensors.Image(image), tv_tensors.Mask(label))
    assert torch.equal(out, wanted[0]) and torch.equal(classes, wanted[1])
    assert set(classes.unique().tolist()) <= {*label.unique().tolist(), 255}
    assert not (torch.equal(out, image) and torch.equal(classes, label))


def test_areas_from_outside_are_ignored_unless_a_fill_is_given() -> None:
    image, label = blocks(60, 80)
    moved = {"degrees": 0, "translate": [0.5, 0.5]}
    found = apply(build("v2", transform="RandomAffine", kwargs=moved), image, label, seed=1)
    assert (found[1] == 255).any()
    own = build("v2", transform="RandomAffine", kwargs={**moved, "fill": 1})
    assert not (apply(own, image, label, seed=1)[1] == 255).any()


def test_elastic_moves_the_label_with_the_image() -> None:
    image, label = blocks(60, 80)
    out, classes = apply(build("elastic", p=1, alpha=80), image, label, seed=0)
    assert not torch.equal(classes, label)
    kept = classes != 255
    away = (out[0].float() - 10 * classes.float()).abs()[kept]  # bilinear against nearest
    assert (away < 6).float().mean() > 0.85
    still = apply(build("elastic", p=0), image, label, seed=0)
    assert torch.equal(still[0], image) and torch.equal(still[1], label)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("v2:RandomPerspectiv", 'unknown transform "RandomPerspectiv". Did you mean "RandomPersp'),
        ("v2:Normalize,kwargs={mean: [0], std: [1]}", "fails: "),
        ("v2:ToDtype,kwargs={dtype: nonsense}", "fails: "),
        ("v2:RandomCrop", "RandomCrop(size: "),
        ("v2:GaussianBlur,kwargs={kernel: 3}", "unexpected keyword argument 'kernel'. Its argum"),
        ("v2:RandomRotation,kwargs={degrees: 20, fill: 77}", "puts the values [77] into the label"),
        ("v2:ToPILImage", "fails: "),
        ("v2:MixUp,kwargs={num_classes: 3}", "fails: "),
    ],
)
def test_what_is_no_augmentation_is_refused(given: str, told: str) -> None:
    with pytest.raises(OptionError) as caught:
        choose(load_registry(), "augmentation", given, "--aug").build(facts())
    assert str(caught.value).startswith("--aug v2: ") and told in str(caught.value)


def test_every_class_of_torchvision_is_known() -> None:
    assert transform_class("RandomZoomOut") is v2.RandomZoomOut


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"size": (30, 50)}, (30, 50)),
        ({"short_side": 30}, (30, 40)),
        ({"short_side": 90}, (90, 120)),
    ],
)
def test_resize_gives_the_size(options: dict[str, object], size: tuple[int, int]) -> None:
    image, label = blocks(60, 80)
    out, classes = apply(build("resize", **options), image, label, seed=0)
    assert out.shape == (3, *size) and classes.shape == size


def test_resize_needs_one_of_its_options() -> None:
    for given in ("resize", "resize:size=3,short_side=4"):
        with pytest.raises(OptionError, match="needs one of size and short_side"):
            choose(load_registry(), "augmentation", given, "--aug")
