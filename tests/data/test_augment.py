"""The row of augmentations: who runs where, what partners have been through, what a batch gets."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from data_tools import facts
from segacc.data.augment import Pipeline
from segacc.data.order import seeded
from segacc.errors import PluginError
from segacc.hookspecs import Augmentation
from segacc.registry import load_registry


def add(number: int) -> Any:
    """Return a change that adds a number to each pixel."""
    return lambda image, label: (image + number, label)


def average(image: Any, label: Any, another: Any) -> Any:
    """Return the sum of this picture and another, and the other's label."""
    other, beside = another()
    return image + other, beside


class Shift:
    """Add to each picture of a batch what was drawn for it."""

    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        return image.float().mean() + torch.rand(()).round()

    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        return images + drawn[:, None, None, None], labels


def picture(value: int, size: int = 4) -> tuple[Tensor, Tensor]:
    image = torch.full((3, size, size), value, dtype=torch.uint8)
    return image, torch.full((size, size), value, dtype=torch.uint8)


def nobody() -> tuple[Tensor, Tensor]:
    raise AssertionError("nothing here mixes samples")


def test_a_partner_has_been_through_what_stands_before_and_nothing_else() -> None:
    row = Pipeline(((add(1), False), (average, True), (add(10), False)))
    found = row.in_worker(*picture(5), lambda: picture(7))
    assert (int(found.image[0, 0, 0]), int(found.label[0, 0])) == ((5 + 1) + (7 + 1) + 10, 7)
    assert type(found.image) is type(found.label) is Tensor
    assert (found.drawn, found.placement) == ((), None)


def test_two_that_mix_reach_further_samples() -> None:
    fetched = iter(range(1, 10))
    row = Pipeline(((average, True), (average, True)))
    found = row.in_worker(*picture(100), lambda: picture(next(fetched)))
    assert int(found.image[0, 0, 0]) == 100 + 1 + (2 + 3)
    assert next(fetched) == 4


def test_parameters_are_drawn_for_the_picture_as_it_leaves_the_worker() -> None:
    row = Pipeline(((add(3), False),), (Shift(), add(1), Shift()))
    with seeded(0):
        drawn = row.in_worker(*picture(5), nobody).drawn
    with seeded(0):
        again = row.in_worker(*picture(5), nobody).drawn
    assert [one.dtype for one in drawn] == [torch.float32] * 2
    assert {8.0, 9.0} >= {float(one) for one in drawn}
    assert list(map(float, drawn)) == list(map(float, again))


def test_the_device_goes_through_the_row_in_order() -> None:
    row = Pipeline((), (Shift(), lambda image, label: (image * 2, label), Shift()))
    images, labels = (torch.stack(many) for many in zip(picture(5), picture(20), strict=True))
    drawn = [torch.tensor([0.75, 2.25]), torch.tensor([0.5, 0.0])]
    images, labels = row.on_device(images, labels, drawn, [1, 2])
    assert images.dtype == torch.float32 and labels.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == [2 * 6 + 0.5, 2 * 22 + 0.0]  # whole numbers in between
    assert labels[:, 0, 0].tolist() == [5, 20]


def test_without_device_changes_a_batch_stays_as_it_is() -> None:
    images, labels = (one[None] for one in picture(5))
    found = Pipeline().on_device(images, labels, [], [0])
    assert found[0] is images and found[1] is labels


def test_changes_of_single_pictures_draw_by_their_own_seeds() -> None:
    def noise(image: Any, label: Any) -> Any:
        return image + torch.randint(200, image.shape, dtype=torch.uint8), label

    row = Pipeline((), (noise, noise))
    pair = [torch.stack([one] * 3) for one in picture(0)]
    images, _ = row.on_device(*pair, [], [7, 7, 8])
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    alone, _ = row.on_device(*(one[:1] for one in pair), [], [8])
    assert torch.equal(alone[0], images[2])
    single, _ = Pipeline((), (noise,)).on_device(*(one[:1] for one in pair), [], [8])
    assert not torch.equal(alone, single * 2)  # the second draws anew


@pytest.mark.parametrize(("on", "worker", "device"), [("worker", 1, 0), ("device", 0, 1)])
def test_records_say_where_they_run(on: str, worker: int, device: int) -> None:
    fixed: Any = Augmentation(name="a", summary="", options=dict, build=add, on=on)  # type: ignore[arg-type]
    asked = Augmentation(name="b", summary="", options=dict, build=add, on=lambda o: o["on"])
    for record in (fixed, asked):
        row = Pipeline.of([(record, {"on": on}, add(1))])
        assert (len(row.worker), len(row.device)) == (worker, device)


def test_built_in_changes_of_batches_do_not_look_at_the_neighbours() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (3, 3, 33, 47), dtype=torch.uint8)
    labels = torch.randint(4, (3, 33, 47), dtype=torch.uint8)
    checked = 0
    for offer in load_registry().of_kind("augmentation"):
        record, options = offer.record, offer.record.options()
        if (record.on(options) if callable(record.on) else record.on) != "batch":
            continue
        row = Pipeline.of([(record, options, record.build(options, facts()))])
        drawn = [
            [one]
            for one in (
                row.in_worker(*pair, nobody).drawn[0] for pair in zip(images, labels, strict=True)
            )
        ]
        whole, _ = row.on_device(images, labels, [torch.stack([d[0] for d in drawn])], [0] * 3)
        for place in range(3):
            part = slice(place, place + 1)
            alone, _ = row.on_device(images[part], labels[part], [drawn[place][0][None]], [0])
            assert torch.equal(alone[0], whole[place]), record.name
        checked += 1
    assert checked >= 3


def named(change: Any, on: Any = "worker", *, num_classes: int = 20) -> Pipeline:
    record = Augmentation(name="strange", summary="", options=dict, build=add, on=on)
    return Pipeline.of([(record, {}, change)], num_classes=num_classes)


def refused(call: Any, *given: Any) -> str:
    with pytest.raises(PluginError) as error:
        call(*given)
    text = str(error.value)
    assert text.startswith("--aug strange: the augmentation returned ")
    return text.removeprefix("--aug strange: the augmentation returned ")


SINGLE: dict[str, tuple[Any, str]] = {
    "fractions": (lambda i, a: (i / 255, a), "(float32 (3, 4, 4), uint8 (4, 4))"),
    "int64": (lambda i, a: (i.long(), a), "(int64 (3, 4, 4), uint8 (4, 4))"),
    "label dtype": (lambda i, a: (i, a.long()), "(uint8 (3, 4, 4), int64 (4, 4))"),
    "channels": (lambda i, a: (i[:1], a), "(uint8 (1, 4, 4), uint8 (4, 4))"),
    "channels last": (lambda i, a: (i.permute(1, 2, 0), a), "(uint8 (4, 4, 3), uint8 (4, 4))"),
    "a batch": (lambda i, a: (i[None], a[None]), "(uint8 (1, 3, 4, 4), uint8 (1, 4, 4))"),
    "image alone cut": (lambda i, a: (i[:, 1:], a), "(uint8 (3, 3, 4), uint8 (4, 4))"),
    "nothing left": (lambda i, a: (i[:, :0], a[:0]), "(uint8 (3, 0, 4), uint8 (0, 4))"),
    "no pair": (lambda i, a: i, "uint8 (3, 4, 4)"),
    "three": (lambda i, a: (i, a, a), "(uint8 (3, 4, 4), uint8 (4, 4), uint8 (4, 4))"),
    "none": (lambda i, a: None, "NoneType"),
    "arrays": (lambda i, a: (i.numpy(), a), "(ndarray, uint8 (4, 4))"),
}


@pytest.mark.parametrize("case", SINGLE)
def test_what_is_no_sample_is_refused_by_name(case: str) -> None:
    change, found = SINGLE[case]
    expected = "expected an image of uint8 in 0..255, (3, H, W), and its label of uint8, (H, W)."
    fault = " This is a bug in its plugin."
    assert refused(named(change).in_worker, *picture(5), nobody) == f"{found}; {expected}{fault}"
    batch = [torch.stack([one] * 2) for one in picture(5)]
    expected = expected.replace("H, W", "4, 4")
    text = refused(named(change, "device").on_device, *batch, [], [1, 2])
    assert text == f"{found}; {expected}{fault}"


def test_a_crop_that_waits_and_partners_are_looked_at_too() -> None:
    class Crop:
        def __call__(self, image: Any, label: Any) -> Any:
            raise AssertionError("it waits")

        def late_cut(self, image: Any, label: Any) -> Any:
            return image / 255, label, None

    assert refused(named(Crop()).in_worker, *picture(5), nobody).startswith("(float32 (3, 4, 4), ")
    record = Augmentation(name="fine", summary="", options=dict, build=add, partners=True)
    strange = named(lambda image, label: (image, label.float()))
    row = Pipeline(
        (strange.worker[0], (average, True)), names=("strange", record.name), num_classes=20
    )
    assert "float32 (4, 4)" in refused(row.in_worker, *picture(5), lambda: picture(7))


def test_sizes_may_change_in_the_worker_only() -> None:
    def cut(image: Any, label: Any) -> Any:
        return image[..., 1:], label[..., 1:]

    assert named(cut).in_worker(*picture(5), nobody).image.shape == (3, 4, 3)
    batch = [torch.stack([one] * 2) for one in picture(5)]
    text = refused(named(cut, "device").on_device, *batch, [], [1, 2])
    assert text.startswith("(uint8 (3, 4, 3), uint8 (4, 3)); expected an ")


@pytest.mark.parametrize("on", ["worker", "device"])
def test_labels_that_are_no_class_are_refused(on: str) -> None:
    def paint(value: int) -> Any:
        def change(image: Any, label: Any) -> Any:
            label[0, 0] = value
            return image, label

        return named(change, on, num_classes=6)

    def run(row: Pipeline) -> Any:
        image, label = picture(5)
        if on == "worker":
            return row.in_worker(image, label, nobody)
        return row.on_device(image[None], label[None], [], [1])

    for fine in (0, 5, 255):
        run(paint(fine))
    for value in (6, 254):
        assert refused(run, paint(value)) == (
            f"a label with the value {value}; expected classes 0..5 and 255, which is ignored. "
            "This is a bug in its plugin: resize labels with nearest neighbour, fill with 255."
        )


class Batched:
    """Change a batch by a function of its pixels."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        return torch.zeros(1)

    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> Any:
        return self.change(images, labels)


WHOLE: dict[str, tuple[Any, str]] = {
    "fractions": (lambda i, a: (i / 255, a), "images whose values are 0.01961 to 0.01961; "),
    "in place": (lambda i, a: (i.div_(255), a), "images whose values are 0.01961 to 0.01961; "),
    "normalized": (lambda i, a: (i - 99, a), "images whose values are -94 to -94; "),
    "too bright": (lambda i, a: (i * 99, a), "images whose values are 495 to 495; "),
    "nan": (lambda i, a: (i * torch.nan, a), "images whose values are nan to nan; "),
    "half": (
        lambda i, a: (i.half(), a),
        "(float16 (2, 3, 4, 4), uint8 (2, 4, 4)); expected an ",
    ),
    "labels": (lambda i, a: (i, a.long()), "(float32 (2, 3, 4, 4), int64 (2, 4, 4)); "),
    "size": (lambda i, a: (i[..., 1:], a[..., 1:]), "(float32 (2, 3, 4, 3), uint8 (2, 4, 3)); "),
    "fewer": (lambda i, a: (i[1:], a[1:]), "(float32 (1, 3, 4, 4), uint8 (1, 4, 4)); "),
    "images": (
        lambda i, a: i,
        "float32 (2, 3, 4, 4); expected an image of uint8 or float32 in ",
    ),
    "class": (lambda i, a: (i, a + 20), "a label with the value 25; expected classes 0..19 "),
}


@pytest.mark.parametrize("case", WHOLE)
def test_what_is_no_batch_is_refused_by_name(case: str) -> None:
    change, text = WHOLE[case]
    batch = [torch.stack([one] * 2) for one in picture(5)]
    row = named(Batched(change), "batch")
    assert refused(row.on_device, *batch, [torch.zeros(2, 1)], [1, 2]).startswith(text)


def test_black_batches_and_such_as_are_dark_already_are_fine() -> None:
    for factor, value in ((0, 5), (1, 1), (1, 0), (51, 5)):
        row = named(
            Batched(lambda images, labels, factor=factor: (images * factor, labels)), "batch"
        )
        pair = [one[None] for one in picture(value)]
        images, _ = row.on_device(*pair, [torch.zeros(1, 1)], [1])
        assert images.unique().tolist() == [value * factor]


def test_the_next_one_is_given_kinds_that_move_together() -> None:
    seen = []

    def plain(image: Any, label: Any) -> Any:
        return image.flip(-1), label.flip(-1)  # torchvision makes plain tensors of them

    def look(image: Any, label: Any) -> Any:
        seen.extend([type(image), type(label)])
        return image, label

    Pipeline(((plain, False), (look, False))).in_worker(*picture(5), nobody)
    assert seen == [tv_tensors.Image, tv_tensors.Mask]
